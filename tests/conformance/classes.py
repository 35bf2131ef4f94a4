"""The concrete classes of an interface, so that a table of cases can be held complete."""

import importlib
import inspect
import pkgutil
from functools import cache

import smalti

ABOVE_THE_MODELS = {"__main__", "app", "recipe", "studies", "tokenizer", "training"}
"""Classes that compose implementations, and have none of their own."""


@cache
def _import_implementations() -> None:
    for top in pkgutil.iter_modules(smalti.__path__, "smalti."):
        if top.name.removeprefix("smalti.") not in ABOVE_THE_MODELS:
            module = importlib.import_module(top.name)
            for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{top.name}."):
                importlib.import_module(found.name)


def concrete(interface: type) -> set[type]:
    """All classes of the library that implement an interface and can be instantiated."""
    _import_implementations()
    found, pending = set(), [interface]
    while pending:
        subclasses = pending.pop().__subclasses__()
        pending += subclasses
        found |= {kind for kind in subclasses if not inspect.isabstract(kind)}
    return {kind for kind in found if _is_of_the_library(kind)}


def _is_of_the_library(kind: type) -> bool:
    package, *rest = kind.__module__.split(".")
    return package == "smalti" and bool(rest) and rest[0] not in ABOVE_THE_MODELS
