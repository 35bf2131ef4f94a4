"""Connect components of a page to functions: errors become a sentence, and one call runs at a time."""

from __future__ import annotations

import functools
import html
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from smalti.core.errors import InputError

QUEUE = "models"
"""Name of the queue that all calls share, so that only one of them computes at a time."""


def on(
    event: Any,
    function: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    is_each_counted: bool = False,
) -> Any:
    """Call a function at an event of a component.

    Args:
        event: such as `button.click`.
        function: of the values of the inputs; returns, or yields, those of the outputs.
        inputs: components or states that it reads.
        outputs: components or states that it sets.
        is_each_counted: also call it for an event that comes while another one is pending.
    """
    return event(
        guarded(function),
        list(inputs),
        list(outputs),
        api_visibility="private",
        concurrency_limit=1,
        concurrency_id=QUEUE,
        trigger_mode="multiple" if is_each_counted else "once",
    )


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error of a function to the user as a sentence."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any) -> Any:
            try:
                yield from function(*args)
            except Exception as error:
                raise as_shown(error) from None

        return generate

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            raise as_shown(error) from None

    return call


def as_shown(error: Exception) -> gr.Error:
    """Return what Gradio shows at the top of the page; errors other than `InputError` are printed here."""
    text = str(error)
    if not isinstance(error, InputError):
        traceback.print_exception(error)
        text = "This failed, for a reason that is in the terminal of smalti serve: choose another file."
    return gr.Error(html.escape(text, quote=False), duration=15, print_exception=False, title="Refused")
