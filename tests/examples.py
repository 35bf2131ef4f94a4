"""Examples as modules and as plugins, whose parts are gone after the test."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def executed(name: str, registry: Any) -> ModuleType:
    """The module of an example; the kinds that it registers are unknown to the registry."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(registry, "_kinds", dict(registry.kinds())):
        spec.loader.exec_module(module)
    return module


def as_plugin(name: str, registry: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Work in a folder with an example; calling the result makes the process as if it had never loaded it."""
    from smalti.core import plugins

    (folder / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    kinds = dict(registry.kinds())

    def forget() -> None:
        monkeypatch.setattr(plugins, "_LOADED", {})
        monkeypatch.setattr(registry, "_kinds", dict(kinds))
        sys.modules.pop(name, None)

    forget()
    return forget
