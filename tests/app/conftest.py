"""Shared by the tests of commands: one that begins a run, codes, and the output of `encode --shards`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.runs import TINY, UNREADABLE, command


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


@pytest.fixture(scope="module")
def data(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, one of them unreadable."""
    folder = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("data") / "pictures"))
    (folder / UNREADABLE).write_bytes(b"Dear Anna")
    return folder


@pytest.fixture(scope="module")
def whole(
    request: pytest.FixtureRequest, trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of one undisturbed process, in as many shards as the module's `words` asks for."""
    out = tmp_path_factory.mktemp("whole") / "codes"
    result = command(*request.module.words(trained, data, out))
    assert result.status == 0, result.err
    return out
