"""Fixtures of the tests of bad input: a command that begins a run, and codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import TINY


@pytest.fixture
def new_run(pictures: Path, tmp_path: Path) -> list[object]:
    """The command that begins a run in `tmp_path / "new"`."""
    return ["train", "image", "--data", pictures, "--out", tmp_path / "new", *TINY]


@pytest.fixture(scope="module")
def codes(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes of `pictures`."""
    from smalti.app.commands.encode import encode

    path = tmp_path_factory.mktemp("codes") / "codes.parquet"
    encode(str(trained), str(pictures), path, quiet=True)
    return path
