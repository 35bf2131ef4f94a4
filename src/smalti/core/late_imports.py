"""A function to call when some other package's module is imported, now or later."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, final


def when_imported(name: str, function: Callable[[], object]) -> None:
    """Call a function once, right after a module is imported; at once if it has been.

    Args:
        name: full name of the module, which need not be installed.
        function: what to call.
    """
    if name in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _Finder(name, function))


@final
class _Finder(MetaPathFinder):
    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self._name, self._function, self._is_searching = name, function, False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._name or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            # Some loaders are shared by the modules of a package.
            if module.__name__ == self._name and self in sys.meta_path:
                sys.meta_path.remove(self)
                self._function()

        spec.loader.exec_module = execute_and_call
        return spec
