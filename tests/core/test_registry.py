"""The registry of parts: look-ups by several threads, and configs that are not registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoder
from smalti.likelihoods.gaussian import GaussianFamily
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.vq import VectorQuantizer

BASE = """
from smalti.core.config import Configuration
from smalti.core.registry import Registry


class PartConfig(Configuration):
    pass


PARTS = Registry("part", PartConfig, "slow_parts.own")
"""
PART = """
import time
from typing import Literal

from slow_parts.base import PARTS, PartConfig

time.sleep(0.1)


@PARTS.register
class {name}Config(PartConfig):
    kind: Literal["{name}"] = "{name}"
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A registry of parts that take long to import."""
    own = tmp_path / "slow_parts" / "own"
    own.mkdir(parents=True)
    (own.parent / "__init__.py").touch()
    (own.parent / "base.py").write_text(BASE)
    (own / "__init__.py").touch()
    for name in ("one", "two"):
        (own / f"{name}.py").write_text(PART.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("slow_parts.base").PARTS
    for name in [name for name in sys.modules if name.split(".")[0] == "slow_parts"]:
        del sys.modules[name]


def test_threads_that_look_up_at_once_see_all_parts(slow: Any) -> None:
    together = Barrier(4)

    def look_up(kind: str) -> str:
        together.wait()
        return slow.get(kind).__name__

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look_up, ["one", "two", "one", "two"]))
    assert found == ["oneConfig", "twoConfig", "oneConfig", "twoConfig"]


def test_a_config_that_is_not_registered_is_refused() -> None:
    class Unregistered(FSQConfig):
        pass

    class Renamed(FSQConfig):
        kind: Literal["renamed"] = "renamed"  # pyright: ignore[reportIncompatibleVariableOverride]

    for config in (Unregistered(), Renamed()):
        with pytest.raises(InputError, match=type(config).__name__):
            QUANTIZERS.parse(config)
        with pytest.raises(ValidationError, match=type(config).__name__):
            VQVAEConfig(quantizer=config)
    registered = FSQConfig()
    assert QUANTIZERS.parse(registered) is registered


def test_a_model_of_volumes_with_strides_over_depth_comes_back(tmp_path: Path) -> None:
    strides: dict[str, Any] = {"strides": (2, 2), "time_strides": (1, 2), "channels": 4}
    model = VQVAE(
        ConvEncoder(1, 4, 3, **strides),
        VectorQuantizer(dim=4, num_codes=8),
        ConvDecoder(4, 1, 3, **strides),
        GaussianFamily(channels=1),
        SignalSpec(1, (4, 8, 8), axes=("depth", "height", "width")),
    )
    model.save_pretrained(tmp_path / "model")
    loaded = VQVAE.from_pretrained(tmp_path / "model")
    assert loaded.grid == model.grid == (2, 2, 2)
