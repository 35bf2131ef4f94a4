"""Training on crops of pictures, and evaluation of the middle or of whole pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import smalti
from smalti.core.conditions import Batch
from smalti.data.crops import CropLoader
from smalti.data.store import Store
from smalti.modalities.image.modality import ImageConfig
from smalti.tokenizer import Tokenizer
from tests.runs import TINY, TINY_PRIOR, Result, command, digests, smooth

Smalti = Callable[..., Result]
CROPS = ["data.crop=random", "data.resize=20", "data.flip=true"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data") / "photographs", np.random.default_rng(2)
    folder.mkdir()
    for index in range(12):
        smooth(rng, *(int(side) for side in rng.integers(9, 70, 2))).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def cropped(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cropped"
    result = command("train", "image", "--data", photographs, "--out", run, *TINY, *CROPS)
    assert result.status == 0, result.err
    return run


def test_the_store_holds_pictures_of_the_working_size(cropped: Path, photographs: Path) -> None:
    store = Store.open(cropped / "data")
    assert store.shape == (3, None, None)
    assert store.open_sides.min(axis=1).tolist() == [20] * 12
    name = store.names[0]
    width, height = Image.open(photographs / name).size
    assert store.open_sides[0].max() == round(20 * max(width, height) / min(width, height))


def test_a_killed_run_resumes_bit_for_bit(
    cropped: Path, photographs: Path, smalti: Smalti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "image", "--data", photographs, "--out", tmp_path / "run", *TINY, *CROPS]
    batch = CropLoader.batch

    def killed(self: CropLoader, step: int, *ranks: int) -> Batch:
        if step == 7:
            raise KeyboardInterrupt
        return batch(self, step, *ranks)

    with monkeypatch.context() as patch:
        patch.setattr(CropLoader, "batch", killed)
        assert smalti(*words).status != 0
    assert smalti(*words).status == 0
    weights = "model.safetensors"
    assert digests(tmp_path / "run")[weights] == digests(cropped)[weights]


def test_all_commands_use_the_middle(
    cropped: Path, photographs: Path, smalti: Smalti, tmp_path: Path
) -> None:
    tokenizer = smalti_of(cropped)
    scaled = Image.open(photographs / "3.png")
    whole = tokenizer.modality.for_training().decode(scaled)
    top, left = ((side - 16) // 2 for side in whole.shape[1:])
    np.testing.assert_array_equal(
        tokenizer.modality.decode(scaled), whole[:, top : top + 16, left : left + 16]
    )
    result = smalti("evaluate", cropped, "--data", photographs, "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert "the middle 16x16" in report["measured"]
    assert report["num_trained_on"] == 11
    assert smalti("train-prior", cropped, *TINY_PRIOR, "--name", "small", "--quiet").status == 0
    assert Store.open(cropped / "codes").shape == (1, 4, 4)
    assert smalti("diagnose", cropped, "--out", tmp_path / "diagnosis").status == 0


def smalti_of(run: Path) -> smalti.Tokenizer:
    return smalti.load(run, "cpu")


def test_evaluation_of_whole_pictures(cropped: Path, photographs: Path, smalti: Smalti) -> None:
    result = smalti("evaluate", cropped, "--data", photographs, "--size", "native", "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert "own size" in report["measured"]
    assert report["num_trained_on"] is None
    assert [*report["bits_per_dim"]] == ["uniform", "unigram"]
    tokenizer = smalti_of(cropped).native()
    files = sorted(photographs.glob("*.png"))
    values = []
    for file, again in zip(files, tokenizer.reconstruct(files), strict=True):
        original = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
        values.append(-10 * np.log10(np.square(original - again[0].numpy() / 255).mean()))
    # The figure is that of reconstructions before they are rounded to levels.
    assert report["reconstruction"]["psnr"] == pytest.approx(np.mean(values), abs=0.01)


@pytest.mark.parametrize("options", [("--size", "native", "--files")])
def test_native_size_has_no_files(
    cropped: Path, photographs: Path, smalti: Smalti, options: tuple[str, ...]
) -> None:
    assert smalti("evaluate", cropped, "--data", photographs, *options).status == 2


@pytest.mark.parametrize("settings", [{"resize": 20}, {"crop": "random", "resize": 0}, {"crop": "left"}])
def test_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageConfig.model_validate(settings)


def test_a_prior_learns_mirror_images_too(smalti, pictures, tmp_path):
    run, settings = tmp_path / "run", ("data.flip=true", "validation_fraction=0.2", "--quiet")
    assert smalti("train", "image", "--data", pictures, "--out", run, *TINY, *settings).status == 0
    result = smalti("train-prior", run, *TINY_PRIOR)
    assert result.status == 0, result
    images, codes, tokenizer = (
        Store.open(run / "data"),
        Store.open(run / "codes"),
        Tokenizer.from_pretrained(run),
    )
    assert codes.count == 2 * images.count
    both = np.concatenate([images.signals, images.signals[..., ::-1]])
    assert np.array_equal(codes.signals, tokenizer.encode(torch.from_numpy(both)).numpy())
    assert len(images.classes) > 1
    assert codes.labels.tolist() == 2 * images.labels.tolist()
    # Of 40 pictures, 8 are held out, and so are their mirror images.
    assert "64 items" in result.err
    assert smalti("train-prior", run, *TINY_PRIOR, "--quiet").status == 0, "the store is found again"


def test_a_prior_learns_the_middle_of_pictures_and_its_mirror_image(
    cropped: Path, smalti: Smalti, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(cropped, run)
    assert smalti("train-prior", run, *TINY_PRIOR, "--quiet").status == 0
    codes, tokenizer = Store.open(run / "codes"), Tokenizer.from_pretrained(run)
    assert codes.count == 24
    stored = Store.open(run / "data").item(0)
    top, left = ((side - 16) // 2 for side in stored.shape[1:])
    middle = torch.from_numpy(stored[None, :, top : top + 16, left : left + 16].copy())
    own, mirrored = (codes.item(index) for index in (0, 12))
    assert np.array_equal(own, tokenizer.encode(middle)[0].numpy())
    assert np.array_equal(mirrored, tokenizer.encode(middle.flip(3))[0].numpy())


def test_a_prior_begun_without_mirror_images_goes_on_without_them(smalti, run):
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["data"]["flip"] = True
    (run / "config.json").write_text(json.dumps(config))
    before = digests(run / "prior")
    assert smalti("train-prior", run, *TINY_PRIOR, "--quiet").status == 0
    assert digests(run / "prior") == before
    assert Store.open(run / "codes").count == 40
    assert smalti("train-prior", run, *TINY_PRIOR, "--name", "second", "--quiet").status == 0
    assert Store.open(run / "codes").count == 80
    longer = smalti("train-prior", run, *TINY_PRIOR, "training.steps=12")
    assert longer.status == 0, longer
    assert "expected" not in longer.err
    assert "80 items" not in longer.err
