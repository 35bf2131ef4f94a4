"""`compress` and `decompress`: files come back exactly, or in part, and mistakes are one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti.app.commands.compress import compress
from smalti.app.commands.evaluate_files import measure_files
from smalti.coding.archive import Archive
from smalti.core.errors import InputError
from smalti.core.parts import Likelihood
from smalti.data.store import Store
from smalti.likelihoods.logistic_mixture import LogisticMixture
from smalti.tokenizer import Tokenizer
from tests.runs import Result, digests

Smalti = Callable[..., Result]


@pytest.fixture(scope="module")
def exact(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless archive of the pictures, under the learned prior."""
    path = tmp_path_factory.mktemp("archives") / "exact.sma"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalti.coding.codec.BLOCK", 16)
        compress(str(trained), str(pictures), path, lossless=True, quiet=True)
    return path


def test_every_pixel_comes_back(
    trained: Path, pictures: Path, exact: Path, tmp_path: Path, smalti: Smalti
) -> None:
    result = smalti("decompress", trained, exact, "--out", tmp_path / "out", "--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    files = sorted(pictures.rglob("*.png"))
    assert len(files) == 40
    for file in files:
        restored = Image.open(tmp_path / "out" / file.relative_to(pictures))
        assert np.array_equal(np.asarray(restored), np.asarray(Image.open(file)))
    assert len(list((tmp_path / "out").rglob("*.png"))) == 40


def test_the_sizes_are_told(trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti) -> None:
    path = tmp_path / "a.sma"
    options = ["--lossless", "--prior", "unigram"]
    result = smalti("compress", trained, "--data", pictures, "--out", path, *options)
    assert result.status == 0, result.err
    text = " ".join(result.err.split())
    assert f"{path.stat().st_size:,} bytes" in text
    share = 100 * path.stat().st_size / (40 * 768)
    assert float(re.search(r"([\d.e+]+) % of", text).group(1)) == pytest.approx(share, rel=0.01)
    size, bound = re.search(r"([\d.]+) bits/dim \(the bound of the prior unigram: ([\d.]+)\)", text).groups()
    assert float(size) == pytest.approx(8 * path.stat().st_size / (40 * 768), abs=1e-4)
    assert float(bound) < float(size) < 1.1 * float(bound)


def test_all_unreadable_files_are_named(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    folder, path = tmp_path / "pictures", tmp_path / "a.sma"
    folder.mkdir()
    shutil.copy(pictures / "cat" / "000.png", folder)
    for index in range(11):
        (folder / f"broken{index}.png").write_text("no picture")
    result = smalti("compress", trained, "--data", folder, "--out", path, "--prior", "uniform", "--quiet")
    assert result.status == 0
    assert all(f"broken{index}.png" in result.err for index in range(11))
    assert "index.json" not in result.err
    with Archive(path) as archive:
        assert archive.names == ["000.png"]


def test_codes_alone_are_decoded_to_the_mean(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    path = tmp_path / "a.sma"
    assert smalti("compress", trained, "--data", pictures, "--out", path, "--quiet").status == 0
    assert smalti("decompress", trained, path, "--out", tmp_path / "out", "--quiet").status == 0
    tokenizer = Tokenizer.from_pretrained(trained, "cpu")
    file = pictures / "cat" / "000.png"
    expected = tokenizer.reconstruct(file)[0].permute(1, 2, 0).numpy()
    difference = expected.astype(int) - np.asarray(Image.open(tmp_path / "out" / "cat" / "000.png"))
    assert abs(difference).max() <= 1
    with Archive(path) as archive:
        assert (archive.info.prior, archive.info.lossless) == ("learned", False)


def test_some_items_and_then_the_others(trained: Path, exact: Path, tmp_path: Path, smalti: Smalti) -> None:
    out = tmp_path / "out"
    words = ["decompress", trained, exact, "--out", out, "--quiet"]
    assert smalti(*words, "--items", "cat/002.png,dog/001.png").status == 0
    assert set(digests(out)) == {"cat/002.png", "dog/001.png"}
    before = (out / "cat" / "002.png").stat().st_mtime_ns
    assert smalti(*words).status == 0
    assert len(digests(out)) == 40
    assert (out / "cat" / "002.png").stat().st_mtime_ns == before


def test_damage_is_one_sentence(
    trained: Path, exact: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    content = exact.read_bytes()
    path = tmp_path / "a.sma"
    for place in (3, 40, len(content) // 2, len(content) - 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert str(path) in mistake("decompress", trained, path, "--out", tmp_path / "out")
    path.write_bytes(content[:-1])
    assert str(path) in mistake("decompress", trained, path, "--out", tmp_path / "out")


def test_mistakes_are_one_sentence(
    trained: Path, run: Path, pictures: Path, exact: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    compressing = ["compress", trained, "--data", pictures, "--out"]
    assert ".sma" in mistake(*compressing, tmp_path / "a.zip")
    assert "exists" in mistake(*compressing, exact)
    assert "learned" in mistake(*compressing, tmp_path / "a.sma", "--prior", "learnd")
    mistake("decompress", trained, exact, "--out", tmp_path / "out", "--items", "cat/01.png")
    assert "directory" in mistake("decompress", trained, exact, "--out", tmp_path / "out.png")
    shutil.rmtree(run / "prior")
    assert "learned" in mistake("decompress", run, exact, "--out", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob("*.sma"))


@pytest.mark.filterwarnings("ignore:the weights of the model were changed")
def test_the_weights_of_another_model_are_refused(
    run: Path, exact: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    tokenizer = Tokenizer.from_pretrained(run, "cpu", load_priors=True)
    next(tokenizer.autoencoder.parameters()).data.mul_(1.001)
    tokenizer.save_pretrained(tmp_path / "other")
    assert "model" in mistake("decompress", tmp_path / "other", exact, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluate_says_the_real_size_beside_the_bound(run: Path, pictures: Path, smalti: Smalti) -> None:
    words = ["evaluate", run, "--data", pictures, "--files"]
    report = json.loads(smalti(*words, "--json").out)
    files, rows = report["files"], report["bits_per_dim"]
    best = min((name for name in rows), key=lambda name: rows[name]["bits_per_dim"])
    assert files["prior"] == best
    assert files["bound"] == rows[best]["bits_per_dim"]
    dims = 40 * 768
    assert files["bits_per_dim"] == pytest.approx(8 * files["bytes"] / dims)
    # The header of so few pictures is not yet a small part.
    assert 8 * (files["bytes"] - 1500) / dims < files["bound"] < files["bits_per_dim"]
    assert "files" in report["protocol"]
    shown = " ".join(smalti(*words).out.split())
    assert f"{files['bytes']:,} bytes" in shown


def test_files_that_cannot_be_written_are_refused_before_the_evaluation(
    trained: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr(LogisticMixture, "code", Likelihood.code)
    monkeypatch.setattr("smalti.app.commands.evaluate.prepare", read)
    assert "LogisticMixture" in mistake("evaluate", trained, "--data", pictures, "--files")


def test_files_of_continuous_data_are_refused(trained: Path, tmp_path: Path) -> None:
    density: Any = {"uniform": {"nats_per_dim": 1.0, "rate": 0.5, "distortion": 0.5, "stderr": None}}
    tokenizer, store = Tokenizer.from_pretrained(trained, "cpu"), Store.open(trained / "data")
    with pytest.raises(InputError, match="levels"):
        measure_files(tokenizer, store, density, tmp_path, True)
