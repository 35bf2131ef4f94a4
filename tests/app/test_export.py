"""`smalti export`: ONNX, torch.export and transformers' format, and the model card."""

import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

import smalti
from smalti.app.commands.export import export
from smalti.core.errors import InputError
from smalti.models.onnx import save_onnx
from tests.voices import SPEAKERS, voices


def onnx(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, {name: np.asarray(value) for name, value in inputs.items()})[0]


@pytest.fixture(scope="module")
def evaluated(trained, pictures, tmp_path_factory):
    """A copy of the run, evaluated on data that it was trained on."""
    from smalti.app.commands.evaluate import evaluate

    path = tmp_path_factory.mktemp("evaluated") / "mine"
    shutil.copytree(trained, path)
    evaluate(str(path), str(pictures), quiet=True)
    return path


@pytest.fixture(scope="module")
def exported(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "exported"
    export(str(evaluated), out, ["onnx", "torch", "transformers"], "mit", quiet=True)
    return out


@torch.no_grad()
def test_onnx_files_compute_what_the_model_does_at_any_size(exported, trained):
    model = smalti.load(trained).autoencoder
    encode, decode = onnx(exported / "encode.onnx"), onnx(exported / "decode.onnx")
    for shape in ((1, 3, 16, 16), (5, 3, 24, 40)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        codes = model.encode(x)
        assert np.array_equal(encode(signal=x), codes)
        np.testing.assert_allclose(decode(codes=codes), model.decode(codes), atol=1e-5)


@torch.no_grad()
def test_programs_compute_what_the_model_does_at_any_size(exported, trained):
    model = smalti.load(trained).autoencoder
    encode, decode = (torch.export.load(exported / f"{name}.pt2").module() for name in ("encode", "decode"))
    x = torch.rand(5, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.encode(x)
    assert torch.equal(encode(x), codes)
    torch.testing.assert_close(decode(codes), model.decode(codes))


def test_the_folder_is_a_model_with_its_priors(exported, trained):
    tokenizer = smalti.load(exported)
    assert tokenizer.fingerprint == smalti.load(trained).fingerprint
    assert tokenizer.learned is not None


def test_the_card_says_what_is_known(exported, pictures):
    card = (exported / "README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: smalti" in front
    assert "license: mit" in front
    assert "- image" in front
    assert "codes out of 16" in card
    assert "cat, dog" in card
    assert "Data: pictures (" in card
    assert str(pictures) not in card, "the location of the data is private"
    assert "| learned |" in card
    assert re.search(r"40 items, of which the model was trained on 3\d\.", card)
    assert "psnr" in card
    for name in ("reconstructions_evaluation.png", "codes.png"):
        assert f"]({name})" in card
        assert (exported / name).is_file()


def test_the_card_of_a_run_that_was_not_evaluated(trained, tmp_path, smalti):
    done = smalti("export", trained, "--transformers", "--out", tmp_path / "out")
    assert done.status == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "These weights were not evaluated" in card
    assert "license" not in card
    assert "onnx" not in card


def test_the_command_can_be_repeated(exported, evaluated):
    before = sorted(path.name for path in exported.iterdir())
    export(str(evaluated), exported, ["torch", "transformers"], "mit", quiet=True)
    assert sorted(path.name for path in exported.iterdir()) == before


def test_mistakes_get_a_sentence(trained, run, tmp_path, smalti):
    done = smalti("export", trained, "--out", tmp_path / "out")
    assert done.status == 2
    assert "add --onnx, --torch or --transformers" in done.err
    assert not (tmp_path / "out").exists()
    done = smalti("export", trained, "--torch", "--out", run)
    assert done.status == 2
    assert "holds a training run" in done.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("# My project\n")
    done = smalti("export", trained, "--torch", "--out", tmp_path / "mine")
    assert done.status == 2
    assert "expected no other README.md" in done.err
    assert (tmp_path / "mine" / "README.md").read_text() == "# My project\n"


def test_a_decoder_that_draws_sample_by_sample_has_no_graph(spoken, tmp_path, smalti):
    done = smalti("export", spoken.path, "--onnx", "--out", tmp_path / "out")
    assert done.status == 2
    assert "draws sample by sample" in done.err


@torch.no_grad()
def test_speakers_are_an_input_of_decode(tmp_path):
    tokenizer = voices()
    model = tokenizer.autoencoder
    assert save_onnx(model, tmp_path)
    x = torch.rand(3, 1, 1600, generator=torch.Generator().manual_seed(0)) - 0.5
    codes = model.encode(x)
    assert np.array_equal(onnx(tmp_path / "encode.onnx")(signal=x), codes)
    label = torch.tensor([0, 1, -1])
    said = onnx(tmp_path / "decode.onnx")(codes=codes, label=label)
    for row, name in enumerate((*SPEAKERS, None)):
        alone = tokenizer.decode_signals(codes[row : row + 1], class_name=name)
        np.testing.assert_allclose(said[row : row + 1], alone, atol=1e-3)


def test_a_difference_is_noticed(tmp_path, monkeypatch):
    """By a model whose decoder computes something else while it is exported."""
    model = voices().autoencoder
    decode = type(model).decode

    def other(self, *arguments, **settings):
        made = decode(self, *arguments, **settings)
        return made + 0.01 if torch.compiler.is_exporting() else made

    monkeypatch.setattr(type(model), "decode", other)
    with pytest.raises(InputError, match=r"values differ by up to 0\.01"):
        save_onnx(model, tmp_path)
    assert not (tmp_path / "decode.onnx").exists()
