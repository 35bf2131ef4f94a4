"""A tiny trained run, made once, the command line as a function, and double precision."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tests.checked import begin_test, checked
from tests.runs import TINY, TINY_PRIOR, Result, digests, smooth

SOURCE = Path(__file__).parents[1] / "src" / "smalti"
COMPILED = ("kernels/products.py", "kernels/sampling.py")
# numba's cache knows of a change in a loop's own file, and of none in what the loop is made with.
_STATE = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in COMPILED)).hexdigest()[:12]
os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"smalti-loops-{_STATE}")

# Before smalti is imported, whose modules look it up.
jaxtyping.jaxtyped = checked

pytest_plugins = ["tests.speech_runs"]

# A busy machine is no failure: no test is timed.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


SLOW_FIRST = (
    "test_docs.py",
    "test_graphs.py",
    "test_reproduce.py",
    "test_resume.py",
    "test_several_processes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in SLOW_FIRST)


def pytest_runtest_setup() -> None:
    """Each test has every function checked anew."""
    begin_test()


def _save_blank(figure: Figure, path: Path, *, dpi: float) -> None:
    """Save a white picture of the size that `Figure.savefig` gives it."""
    width, height = (int(inches * dpi) for inches in figure.get_size_inches())
    Image.new("RGB", (width, height), "white").save(path, "PNG")


@pytest.fixture(scope="session", autouse=True)
def draw() -> Iterator[Callable[..., None]]:
    """Figures are composed, but saved blank: to draw them takes most of the time of a tiny training.

    Tests of figures take `drawn_figures`, and programs of their own always draw. Returns what draws.
    """
    draws = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _save_blank)
        yield draws


@pytest.fixture
def drawn_figures(draw: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn in this test."""
    monkeypatch.setattr(Figure, "savefig", draw)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models built in the test have float64 weights, and nothing in them goes down to float32.

    So they can be compared with enumeration digit by digit.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of 16x16 in the classes `cat` and `dog`."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(40):
        path = folder / ("cat", "dog")[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth(rng).save(path)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Path]:
    """A finished run on `pictures`, with its prior. It is shared: a test that changes a run takes `run`."""
    from smalti.app.commands.train import train
    from smalti.app.commands.train_prior import train_prior

    path = tmp_path_factory.mktemp("runs") / "trained"
    train("image", str(pictures), path, TINY, quiet=True)
    train_prior(path, TINY_PRIOR, quiet=True)
    before = digests(path)
    yield path
    assert digests(path) == before, "a test changed the run that all share: it should take the fixture `run`"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained`, to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def smalti(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The real entry point: `smalti("train", "image", ...)`."""
    from smalti.app.cli import main

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["smalti", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 0
        printed = capsys.readouterr()
        return Result(status, printed.out, printed.err)

    return call


@pytest.fixture
def mistake(smalti: Callable[..., Result]) -> Callable[..., str]:
    """A command that must end in exit status 2 and one sentence, which it gives."""

    def call(*words: object) -> str:
        result = smalti(*words, *(["--quiet"] if words[0] not in ("inspect", "recipes") else []))
        assert result.status == 2, result
        assert result.out == ""
        assert result.err.startswith("smalti: ")
        assert len(result.err.splitlines()) == 1, result.err
        return result.err.strip()

    return call
