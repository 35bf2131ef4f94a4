"""A folder of 200 files of every kind, 5 of them broken, through every verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from tests import forked
from tests.runs import TINY, TINY_PRIOR, Result, smooth

BROKEN = ("cut.png", "cat/cut.jpg", "cat/empty.png", "trips/2019/letter.jpg", "page.webp")
ROTATED = 6


def save(rng: np.random.Generator, path: Path, kind: int) -> Path:
    """One picture of a kind, in any size; gives the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = smooth(rng, *(int(side) for side in rng.integers(5, 60, 2)))
    match kind:
        case 0:
            return written(picture, path.with_suffix(".png"))
        case 1:
            return written(picture, path.with_suffix(".jpg"), quality=90)
        case 2:
            return written(picture, path.with_suffix(".webp"))
        case 3:
            return written(picture.convert("L"), path.with_suffix(".png"))
        case 4:
            return written(picture.quantize(8), path.with_suffix(".PNG"))
        case 5:
            picture.putalpha(Image.fromarray(rng.integers(0, 256, picture.size[::-1], dtype=np.uint8)))
            return written(picture, path.with_suffix(".png"))
        case 6:
            deep = rng.integers(0, 65536, picture.size[::-1], dtype=np.uint16)
            return written(Image.fromarray(deep), path.with_suffix(".png"))
        case _:
            exif = Image.Exif()
            exif[0x0112] = ROTATED
            return written(picture, path.with_suffix(".jpeg"), exif=exif)


def written(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat, in class folders and nested, all in one; several files share all of their name but the ending."""
    folder = tmp_path_factory.mktemp("mixed") / "pictures"
    rng = np.random.default_rng(1)
    for index in range(195):
        place = ("", "cat", "dog", "trips/2019")[index % 4]
        save(
            rng,
            folder / place / f"{index // 8:03d}" if index < 16 else folder / place / f"p{index}",
            index % 8,
        )
    whole_png, whole_jpg = folder / "whole.png", folder / "whole.jpg"
    smooth(rng, 64, 64).save(whole_png)
    smooth(rng, 64, 64).save(whole_jpg)
    png, jpg = whole_png.read_bytes(), whole_jpg.read_bytes()
    whole_png.unlink()
    whole_jpg.unlink()
    contents = (png[: len(png) // 2], jpg[: len(jpg) // 2], b"", b"Dear Anna,\n", b"<html>404</html>")
    for name, content in zip(BROKEN, contents, strict=True):
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("not a picture, and does not look like one")
    assert sum(1 for path in folder.rglob("*.*") if path.is_file()) == 201
    return folder


@pytest.fixture(scope="module")
def mixed_run(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run trained on `mixed` by a process of its own, and what that printed."""
    path = tmp_path_factory.mktemp("runs") / "mixed"
    printed = forked.run("-m", "smalti", "train", "image", "--data", mixed, "--out", path, *TINY)
    from smalti.app.commands.train_prior import train_prior

    train_prior(path, TINY_PRIOR, quiet=True)
    return path, printed


def assert_names_the_broken(text: str) -> None:
    assert "5 unreadable files were skipped" in text
    for name in BROKEN:
        assert f"{name}: " in text, name


def test_training_reads_195_and_names_5(mixed_run: tuple[Path, str]) -> None:
    path, printed = mixed_run
    assert_names_the_broken(printed)
    assert "185 items" in printed  # 10 of 195 are held out
    assert "1 file was left out (1 .txt), such as notes.txt" in printed
    index = json.loads((path / "data" / "index.json").read_text())
    assert index["count"] == 195
    assert {entry["name"] for entry in index["skipped"]} == set(BROKEN)


def test_encode_then_decode_loses_no_file(
    mixed: Path, mixed_run: tuple[Path, str], smalti: Callable[..., Result], tmp_path: Path
) -> None:
    path, _ = mixed_run
    codes, out = tmp_path / "codes.parquet", tmp_path / "decoded"
    result = smalti("encode", path, "--data", mixed, "--out", codes)
    assert result.status == 0
    assert_names_the_broken(result.err)

    table = pq.read_table(codes)
    readable = {str(p.relative_to(mixed)) for p in mixed.rglob("*.*") if p.is_file()} - {*BROKEN, "notes.txt"}
    assert table.num_rows == 195
    assert set(table["name"].to_pylist()) == readable
    rows = Dataset.from_parquet(str(codes), cache_dir=str(tmp_path / "cache"))
    assert {len(row) for row in rows["codes"]} == {16}
    assert all(0 <= code < 16 for row in rows["codes"] for code in row)

    assert smalti("decode", path, codes, "--out", out).status == 0
    files = [file for file in out.rglob("[!.]*") if file.is_file()]
    assert len(files) == 195
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (16, 16)
    assert (out / "trips" / "2019").is_dir()


def test_sample_and_reconstruct(
    mixed: Path, mixed_run: tuple[Path, str], smalti: Callable[..., Result], tmp_path: Path
) -> None:
    path, _ = mixed_run
    assert smalti("sample", path, "--num", 3, "--out", tmp_path / "samples").status == 0
    assert len(list((tmp_path / "samples").glob("0*.png"))) == 3
    files = [mixed / "dog" / "p18.webp", mixed / "p20.PNG", mixed / "page.webp"]
    result = smalti("reconstruct", path, *files, "--out", tmp_path / "again")
    assert result.status == 0
    assert "page.webp: " in result.err
    assert {file.name for file in (tmp_path / "again").glob("[!.]*")} == {
        "p18.png",
        "p20.png",
        "comparison.png",
    }


def test_evaluate_measures_195_and_says_how(
    mixed: Path, mixed_run: tuple[Path, str], smalti: Callable[..., Result]
) -> None:
    path, _ = mixed_run
    result = smalti("evaluate", path, "--data", mixed, "--json")
    assert result.status == 0
    assert_names_the_broken(result.err)
    report = json.loads(result.out)
    assert report == json.loads((path / "evaluation.json").read_text())
    assert report["num"] == 195
    assert {entry["name"] for entry in report["skipped"]} == set(BROKEN)
    # A folder with pictures outside of its class folders has no classes.
    assert list(report["bits_per_dim"]) == ["uniform", "unigram", "learned"]
    for row in report["bits_per_dim"].values():
        assert row["rate"] + row["distortion"] == pytest.approx(row["bits_per_dim"], rel=1e-6)
        assert row["rate"] > 0
    # 16 codes out of 16 for 768 values: the uniform rate is known exactly.
    assert report["bits_per_dim"]["uniform"]["rate"] == pytest.approx(16 * 4 / 768, rel=1e-5)
    protocol = report["protocol"]
    assert protocol["data crop"] == "centre"
    assert protocol["data filter"] == "lanczos"
    assert protocol["data range"] == "[-1.0, 1.0]"
    assert protocol["data levels"] == "256"
    assert report["title"] == "VQ-VAE, ema codebook"
