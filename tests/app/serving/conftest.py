"""Models of each medium that a page serves: tiny runs, and models of the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import videos
from tests.runs import TINY_WALKS, TINY_WALKS_PRIOR, command

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'smalti[page]'")


@pytest.fixture(scope="package")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of clips with actions, with its prior."""
    data, path = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "walks"
    videos.save_episodes(data / "train.parquet", videos.random_walks(12, 8))
    assert command("train", "walks", "--data", data, "--out", path, *TINY_WALKS).status == 0
    assert command("train-prior", path, *TINY_WALKS_PRIOR, "--quiet").status == 0
    return path


@pytest.fixture(scope="package")
def models(walks: Path, trained: Path) -> Mapping[str, object]:
    """Served models, by name: `fashion-mnist`, `spoken-digits`, `trained` and `walks`."""
    from smalti.app.serving.models import load_models

    return load_models(["fashion-mnist", "spoken-digits", str(trained), str(walks)])
