"""Errors of pydantic in the words of the other messages: what was expected, what was received."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion

C = TypeVar("C", bound=Configuration)

MOST_SHOWN = 60
"""Longest received value that is shown in full, characters."""

EXPECTED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool": lambda _: "true or false",
    "int": lambda _: "a whole number",
    "float": lambda _: "a number",
    "finite": lambda _: "a finite number",
    "string": lambda _: "text",
    "list": lambda _: "a list",
    "tuple": lambda _: "a list",
    "dict": lambda _: "settings with names",
    "model": lambda _: "settings with names",
    "greater_than": lambda limits: f"a number above {limits['gt']:g}",
    "greater_than_equal": lambda limits: f"a number of at least {limits['ge']:g}",
    "less_than": lambda limits: f"a number below {limits['lt']:g}",
    "less_than_equal": lambda limits: f"a number of at most {limits['le']:g}",
    "too_short": lambda limits: f"at least {limits['min_length']} values",
    "too_long": lambda limits: f"at most {limits['max_length']} values",
    "literal_error": lambda limits: limits["expected"].replace("'", ""),
    "union_tag_invalid": lambda limits: limits["expected_tags"].replace("'", ""),
    "missing": lambda _: "a value",
}
"""Description of a valid value, by the type of pydantic's error or its first word."""


def checked_settings(config: type[C], **settings: Any) -> C:
    """Create a config from the arguments of a part's constructor.

    Args:
        config: class of the config.
        settings: values of its fields.

    Raises:
        InputError: for an invalid value.
    """
    try:
        return config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        raise cause
    sentence = sentence_of(first, "")
    raise InputError(
        sentence if sentence.endswith("?") else f"{sentence} as {first['loc'][0]}: correct this argument"
    )


def sentence_of(error: Mapping[str, Any], where: str) -> str:
    """Return one of the errors of a pydantic `ValidationError` as a sentence.

    Args:
        error: an entry of `ValidationError.errors()`.
        where: dotted key of the setting; "" for the whole.
    """
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    where = f"{where}: " if where else ""
    received = shown(error["input"])
    if kind == "extra_forbidden":
        return f"{where}expected no such key, received {received}"
    if kind == "missing":
        return f"{where}expected a value, received none"
    expected = EXPECTED.get(kind) or EXPECTED.get(kind.split("_")[0])
    if expected is None or kind == "value_error":
        message = f"{where}{message[0].lower()}{message[1:]}"
        return message if re.search(r"\b(received|got)\b", message) else f"{message}, received {received}"
    sentence = f"{where}expected {expected(error.get('ctx', {}))}, received {received}"
    if kind in ("literal_error", "union_tag_invalid"):
        tag = error["ctx"].get("tag", error["input"])
        names = re.findall(r"'([^']*)'", error["ctx"].get("expected_tags") or error["ctx"]["expected"])
        near = suggestion(str(tag), names, listed="")
        return f"{sentence}: {near}" if near.endswith("?") else sentence
    return sentence


def shown(value: object) -> str:
    """Format a received value in at most `MOST_SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
