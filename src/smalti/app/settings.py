"""Every setting of a recipe as text: key, value, meaning and choices.

The meanings are those of the docstrings of the configs and of the classes that they build.
"""

from __future__ import annotations

import re
import sys
import textwrap
import types
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from smalti.core.config import Configuration
from smalti.core.registry import Registry

WIDTH = 80
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^[ ]{4}(\w[\w, ]*): (.*?)(?=^[ ]{4}\w|\Z)", re.MULTILINE | re.DOTALL)
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def settings(config: Configuration) -> list[str]:
    """Return `key=value` for every setting of a config."""
    return [f"{key}={text}" for key, text, *_ in _entries(config)]


def described(config: Configuration) -> list[str]:
    """Return lines of at most 80 columns: `key=value`, and below it the setting's meaning and choices."""
    lines = []
    for key, text, owner, name, kinds in _entries(config):
        lines.append(f"{key}={text}")
        chosen = kinds or choices(type(owner).model_fields[name])
        words = f"{meaning(type(owner), name) or ''} {f'[{chosen}]' if chosen else ''}".strip()
        lines += textwrap.wrap(words, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return lines


def meaning(config: type[Configuration], name: str) -> str | None:
    """Return what the docstrings say of a setting of a config, or None."""
    if name == "kind":
        return None  # of the setting that it selects the kind of
    built = _built(config)
    for owner in (*config.__mro__, *(each for one in built for each in one.__mro__)):
        initializer = getattr(vars(owner).get("__init__"), "__doc__", None)
        for text in (vars(owner).get("__doc__"), initializer):
            if name in (found := _documented(text)):
                return found[name]
    return None


def choices(field: FieldInfo) -> str:
    """Return the values that a setting accepts, if they are few or bounded, else ""."""
    annotation: Any = field.annotation
    limits = _limits(field.metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        others = [one for one in get_args(annotation) if one is not type(None)]
        inner = choices(FieldInfo.from_annotation(others[0])) if len(others) == 1 else ""
        return ", ".join(text for text in (limits or inner, "or none") if text)
    if annotation is bool:
        return "true or false"
    if get_origin(annotation) is Literal:
        return ", ".join(str(one) for one in get_args(annotation))
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        inner = choices(FieldInfo.from_annotation(get_args(annotation)[0]))
        return f"each {inner}" if inner else ""
    return limits


def _limits(metadata: list[Any]) -> str:
    found = [
        f"{words} {limit}"
        for one in metadata
        for name, words in LIMITS.items()
        if (limit := getattr(one, name, None)) is not None
    ]
    return " and ".join(found)


Entry = tuple[str, str, Configuration, str, str]
"""Key, value, config with the setting, name of the setting in it; for a kind of part, all its kinds."""


def _entries(config: Configuration, prefix: str = "", kinds: str = "") -> Iterator[Entry]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        registry = next((one for one in field.metadata if isinstance(one, Registry)), None)
        inner = "" if registry is None else ", ".join(registry.kinds())
        if isinstance(value, Configuration):
            yield from _entries(value, f"{prefix}{name}.", inner)
        elif isinstance(value, dict):
            for key, each in value.items():
                if isinstance(each, Configuration):
                    yield from _entries(each, f"{prefix}{name}.{key}.", inner)
                else:
                    yield f"{prefix}{name}.{key}", str(each), config, name, ""
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"{prefix}{name}", text, config, name, kinds if name == "kind" else ""


def _built(config: type[Configuration]) -> list[type]:
    """Return the classes that the annotation of a config's `build` names."""
    build = getattr(config, "build", None)
    if build is None:
        return []
    names = re.findall(r"\w+", str(build.__annotations__.get("return", "")))
    places = [vars(sys.modules[module]) for module in dict.fromkeys((build.__module__, config.__module__))]
    return [one for name in names for place in places if isinstance(one := place.get(name), type)]


def _documented(docstring: str | None) -> dict[str, str]:
    """Return the entries of the sections Args and Attributes of a docstring, by name."""
    found: dict[str, str] = {}
    for section in SECTION.findall(cleandoc(docstring or "") + "\n"):
        for names, text in ENTRY.findall(section):
            for name in names.split(","):
                found.setdefault(name.strip(), " ".join(text.split()))
    return found
