"""Messages name only options, settings and commands that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from smalti.app.cli import add_commands, app
from smalti.app.recipes import RECIPES, get_recipe
from smalti.core.config import Configuration
from smalti.core.parts import QUANTIZERS

SOURCE = Path(__file__).parents[1] / "src" / "smalti"
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
SETTING = re.compile(r"(?<![\w.{}-])((?:[a-z_]+\.)*[a-z_]+)=(?![=\s])")
DOTTED = re.compile(
    r"(?<![\w./{-])((?:data|model|training|network|encoder|decoder|quantizer|prior)\.(?!safetensors)[a-z_.]+)"
)
COMMAND = re.compile(r"(?:`|run |with |Next: )smalti ([a-z-]+)")
OTHER_TOOLS = {"upgrade"}
"""Options of pip and others in messages."""
ARGUMENTS = {"channel_last", "device"}
"""Arguments of Python that no config has."""


def messages() -> Iterator[tuple[str, str]]:
    """Text of every raised error and of every note, with its file and line; expressions in it are `{}`."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_error = isinstance(node, ast.Raise) and node.exc is not None
            is_note = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("note", "warn")
            if is_error or is_note:
                for text in texts(node):
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", text


def texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "{}" for each in inner.values]
            yield "".join(map(str, parts))
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value
        else:
            yield from texts(inner)


def options_and_commands() -> tuple[set[str], set[str]]:
    add_commands(app)
    group: Any = typer.main.get_command(app)
    commands = dict(group.commands)
    options = {name for each in commands.values() for one in each.params for name in one.opts}
    return {name.lstrip("-") for name in options} | {"help", "version"}, set(commands)


def settings() -> set[str]:
    """The last parts of all keys of recipes and of all registered configs."""
    found: set[str] = set()
    for name in RECIPES:
        get_recipe(name)
    QUANTIZERS.kinds()  # imports those that no recipe has
    pending: list[type[Configuration]] = [Configuration]
    while pending:
        each = pending.pop()
        found.update(each.model_fields)
        pending += each.__subclasses__()
    return found


def test_options_in_messages_exist() -> None:
    options, _ = options_and_commands()
    unknown = [
        (place, name) for place, text in messages() for name in OPTION.findall(text) if name not in options
    ]
    assert not [each for each in unknown if each[1] not in OTHER_TOOLS]


def test_commands_in_messages_exist() -> None:
    _, commands = options_and_commands()
    assert not [
        (place, name) for place, text in messages() for name in COMMAND.findall(text) if name not in commands
    ]


def test_settings_in_messages_exist() -> None:
    known = settings() | ARGUMENTS
    named = [
        (place, name)
        for place, text in messages()
        for name in (*SETTING.findall(text), *DOTTED.findall(text))
    ]
    assert len(named) > 50
    assert not [(place, name) for place, name in named if name.rstrip(".").split(".")[-1] not in known]
