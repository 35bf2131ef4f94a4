"""Tokenizers as models of the package transformers."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

import smalti
from smalti.app.recipes.arrays import array
from smalti.core.errors import InputError
from smalti.recipe import Recipe
from smalti.trained import TrainedModel
from tests.voices import voices

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "exported"
    smalti.load(trained).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(exported):
    return transformers.AutoModel.from_pretrained(exported)


def pictures(num=3, height=16, width=16):
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_has_the_codes_and_pixels_of_the_tokenizer(model, trained):
    tokenizer, x = smalti.load(trained), pictures()
    codes = model.encode(x).image_codes
    assert torch.equal(codes, tokenizer.encode(x))
    assert torch.equal(model.decode(codes).pixel_values, tokenizer.decode_signals(codes))
    assert torch.equal(model(x).pixel_values, model.decode(codes).pixel_values)


def test_without_a_dict_it_returns_tuples(model):
    x = pictures()
    (codes,) = model.encode(x, return_dict=False)
    assert torch.equal(codes, model.encode(x).image_codes)
    (values,) = model.decode(codes, return_dict=False)
    assert torch.equal(values, model.decode(codes).pixel_values)
    assert torch.equal(model(x, return_dict=False)[0], values)


def test_it_takes_clips_of_other_sizes(tmp_path):
    data, config = smalti.VideoConfig(channels=3, size=(16, 16), frames=4), smalti.VQVAEConfig.tiny()
    recipe = Recipe(name="clips-of-a-test", data=data, model=config)
    trained = TrainedModel(tmp_path, recipe, config.build(data.build().spec).eval(), (), None, {}, {})
    smalti.Tokenizer(trained).save_pretrained(tmp_path / "clips")
    model = transformers.AutoModel.from_pretrained(tmp_path / "clips")
    for size in ((4, 16, 16), (8, 16, 16), (4, 24, 18)):
        x = torch.rand(2, 3, *size) * 2 - 1
        assert model(x).pixel_values.shape == x.shape


def test_it_takes_pictures_of_other_sizes(model):
    x = pictures(2, 21, 30)
    assert model.encode(x).image_codes.shape == (2, 1, 6, 8)
    assert model(x).pixel_values.shape == x.shape


def test_its_config_is_known_before_the_model_is(exported):
    lines = [
        "import sys, smalti",
        "assert 'transformers' not in sys.modules",
        "from transformers import AutoConfig",
        f"print(type(AutoConfig.from_pretrained({str(exported)!r})).__name__)",
        "from transformers import AutoModel",
        f"print(type(AutoModel.from_pretrained({str(exported)!r})).__name__)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split() == ["SmaltiConfig", "SmaltiModel"]


def test_it_saves_what_it_and_smalti_load(model, exported, tmp_path):
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "smalti"
    assert smalti.load(tmp_path / "again").fingerprint == smalti.load(exported).fingerprint
    x = pictures()
    again = transformers.AutoModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again.encode(x).image_codes, model.encode(x).image_codes)


def test_a_config_alone_is_no_model(exported):
    config = transformers.AutoConfig.from_pretrained(exported)
    with pytest.raises(InputError, match="use from_pretrained"):
        transformers.AutoModel.from_config(config)


def test_a_model_is_not_divided_among_devices(exported):
    with pytest.raises(InputError, match="one device"):
        transformers.AutoModel.from_pretrained(exported, device_map={"encoder": "cpu", "decoder": "cpu"})


def test_labels_are_checked(model):
    codes = model.encode(pictures()).image_codes
    with pytest.raises(InputError, match="one label for each of 3 items"):
        model.decode(codes, labels=torch.tensor([0]))
    with pytest.raises(InputError, match="from -1 to 1, received 2"):
        model.decode(codes, labels=torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="not class-conditional"):
        model.decode(codes, labels=torch.tensor([0, 1, 0]))


def test_padded_recordings_have_the_codes_of_single_ones(tmp_path):
    tokenizer = voices()
    tokenizer.save_pretrained(tmp_path / "sounds")
    model = transformers.AutoModel.from_pretrained(tmp_path / "sounds")
    assert isinstance(model, transformers.modeling_utils.PreTrainedAudioTokenizerBase)
    waves = torch.rand(2, 1, 1200, generator=torch.Generator().manual_seed(0)) - 0.5
    mask = torch.ones(2, 1200)
    mask[1, 500:] = 0
    made = model.encode(waves, padding_mask=mask)
    assert all(map(torch.equal, model.encode(waves, mask, return_dict=False), made.values()))
    for row, length in enumerate((1200, 500)):
        (alone,) = tokenizer.encode(waves[row, :, :length])
        here = made.audio_codes_mask[row].bool()
        assert torch.equal(made.audio_codes[row, :, here], alone[0])
    assert model(waves).audio_values.shape == waves.shape
    values = model.decode(made.audio_codes, labels=torch.tensor([1, -1])).audio_values
    assert torch.equal(values[0], tokenizer.decode(made.audio_codes[:1], class_name="ben")[0])
    assert torch.equal(values[1], tokenizer.decode(made.audio_codes[1:])[0])
    assert not torch.equal(values[0], model.decode(made.audio_codes).audio_values[0])


@pytest.mark.parametrize(
    "lines",
    [
        ["from smalti.auto_model import SmaltiModel"],
        ["import transformers", "from smalti.auto_model import SmaltiModel"],
        ["import smalti.auto_config"],
    ],
)
def test_its_modules_can_be_imported_first(lines, exported):
    lines = [
        *lines,
        "from transformers import AutoModel",
        f"print(type(AutoModel.from_pretrained({str(exported)!r})).__name__)",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["SmaltiModel"], done.stderr


def test_a_registration_that_fails_is_a_warning(monkeypatch):
    from smalti import _register, auto_model

    def refuse():
        raise ImportError("no such class")

    monkeypatch.setattr(auto_model, "register", refuse)
    with pytest.warns(UserWarning, match="needs version 5 or newer: no such class"):
        _register("auto_model")


def test_padding_masks_that_do_not_fit_are_refused(tmp_path):
    voices().save_pretrained(tmp_path / "sounds")
    model = transformers.AutoModel.from_pretrained(tmp_path / "sounds")
    waves = torch.zeros(2, 1, 1200)
    before = torch.ones(2, 1200)
    before[0, :700] = 0
    with pytest.raises(InputError, match="padding after each recording"):
        model.encode(waves, padding_mask=before)
    with pytest.raises(InputError, match=r"shape \(2, 1200\), received \(1, 1200\)"):
        model.encode(waves, padding_mask=torch.ones(1, 1200))


def test_other_media_have_no_class():
    trained = dataclasses.replace(voices().trained, recipe=array())
    assert trained.model_type is None
    assert voices().trained.model_type == "smalti-audio"
