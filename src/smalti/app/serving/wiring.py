"""Connect components of a page to functions: errors become a sentence, and one call runs at a time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from smalti.core.errors import InputError

QUEUE = "models"
"""Name of the queue that all calls share: the models are not computed with by two calls at once."""


def on(event: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Call a function at an event of a component.

    Args:
        event: such as `button.click`.
        function: of the values of the inputs; returns, or yields, those of the outputs.
        inputs: components or states that it reads.
        outputs: components or states that it sets.
    """
    return event(
        guarded(function),
        list(inputs),
        list(outputs),
        api_visibility="private",
        concurrency_limit=1,
        concurrency_id=QUEUE,
    )


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an `InputError` of a function to the user as a sentence."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any) -> Any:
            try:
                yield from function(*args)
            except InputError as error:
                raise as_shown(error) from None

        return generate

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except InputError as error:
            raise as_shown(error) from None

    return call


def as_shown(error: InputError) -> gr.Error:
    """Return the error that Gradio shows at the top of the page."""
    return gr.Error(str(error), duration=15, print_exception=False, title="That did not work")
