"""Override config values with `key=value` strings, as on the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from smalti.core.errors import InputError
from smalti.recipe import C, refusal, validator

Validate = Callable[[Any], BaseModel]
"""Creates a config from values, or raises a `ValidationError`."""
NONE = ("none", "null")


def override(config: C, assignments: Sequence[str], leave_out: Sequence[str] = ()) -> C:
    """Return a config with some values replaced by `key=value` strings from a command line.

    A key is a dotted path (`model.quantizer.num_codes`), or its last parts if unambiguous (`num_codes`). The
    key of a new entry of a dictionary begins with the path of the dictionary, or its last parts
    (`decoder.conditioners.text.kind`). The value none leaves out an entry (`objective.terms.pitch=none`).

    Args:
        config: the original config; a prior's may become one of another kind.
        assignments: the strings.
        leave_out: first parts of keys that only full paths match.

    Raises:
        InputError: for a string that is not an assignment, a key that does not exist or is ambiguous, or a
            value of the wrong type.
        UnknownKind: for a kind of part that is not registered.
    """
    validate = validator(type(config))
    values = config.model_dump(mode="json")
    # The kind of the whole comes first, since it decides which keys there are.
    for assignment in sorted(assignments, key=lambda each: not each.startswith("kind=")):
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(
                f"expected key=value, received {assignment!r}: write for example training.steps=1000"
            )
        if text.lower() in NONE and (gone := _entry(validate(values), key, leave_out)):
            values = validate(_without(values, gone)).model_dump(mode="json")
            continue
        prefix, _, last = key.rpartition(".")
        entry = _new_entry(validate(values), key, leave_out)
        if entry is not None:
            path, rest = entry
            prefix = key.removesuffix(f".{rest}") if rest else key
            given = [_beside(assignments, prefix), *_kinds(assignments, prefix)] if rest else [text]
            values = _assigned(validate, values, path, given)
        path = _find(values, key, leave_out)
        part = path[:-1]
        inner = _at(values, part)
        if path[-1] == "kind" and text != inner["kind"]:
            # Another member of a union has different keys and would reject the old ones.
            given = [{**_beside(assignments, prefix), last: text}, {last: text}]
            values = _assigned(validate, values, part, given)
            values = _kept(validate, values, part, inner)
        else:
            values = _assigned(validate, values, path, _readings(text, inner[path[-1]]))
    return validate(values)


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, with both values."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return {
        key: (before.get(key), after.get(key))
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _at(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    for part in path:
        values = values[part]
    return values


def _dictionaries(config: BaseModel, prefix: str = "") -> dict[str, dict[str, Any]]:
    """All settings that are dictionaries, by dotted key."""
    found: dict[str, dict[str, Any]] = {}
    for name in type(config).model_fields:
        key, value = f"{prefix}{name}", getattr(config, name)
        inner = {key: value}
        if isinstance(value, dict):
            found[key] = value
            inner = {f"{key}.{entry}": each for entry, each in value.items()}
        for inner_key, each in inner.items():
            if isinstance(each, BaseModel):
                found |= _dictionaries(each, f"{inner_key}.")
    return found


def _new_entry(config: BaseModel, key: str, leave_out: Sequence[str]) -> tuple[list[str], str] | None:
    """Path of the new entry of a dictionary that a key names, and the rest of the key; else None.

    Raises:
        InputError: if several dictionaries match.
    """
    parts, found = key.split("."), []
    for path, entries in _dictionaries(config).items():
        is_left_out = path.startswith(tuple(f"{first}." for first in leave_out))
        for cut in range(1, len(parts)):
            name, rest = parts[cut], ".".join(parts[cut + 1 :])
            written = ".".join(parts[:cut])
            is_end = not is_left_out and path.endswith(f".{written}")
            if name and name not in entries and (path == written or is_end):
                found.append((path, [*path.split("."), name], rest, path == written))
    exact = [each for each in found if each[3]] or found
    if len(exact) > 1:
        raise InputError(f"the key {key!r} is ambiguous: begin with one of {', '.join(e[0] for e in exact)}")
    return exact[0][1:3] if exact else None


def _entry(config: BaseModel, key: str, leave_out: Sequence[str]) -> list[str] | None:
    """Path of the entry of a dictionary that a key names; None if it names none, or several."""
    if "." not in key:
        return None
    found = {f"{path}.{name}" for path, entries in _dictionaries(config).items() for name in entries}
    hidden = tuple(f"{first}." for first in leave_out)
    ends = [each for each in found if each.endswith(f".{key}") and not each.startswith(hidden)]
    chosen = [key] if key in found else ends
    return chosen[0].split(".") if len(chosen) == 1 else None


def _beside(assignments: Sequence[str], prefix: str) -> dict[str, str]:
    """The settings that assignments give to one part, which its kind may require."""
    pairs = [each.partition("=") for each in assignments]
    start = f"{prefix}." if prefix else ""
    given = {key.removeprefix(start): text for key, _, text in pairs if key.startswith(start)}
    return {key: text for key, text in given.items() if "." not in key}


def _kinds(assignments: Sequence[str], prefix: str) -> list[dict[str, str]]:
    """The part with its kind alone, whose other settings are assigned one by one."""
    kind = _beside(assignments, prefix).get("kind")
    return [] if kind is None else [{"kind": kind}]


def _find(values: dict[str, Any], key: str, leave_out: Sequence[str]) -> list[str]:
    keys = _flat(values)
    if key in keys:
        return key.split(".")
    reachable = [name for name in keys if not name.startswith(tuple(f"{first}." for first in leave_out))]
    ends = [name for name in reachable if name.endswith(f".{key}")]
    # A setting of None is derived from another one, as a decoder's strides from the encoder's.
    settings = [name for name in ends if keys[name] is not None] if len(ends) > 1 else ends
    if len(settings) == 1:
        return settings[0].split(".")
    if ends:
        raise InputError(f"the key {key!r} is ambiguous: write one of {', '.join(ends)}")
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5) if "." in key else []
    # For keys with the same last part, suggest the first: the autoencoder's rather than the prior's.
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(keys)}
    near = near or [by_last[last] for last in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(list(keys)[:8])}, ..."
    raise InputError(f"unknown key {key!r}: {hint}")


def _readings(text: str, current: Any) -> list[Any]:
    """Return candidate values of a string; validation by pydantic selects one."""
    if isinstance(current, list):
        parts = [part.strip() for part in text.strip("[]()").removesuffix(",").split(",")]
        return [parts if parts != [""] else [], text]
    if isinstance(current, int) and re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        return [int(text)]  # pydantic converts strings to int, but not to a Literal of numbers
    # "none" is also tried as a string, because it is a valid choice of one setting.
    return [None, text] if text.lower() in NONE else [text]


def _with(values: Any, path: Sequence[str], value: Any) -> Any:
    """Return nested values with another value at a path; the value itself for an empty path."""
    if not path:
        return value
    return {**values, path[0]: _with(values.get(path[0]), path[1:], value)}


def _without(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return nested values without the one at a path."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return {**values, first: _without(values[first], rest)}


def _assigned(
    validate: Validate, values: dict[str, Any], path: Sequence[str], readings: list[Any]
) -> dict[str, Any]:
    """Return the values with one of them set to the first valid candidate."""
    errors: list[tuple[ValidationError, dict[str, Any]]] = []
    for reading in readings:
        candidate = _with(values, path, reading)
        try:
            return validate(candidate).model_dump(mode="json")
        except ValidationError as error:
            errors.append((error, candidate))
    # Errors of smalti's own validators are the most specific; otherwise report the first candidate's.
    chosen = next((each for each in errors if each[0].errors()[0]["type"] == "value_error"), errors[0])
    raise refusal(*chosen) from None


def _kept(
    validate: Validate, values: dict[str, Any], path: Sequence[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the values with the old settings that the new member of a union also has."""
    for key, setting in settings.items():
        if key in _at(values, path) and key != "kind":
            with suppress(ValidationError):
                values = validate(_with(values, [*path, key], setting)).model_dump(mode="json")
    return values
