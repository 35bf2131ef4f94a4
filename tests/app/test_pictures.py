"""Folders of pictures through the commands: one picture, endings that are not read, names that collide."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.app.outputs import output_paths
from smalti.data.sources.listing import left_out
from smalti.modalities.image import pixels
from smalti.modalities.image.modality import ImageConfig
from tests.runs import TINY, Result, smooth


def test_one_picture_trains_as_the_error_says(tmp_path: Path, smalti: Callable[..., Result]) -> None:
    data, run = tmp_path / "one", tmp_path / "run"
    data.mkdir()
    smooth(np.random.default_rng(0)).save(data / "a.avif")
    words = ("train", "image", "--data", data, "--out", run, *TINY, "training.steps=1")
    refused = smalti(*words)
    assert refused.status == 2
    advice = "validation_fraction=0"
    assert advice in refused.err
    assert smalti(*words, advice).status == 0


@pytest.mark.parametrize("names", [["a.avif", "a.png"], ["a.png", "a.avif"]])
def test_each_name_keeps_its_stem(tmp_path: Path, names: list[str]) -> None:
    targets = output_paths(tmp_path, ["comparison.png", *names, "b.gif"], ".png")
    written = dict(zip(names, (target.name for target in targets[1:3]), strict=True))
    assert written == {"a.avif": "a.avif.png", "a.png": "a.png"}
    assert [targets[0].name, targets[3].name] == ["comparison.png", "b.png"]


def test_files_left_out_are_counted_by_ending() -> None:
    assert left_out([]) == []
    (text,) = left_out(["a.txt", "b.TXT", "c.svg", "README"])
    assert text == "4 files were left out (2 .txt, 1 .svg, 1 without an ending), such as a.txt"
    (text,) = left_out([f"x.{letter}" for letter in "abcdefg"])
    assert "1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 2 others" in text


def test_floats_without_a_negative_value_are_reported_once() -> None:
    pixels._warn_of_unit_range.cache_clear()
    modality = ImageConfig.tiny().build()
    unit = torch.rand(1, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"\[0, 1\]"):
        modality.check(unit)
    pixels._warn_of_unit_range.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modality.check(unit * 2 - 1)
        modality.check((unit * 255).to(torch.uint8))
        modality.check(Image.new("RGB", (8, 8), "white"))


def test_evaluate_compares_with_lossless_files(
    run: Path, pictures: Path, smalti: Callable[..., Result]
) -> None:
    report = json.loads(smalti("evaluate", run, "--data", pictures, "--json").out)
    num_bits = 0
    for file in pictures.rglob("*.png"):
        buffer = io.BytesIO()
        with Image.open(file) as image:
            image.save(buffer, "PNG", optimize=True)
        num_bits += 8 * len(buffer.getvalue())
    assert report["lossless_bits_per_dim"]["PNG"] == pytest.approx(num_bits / (40 * 3 * 16 * 16))
    shown = smalti("evaluate", run, "--data", pictures)
    assert "PNG (files)" in shown.out
    # WebP beats a model of ten steps on smooth pictures.
    assert (
        report["lossless_bits_per_dim"]["WebP lossless"] < report["bits_per_dim"]["learned"]["bits_per_dim"]
    )
    assert "fewer bits" in " ".join(shown.out.split())
