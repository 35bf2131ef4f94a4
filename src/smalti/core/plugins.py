"""Plugins: modules of other packages that register parts when they are imported.

They come from the entry-point group `smalti.parts` of installed packages, from the environment variable
`SMALTI_PLUGINS` (names of modules, separated by commas), or from `smalti train --plugin MODULE`. Only the
user names a module to import: the plugins that a run's config.json lists are information for messages.
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
        InputError: when there is no such module.
    """
    if name in _LOADED:
        return
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # A module beside one's data is found, as with `python -m`, but hides none that is installed.
        sys.path.append(here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"the plugin {name!r} cannot be loaded: {error}") from error
        raise InputError(
            f"expected a Python module as a plugin, found no {name!r}: install it, or run the command in the "
            "folder that holds it"
        ) from None
    except Exception as error:  # whatever a stranger's module raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the plugin {name!r} cannot be loaded: {reason}") from error
    _LOADED[name] = None


def load_plugins() -> None:
    """Import the plugins of installed packages and of `SMALTI_PLUGINS`, once each."""
    for point in entry_points(group=ENTRY_POINTS):
        if point.value not in _POINTS:
            _POINTS.add(point.value)
            point.load()
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            load_plugin(name.strip())


def loaded_plugins() -> tuple[str, ...]:
    """Names of the plugins that the user gave, in the order in which they were loaded."""
    return tuple(_LOADED)


@contextmanager
def plugin_hint(config: dict[str, Any]) -> Iterator[None]:
    """Add to an `InputError` which plugins a run was trained with, where they are not loaded.

    Args:
        config: the run's config.json.
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
