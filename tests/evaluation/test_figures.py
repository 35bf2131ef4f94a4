"""Figures are written as pictures with something on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.evaluation.figures import code_maps, learning_curves, usage_histogram

pytestmark = pytest.mark.usefixtures("drawn_figures")


def pixels(path: Path) -> np.ndarray:
    """The picture, which must be a PNG and not of one colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        values = np.asarray(image.convert("RGB"))
    assert min(values.shape[:2]) > 50
    assert len(np.unique(values)) > 10
    return values


METRICS = [
    {"split": "train", "step": 10, "loss": 3.0},
    {"split": "train", "step": 20, "loss": 2.0, "usage": 0.5},
    {"split": "validation", "step": 20, "loss": 2.5},
]


@pytest.mark.parametrize("present", [1, 2])
def test_learning_curves_draw_the_metrics_that_there_are(tmp_path, present):
    path = tmp_path / "new" / "curves.png"
    names = {"loss": "loss", "absent": "never logged"} | ({"usage": "codes used"} if present == 2 else {})
    learning_curves(METRICS, names, path)
    alone = tmp_path / "one.png"
    learning_curves(METRICS, {"loss": "loss"}, alone)
    assert pixels(path).shape[1] == pytest.approx(present * pixels(alone).shape[1], rel=0.01)


def test_many_learning_curves_are_wrapped(tmp_path):
    names = {f"m{index}": f"metric {index}" for index in range(5)}
    lines = [{"split": "train", "step": step, **dict.fromkeys(names, step)} for step in (1, 2)]
    for count in (3, 5):
        learning_curves(lines, dict([*names.items()][:count]), tmp_path / f"{count}.png")
    height, width, _ = pixels(tmp_path / "3.png").shape
    assert pixels(tmp_path / "5.png").shape[:2] == (2 * height, width)


def test_learning_curves_of_nothing(tmp_path):
    learning_curves([], {"loss": "loss"}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("counts", [[[5, 0, 1, 9]], [[1, 2, 3], [0, 0, 0]]])
def test_usage_histogram(tmp_path, counts):
    usage_histogram(torch.tensor(counts), tmp_path / "usage.png")
    usage_histogram(torch.ones_like(torch.tensor(counts)), tmp_path / "even.png")
    assert not np.array_equal(pixels(tmp_path / "usage.png"), pixels(tmp_path / "even.png"))


def test_bars_of_usage_are_equally_wide(tmp_path):
    usage_histogram(torch.tensor([[1, 6, 4, 2]]), tmp_path / "usage.png")
    red, green, blue = np.moveaxis(pixels(tmp_path / "usage.png").astype(int), 2, 0)
    is_bar = (blue - red > 20) & (green > red)
    widths = is_bar.sum(1)
    steps = [
        int(np.median(widths[widths > 0][abs(widths[widths > 0] - one) < 12]))
        for one in widths.max() * np.arange(1, 5) / 4
    ]
    np.testing.assert_allclose(steps, widths.max() * np.arange(1, 5) / 4, rtol=0.03)


@pytest.mark.parametrize("grid", [(9,), (4, 6), (5, 4, 6)], ids=str)
def test_code_maps_show_the_codes(tmp_path, grid):
    codes = torch.randint(16, (3, 2, *grid), generator=torch.Generator().manual_seed(0))
    changed = codes.clone()
    changed[0, 0] = (changed[0, 0] + 5) % 16
    code_maps(codes, 16, tmp_path / "one.png")
    code_maps(changed, 16, tmp_path / "other.png")
    assert (pixels(tmp_path / "one.png") != pixels(tmp_path / "other.png")).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_code_maps_under_their_originals(tmp_path, channels):
    originals = torch.randint(256, (2, channels, 16, 24), dtype=torch.uint8)
    codes = torch.randint(16, (2, 1, 4, 6))
    code_maps(codes, 16, tmp_path / "maps.png", originals)
    code_maps(codes, 16, tmp_path / "alone.png")
    assert pixels(tmp_path / "maps.png").shape[0] > 1.5 * pixels(tmp_path / "alone.png").shape[0]
