"""Plugins: modules of other packages that register parts when they are imported.

They come from the entry-point group `smalti.parts` of installed packages, from the environment variable
`SMALTI_PLUGINS` (names of modules, separated by commas), or from the option `--plugin MODULE`. Only the user
names a module to import: the plugins that a run's config.json lists are information for messages.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from smalti.core.errors import InputError, UnknownKind
from smalti.core.reentry import importing

ENTRY_POINTS = "smalti.parts"
VARIABLE = "SMALTI_PLUGINS"

_LOADED: dict[str, None] = {}
"""Names of the modules whose import succeeded, in loading order."""


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """Entry points of installed packages, read once per process: reading them takes milliseconds."""
    return tuple(entry_points(group=group))


def load_plugin(name: str) -> None:
    """Import a module that registers parts, from the Python path or the current folder.

    Raises:
        InputError: if the name is not that of a module, there is no such module, or importing it fails.
    """
    if name in _LOADED:
        return
    if not all(name.split(".")) or "/" in name or os.sep in name or name.endswith(".py"):
        module = Path(name).name.removesuffix(".py")
        advice = f"write {module}, in the folder that contains it" if module else "write one"
        raise InputError(f"expected the name of a Python module as a plugin, received {name!r}: {advice}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # Finds modules in the current folder, as `python -m` does, without hiding installed ones.
        sys.path.append(here)
    try:
        _import(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(f"the plugin {name!r}", error) from error
        raise InputError(
            f"expected a Python module as a plugin, found no {name!r}: install it, or run the command in the "
            "folder that contains it"
        ) from None
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises; a script may exit
        raise _broken(f"the plugin {name!r}", error) from error


def load_plugins() -> None:
    """Import the plugins of installed packages and of `SMALTI_PLUGINS`, once each.

    Raises:
        InputError: if one of them cannot be imported.
    """
    for point in installed(ENTRY_POINTS):
        if point.module not in _LOADED:
            try:
                _import(point.module)
            except (Exception, SystemExit) as error:
                raise broken_package(point, error) from error
    for name in _in_environment():
        load_plugin(name)


def _in_environment() -> list[str]:
    """Names of the plugins in `SMALTI_PLUGINS`."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _import(name: str) -> None:
    with importing(f"plugin {name}") as is_first:
        if is_first:
            importlib.import_module(name)
            _LOADED[name] = None


def broken_package(point: EntryPoint, error: BaseException) -> InputError:
    """The error for an installed package whose entry point cannot be loaded."""
    package = f" of the installed package {point.dist.name}" if point.dist else ""
    broken = _broken(f"the plugin {point.value!r}{package}", error)
    return InputError(f"{broken}; repair the package, or uninstall it")


def _broken(what: str, error: BaseException) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        reason = f"it ends the program when it is imported ({reason})"
    return InputError(f"{what} cannot be loaded: {reason}")


def loaded_plugins() -> tuple[str, ...]:
    """Names of the plugin modules of the user and of installed packages, in loading order."""
    return tuple(_LOADED)


def plugin_options() -> str:
    """Options that load the same plugins in another command, such as " --plugin mine".

    Plugins of installed packages and of `SMALTI_PLUGINS` need none.
    """
    elsewhere = {*_in_environment(), *(point.module for point in installed(ENTRY_POINTS))}
    return "".join(f" --plugin {name}" for name in _LOADED if name not in elsewhere)


def listed_plugins(config: dict[str, Any]) -> list[str]:
    """Names of the plugins that a run's config.json lists; anything else there is left out."""
    listed = config.get("plugins", [])
    names = listed if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name.replace(".", "_").isidentifier()]


@contextmanager
def plugin_hint(config: dict[str, Any], run: Path) -> Iterator[None]:
    """Replace an `UnknownKind` by how to load the plugins that a run was trained with and that are missing.

    Args:
        config: the run's config.json; {} for a run that does not exist yet.
        run: its directory, for the message.

    Raises:
        UnknownKind: with this hint, or unchanged if no plugin is missing.
    """
    try:
        yield
    except UnknownKind as error:
        missing = [name for name in listed_plugins(config) if name not in _LOADED]
        if not missing:
            raise
        options = " ".join(f"--plugin {name}" for name in missing)
        raise UnknownKind(
            f"{run} needs the {error.family} {error.kind!r}, which is not registered: pass {options}, or set "
            f"{VARIABLE}={','.join(missing)} (in Python, import {', '.join(missing)} first)",
            error.family,
            error.kind,
        ) from None
