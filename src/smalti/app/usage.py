"""Errors of the command line itself in the words of the other messages: one sentence, with a suggestion.

Typer has its own copy of click in new versions, and uses the package click in old ones. The errors are
therefore recognised by their names and attributes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from smalti.core.suggestions import suggestion
from smalti.core.validation import sentence_of

NEAR_ENOUGH = "did you mean"


def usage_sentence(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Return the sentence for an error in how a command was called, or None for any other error.

    Args:
        error: as raised by `typer.Typer` outside its standalone mode.
        arguments: the words of the command line, without the program's name.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "UsageError" not in kinds:
        return None
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "smalti"
    if "NoSuchOption" in kinds and context is not None:
        return _no_option(str(vars(error)["option_name"]), context, command, arguments)
    if "MissingParameter" in kinds:
        return f"expected {_named(vars(error)['param'])} for {command}, received none: add it"
    if "BadParameter" in kinds and vars(error).get("param") is not None:
        return _bad_value(vars(error)["param"], str(vars(error)["message"]), error.__cause__)
    message = str(vars(error).get("message") or error)
    if (found := re.match(r"No such command '(.*?)'", message)) and context is not None:
        known = vars(context.command).get("commands", {})
        return f"expected a command, received {found[1]!r}: {suggestion(found[1], known)}"
    if found := re.match(r"Got unexpected extra argument\(?s?\)? \((.*)\)", message):
        return f"expected no more arguments for {command}, received {found[1]}: see {command} --help"
    if found := re.match(r"Option '(.*?)' requires an argument", message):
        return f"expected a value after {found[1]}, received none: add it"
    return f"{message[0].lower()}{message[1:].rstrip('.')}: see {command} --help"


def _no_option(option: str, context: Any, command: str, arguments: Sequence[str]) -> str:
    parameters = context.command.params
    known = [name for one in parameters for name in one.opts if name.startswith("--")]
    near = suggestion(option.lstrip("-"), [name.lstrip("-") for name in known])
    takes_settings = any(one.name == "overrides" for one in parameters)
    if near.startswith(NEAR_ENOUGH):
        advice = near.replace(NEAR_ENOUGH + " ", f"{NEAR_ENOUGH} --")
    elif takes_settings:
        key = option.lstrip("-").replace("-", "_")
        advice = f"settings are written without dashes, {key}={_value_after(option, arguments)}"
    else:
        advice = f"there are {', '.join(known)}"
    return f"expected an option of {command}, received {option}: {advice}"


def _value_after(option: str, arguments: Sequence[str]) -> str:
    """Return the value that the user gave to an option that does not exist."""
    for index, word in enumerate(arguments):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        following = arguments[index + 1 : index + 2]
        if word == option and following and not following[0].startswith("--"):
            return following[0]
    return "VALUE"


def _named(parameter: Any) -> str:
    """Name a parameter as its help does: `--out DIR` or RUN."""
    metavar = parameter.metavar or str(parameter.name).upper()
    options = [name for name in parameter.opts if name.startswith("-")]
    return f"{options[0]} {metavar}" if options else str(metavar)


def _bad_value(parameter: Any, message: str, cause: BaseException | None) -> str:
    options = [option for option in parameter.opts if option.startswith("-")] or [_named(parameter)]
    if isinstance(cause, ValidationError):  # new versions of Typer convert by pydantic
        return sentence_of(cause.errors()[0], options[0])
    return f"{options[0]}: {message[0].lower()}{message[1:].rstrip('.')}"
