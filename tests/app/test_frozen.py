"""`smalti train --from RUN --freeze codes`: another decoder for the same codes, and what may not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import smalti
from smalti.trained import load_trained
from tests.runs import TINY, TINY_PRIOR, TRAINING, WIDTHS, Result, command

TWO_STEPS = "training.steps=2"
DEEPER = ("decoder.residual_blocks=1", "likelihood.components=3")


def frozen(run: Path, pictures: Path, start: Path | str, *settings: object) -> Result:
    words = ["--from", start, "--freeze", "codes", *TINY, TWO_STEPS, *settings]
    return command("train", "image", "--data", pictures, "--out", run, *words)


@pytest.fixture
def deeper(trained: Path, pictures: Path, tmp_path: Path) -> Path:
    """A run with the codes of `trained`, and another decoder."""
    run = tmp_path / "deeper"
    result = frozen(run, pictures, trained, *DEEPER)
    assert result.status == 0, result.err
    assert "do not fit the decoder: it begins with random weights" in result.err
    return run


def test_a_decoder_with_other_settings_has_the_same_codes(deeper: Path, trained: Path, codes: Path) -> None:
    old, new = (load_file(each / "model.safetensors") for each in (trained, deeper))
    kept = [name for name in old if not name.startswith(("decoder.", "family."))]
    assert kept
    assert all(old[name].equal(new[name]) for name in kept)
    assert not old["decoder.first.weight"].equal(new["decoder.first.weight"])
    assert command("decode", deeper, codes, "--out", deeper.parent / "decoded").status == 0


def test_it_takes_the_prior_of_the_same_codes(deeper: Path, trained: Path) -> None:
    shutil.copytree(trained / "prior", deeper / "prior")
    before, after = (load_trained(each).learned["learned"] for each in (trained, deeper))
    assert all(map(torch.equal, before.parameters(), after.parameters()))
    result = command("train-prior", deeper, *TINY_PRIOR, "training.steps=12")
    assert result.status == 0, result.err


def test_a_longer_run_knows_its_earlier_states(deeper: Path, trained: Path, pictures: Path) -> None:
    result = command("train-prior", deeper, *TINY_PRIOR)
    assert result.status == 0, result.err
    earlier = load_trained(deeper).fingerprint
    longer = frozen(deeper, pictures, trained, *DEEPER, "training.steps=4")
    assert longer.status == 0, longer.err
    assert "random weights" not in longer.err
    after = load_trained(deeper)
    assert after.fingerprint != earlier
    assert set(after.same_codes) == {load_trained(trained).fingerprint, earlier}
    assert "learned" in after.learned


def test_weights_in_bfloat16_have_the_codes_of_their_values(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    load_trained(trained).rounded(torch.bfloat16).save(tmp_path / "half", torch.bfloat16)
    assert frozen(tmp_path / "run", pictures, tmp_path / "half").status == 0
    shutil.copytree(tmp_path / "half" / "prior", tmp_path / "run" / "prior")
    loaded = load_trained(tmp_path / "run")
    assert loaded.same_codes == (load_trained(tmp_path / "half").fingerprint,)
    assert "learned" in loaded.learned


@pytest.mark.parametrize(
    "setting",
    ["model.quantizer.normalize=codes", "encoder.residual_blocks=1", "num_codes=32", "model.kind=vae"],
)
def test_settings_on_which_codes_depend_are_kept(
    setting: str, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    words = [word for word in TINY if "num_codes" not in word and "code_dim" not in word]
    settings = [*words, setting] if "vae" in setting else [*TINY, setting]
    options = ["--from", trained, "--freeze", "codes", *settings]
    result = command("train", "image", "--data", pictures, "--out", tmp_path / "no", *options)
    assert result.status == 2
    assert "on which the codes of" in result.err
    assert setting.split(".")[-1].split("=")[0] in result.err
    assert not (tmp_path / "no").exists()


def test_arrays_keep_the_mean_and_scale_of_their_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, scale, offset in (("one", 1, 0), ("other", 50, 100)):
        (tmp_path / name).mkdir()
        for index in range(8):
            values = scale * rng.standard_normal((1, 32)) + offset
            np.save(tmp_path / name / f"{index}.npy", values.astype(np.float32))
    words = [*WIDTHS, "data.length=32", "num_codes=16", "code_dim=4", *TRAINING, TWO_STEPS]
    first, second = tmp_path / "first", tmp_path / "second"
    data = ("--data", tmp_path / "one", "--out", first)
    assert command("train", "array", *data, *words).status == 0
    data = ("--data", tmp_path / "other", "--out", second, "--from", first, "--freeze", "codes")
    result = command("train", "array", *data, *words)
    assert result.status == 0, result.err
    kept = [json.loads((run / "config.json").read_text())["recipe"]["data"] for run in (first, second)]
    assert kept[0]["mean"] == kept[1]["mean"]
    values = [np.load(file) for file in sorted((tmp_path / "one").glob("*.npy"))]
    before, after = (smalti.load(run).encode(values) for run in (first, second))
    assert all(map(torch.equal, before, after))
    shifted = (*data[:3], tmp_path / "third", *data[4:], *words, "data.mean=100")
    refused = command("train", "array", *shifted)
    assert refused.status == 2
    assert "data.mean" in refused.err


def test_a_prior_of_other_classes_is_refused(trained: Path, pictures: Path, tmp_path: Path) -> None:
    for index, folder in enumerate(sorted(each for each in pictures.iterdir() if each.is_dir())):
        shutil.copytree(folder, tmp_path / "renamed" / f"other{index}")
    run = tmp_path / "run"
    assert frozen(run, tmp_path / "renamed", trained).status == 0
    shutil.copytree(trained / "prior", run / "prior")
    result = command("sample", run, "--num", "1", "--out", tmp_path / "samples")
    assert result.status == 2
    assert "expected a prior of the ids other0, other1" in result.err
    resumed = command("train-prior", run, *TINY_PRIOR, "training.steps=12")
    assert resumed.status == 2
    assert "expected a prior of the ids other0, other1" in resumed.err
    shutil.rmtree(run / "prior")
    begun = command("train-prior", run, "--from", trained, *TINY_PRIOR)
    assert begun.status == 0, begun.err
    assert "trained with other ids: label" in begun.err
    # Without names nothing is known of its classes, except in its own run.
    config = json.loads((run / "prior" / "config.json").read_text())
    del config["names"]
    (run / "prior" / "config.json").write_text(json.dumps(config))
    assert "learned" in load_trained(run).learned
    shutil.rmtree(run / "prior")
    shutil.copytree(trained / "prior", run / "prior")
    config = json.loads((run / "prior" / "config.json").read_text())
    (run / "prior" / "config.json").write_text(json.dumps({**config, "names": None}))
    result = command("sample", run, "--num", "1", "--out", tmp_path / "samples")
    assert result.status == 2
    assert "expected a prior that names its ids of label" in result.err


@pytest.mark.parametrize("views", [0, 7, "x", True])
def test_a_number_of_views_that_cannot_be(views: object, run: Path) -> None:
    config = json.loads((run / "prior" / "config.json").read_text())
    (run / "prior" / "config.json").write_text(json.dumps({**config, "views": views}))
    result = command("train-prior", run, *TINY_PRIOR, "training.steps=12")
    assert result.status == 2
    assert "expected a number of views from 1 to 1" in result.err
