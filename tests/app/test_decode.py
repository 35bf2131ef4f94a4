"""`smalti decode` decodes items together, and writes what it would write one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.app.commands import decode as command
from smalti.tokenizer import Tokenizer
from tests.runs import Result, digests

Smalti = Callable[..., Result]


@pytest.fixture
def codes(trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti) -> Path:
    path = tmp_path / "codes.parquet"
    assert smalti("encode", trained, "--data", pictures, "--out", path, "--quiet").status == 0
    return path


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of items of each call of the decoder."""
    seen: list[int] = []
    real = Tokenizer.decode_signals

    def decode_signals(self: Tokenizer, codes: torch.Tensor, **settings: object) -> torch.Tensor:
        seen.append(len(codes))
        return real(self, codes, **settings)

    monkeypatch.setattr(Tokenizer, "decode_signals", decode_signals)
    return seen


def test_items_are_decoded_together(
    trained: Path, codes: Path, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.decode(str(trained), codes, tmp_path / "together", quiet=True) == 40
    assert sizes == [40]
    monkeypatch.setattr(command, "BATCH", 1)
    command.decode(str(trained), codes, tmp_path / "alone", quiet=True)
    assert sizes[1:] == [1] * 40

    files = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.png")]
    assert len(files) == 40
    for file in files:
        alone, together = (np.asarray(Image.open(tmp_path / n / file), int) for n in ("alone", "together"))
        # A sum of floats may end on the other side of a rounding boundary.
        assert np.abs(alone - together).max() <= 1


def test_a_batch_is_bounded_by_the_size_of_its_signals(
    trained: Path, codes: Path, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "BATCH_VALUES", 16 * 3 * 16 * 16 + 1)
    command.decode(str(trained), codes, tmp_path / "out", quiet=True)
    assert sizes == [16, 16, 8]


def test_a_repeated_command_decodes_only_batches_with_missing_files(
    trained: Path, codes: Path, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "BATCH", 10)
    out = tmp_path / "out"
    command.decode(str(trained), codes, out, quiet=True)
    before = digests(out)
    sizes.clear()
    files = sorted(out.rglob("*.png"))
    for file in (files[0], files[1]):
        file.unlink()
    command.decode(str(trained), codes, out, quiet=True)
    assert sum(sizes) < 40
    assert digests(out) == before


def test_a_file_that_cannot_be_written_ends_the_command(
    trained: Path, codes: Path, tmp_path: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smalti.modalities.image.modality import ImageModality

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageModality, "save", full)
    result = smalti("decode", trained, codes, "--out", tmp_path / "out", "--quiet")
    assert result.status == 2
    assert "disk is full" in result.err
    assert not list((tmp_path / "out").rglob("*.png"))
