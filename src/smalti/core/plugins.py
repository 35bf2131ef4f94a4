"""Plugins: modules of other packages that register parts when they are imported.

Plugins come from the entry-point group `smalti.parts` of installed packages, from the environment variable
`SMALTI_PLUGINS` (module names, separated by commas), or from `smalti train --plugin MODULE`. The plugins that
a run's config.json lists are never imported; they only appear in messages.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from smalti.core.errors import InputError

ENTRY_POINTS = "smalti.parts"
VARIABLE = "SMALTI_PLUGINS"

_LOADED: dict[str, None] = {}
_POINTS: set[str] = set()


def load_plugin(name: str) -> None:
    """Import a module that registers parts, from the Python path or the current folder.

    Raises:
        InputError: if there is no such module, or importing it fails.
    """
    if name in _LOADED:
        return
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # Finds modules in the current folder, as `python -m` does, without hiding installed ones.
        sys.path.append(here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"the plugin {name!r} cannot be loaded: {error}") from error
        raise InputError(
            f"expected a Python module as a plugin, found no {name!r}: install it, or run the command in the "
            "folder that contains it"
        ) from None
    except Exception as error:  # a plugin may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the plugin {name!r} cannot be loaded: {reason}") from error
    _LOADED[name] = None


def load_plugins() -> None:
    """Import the plugins of installed packages and of `SMALTI_PLUGINS`, each once."""
    for point in entry_points(group=ENTRY_POINTS):
        if point.value not in _POINTS:
            _POINTS.add(point.value)
            point.load()
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            load_plugin(name.strip())


def loaded_plugins() -> tuple[str, ...]:
    """Return the names of the plugins that the user named, in loading order."""
    return tuple(_LOADED)


@contextmanager
def plugin_hint(config: dict[str, Any]) -> Iterator[None]:
    """Extend an `InputError` by the plugins that a run was trained with and that are not loaded.

    Args:
        config: content of the run's config.json.

    Raises:
        InputError: if the block raises one.
    """
    try:
        yield
    except InputError as error:
        listed = config.get("plugins", [])
        missing = [str(name) for name in listed if name not in _LOADED] if isinstance(listed, list) else []
        if not missing:
            raise
        raise InputError(
            f"{error}; it was trained with the plugin {', '.join(missing)}, which is not loaded: set "
            f"{VARIABLE}={','.join(missing)} and run the command where Python finds it"
        ) from None
