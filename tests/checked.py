"""Run-time checks of annotations, cheap enough for a whole suite.

The option `--jaxtyping-packages` of pytest decorates every function with `jaxtyping.jaxtyped`, which binds
and checks the arguments of each call twice, for better messages. One check by beartype finds the same; only
annotations with shapes need a context of axis names around it. Of a function with shapes, each test checks
the first `MOST_CALLS` calls: loops over codes make thousands.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

JAXTYPED = jaxtyping.jaxtyped
MOST_CALLS = 20
_TEST = [0]


def begin_test() -> None:
    """Count the calls of every function from 0 again."""
    _TEST[0] += 1


def checked(fn: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Stand-in for `jaxtyping.jaxtyped` with beartype as its type checker."""
    if fn is None:
        return functools.partial(checked, typechecker=typechecker)
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = checked(fn.__init__, typechecker=typechecker)
        return fn
    if not inspect.isfunction(fn) or inspect.isgeneratorfunction(fn):
        return JAXTYPED(fn, typechecker=typechecker)
    written = fn.__annotations__
    hints = {name: resolved(hint, fn.__globals__) for name, hint in written.items()}
    try:
        fn.__annotations__ = hints
        made = beartype.beartype(fn)
    finally:
        fn.__annotations__ = written
    if any(has_shape(hint) for hint in hints.values()):
        made = in_context(made, fn)
    return made if made is fn else functools.update_wrapper(made, fn)


def in_context(with_checks: Callable[..., Any], bare: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose axis names are those of one call, and without checks after `MOST_CALLS` in a test."""
    test, calls = -1, 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != _TEST[0]:
            test, calls = _TEST[0], 0
        if calls == MOST_CALLS:
            return bare(*args, **kwargs)
        calls += 1
        with JAXTYPED("context"):
            return with_checks(*args, **kwargs)

    return called


def resolved(hint: object, namespace: dict[str, Any]) -> Any:
    """The object that an annotation names; `Any` for a name that is not defined yet, as jaxtyping has it."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["hint"]
    except Exception:
        return Any


def has_shape(hint: object) -> bool:
    """True if an annotation contains one of jaxtyping's."""
    if isinstance(hint, list | tuple):  # arguments of a Callable
        return any(has_shape(each) for each in hint)
    if inner := typing.get_args(hint) or getattr(hint, "__bound__", None):
        return has_shape(inner)
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
