"""The masked prior and guidance through the commands: training, sampling, completing a picture, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.data.codes import read_codes
from smalti.tokenizer import load
from tests.runs import TRAINING, Result

Smalti = Callable[..., Result]
Mistake = Callable[..., str]


@pytest.fixture
def masked(run: Path, smalti: Smalti) -> Path:
    """A run with a masked prior of that name."""
    sizes = ["kind=masked", "channels=8", "layers=1", "heads=2", "rounds=3", *TRAINING]
    result = smalti("train-prior", run, "--name", "masked", *sizes, "--quiet")
    assert result.status == 0, result.err
    return run


def test_from_training_to_a_completed_picture(
    masked: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    words = ["sample", masked, "--prior", "masked", "--num", 3, "--quiet", "--out"]
    assert smalti(*words, tmp_path / "new", "--class", "cat", "--guidance", 2).status == 0
    assert len(list((tmp_path / "new").glob("0*.png"))) == 3

    tokenizer = load(masked, "cpu")
    picture = pictures / "cat" / "000.png"
    codes = tokenizer.encode(picture)
    rows, columns = codes.shape[2:]
    # Three times as wide as high, so that its middle third is what the model sees.
    mask = np.zeros((10 * rows, 30 * columns), np.uint8)
    mask[:, : 10 * columns + 10 * (columns // 2)] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for prior in ("masked", "learned"):
        out = tmp_path / f"completed_{prior}"
        words[3] = prior
        for _ in range(2):  # the same command again changes nothing
            done = smalti(*words, out, "--input", picture, "--keep", tmp_path / "mask.png")
            assert done.status == 0, done.err
        told = smalti(
            "sample",
            masked,
            "--prior",
            prior,
            "--num",
            1,
            "--out",
            tmp_path / f"told_{prior}",
            "--input",
            picture,
            "--keep",
            tmp_path / "mask.png",
        ).err
        assert ("before it only" in " ".join(told.split())) == (prior == "learned")
        rows_of = [torch.tensor(batch) for _, batch, *_ in read_codes(out / "codes.parquet")[1]]
        drawn = torch.cat(rows_of).view(-1, *codes.shape[1:])
        assert len(drawn) == 3
        assert (drawn[..., : columns // 2] == codes[..., : columns // 2]).all()
        assert not torch.equal(drawn[0], drawn[1])


def test_settings_that_do_not_fit(masked: Path, pictures: Path, tmp_path: Path, mistake: Mistake) -> None:
    words = ["sample", masked, "--prior", "masked", "--out", tmp_path / "out"]
    picture, text = pictures / "cat" / "000.png", tmp_path / "mask.txt"
    text.write_text("no picture")
    assert "--keep" in mistake(*words, "--input", picture)
    assert "--input" in mistake(*words, "--keep", picture)
    assert "mask.txt" in mistake(*words, "--input", picture, "--keep", text)
    assert "nothing.png" in mistake(*words, "--input", picture, "--keep", tmp_path / "nothing.png")
    assert "--length" in mistake(*words, "--input", picture, "--keep", picture, "--length", 4)
    assert "class" in mistake(*words, "--guidance", 2)
    unigram = [*words[:3], "unigram", *words[4:], "--input", picture, "--keep", picture]
    assert "masked" in mistake(*unigram)
    assert not list(tmp_path.glob("out/*.png"))


def test_guidance_of_the_learned_prior(trained: Path, tmp_path: Path, smalti: Smalti) -> None:
    words = ["sample", trained, "--num", 2, "--class", "cat", "--quiet", "--out"]
    assert smalti(*words, tmp_path / "plain").status == 0
    assert smalti(*words, tmp_path / "guided", "--guidance", 3).status == 0
    assert smalti(*words, tmp_path / "plain", "--guidance", 3).status == 2
