"""Progress bars and notes of the commands, written to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from smalti.core.errors import printable

if TYPE_CHECKING:
    from smalti.training.loop import Watcher

console = Console(stderr=True, highlight=False)
WIDEST, NARROWEST = 40, 4
"""Width of a bar, in columns."""
MEASURED_STEPS, MEASURED_SECONDS = 3, 5.0
"""Least number of steps and of seconds that are measured for a forecast."""
LONG_SECONDS = 60.0
"""Least time left that is worth a forecast."""
SHOWN = {
    "loss": "loss",
    "distortion_bits_per_dim": "distortion",
    "distortion_nats_per_dim": "distortion",
    "bits_per_code": "bits/code",
    "batch_usage": "codes used",
}
"""Labels of the metrics in a training progress bar."""
SHORT = {
    "validation bits_per_dim": "bits/dim",
    "validation distortion_bits_per_dim": "distortion",
    "validation nats_per_dim": "nats/dim",
    "validation distortion_nats_per_dim": "distortion",
    "validation mse": "squared error",
    "validation psnr": "PSNR",
    "validation usage": "usage",
    "validation bits_per_code": "bits/code",
    "validation loss": "loss",
}


def by_phase(names: Iterable[str], titles: Mapping[str, str]) -> dict[str, str]:
    """Map metric names to titles, for models with one or several training phases.

    Args:
        names: metric names: `term`, or `phase/term` if the model has several phases.
        titles: title by term, in display order.

    Returns:
        Title by name, for terms that have a title; a phase's name precedes it ("generator loss").
    """
    parts = [(name, *name.rpartition("/")[::2]) for name in dict.fromkeys(names)]
    return {
        name: f"{phase} {title}".strip()
        for term, title in titles.items()
        for name, phase, own in parts
        if own == term
    }


@final
class Bar(Progress):
    """A progress bar on one line: done of total, rate, time left; further values stand on a line below.

    Nothing is shown before the first update, so that an error in between leaves no empty bar behind.

    Args:
        title: what is done.
        quiet: show nothing at all.
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self._bar = BarColumn(WIDEST)
        self._values = ""
        super().__init__(
            TextColumn("[bold]{task.description}"),
            self._bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet,
            speed_estimate_period=600,  # steps may be slow; rich's default window is 30 s
        )
        self._title = title
        self.add_task(title, total=None, rate="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bar, and the values if there are any."""
        yield self.make_tasks_table(self.tasks)
        if self._values:
            yield Text(f"  {self._values}", no_wrap=True, overflow="ellipsis")

    def show(self, done: int, total: int, rate: str = "", values: str = "") -> None:
        """Update the bar.

        Args:
            done: number of steps or items done.
            total: number of all of them.
            rate: speed, in words.
            values: text of the second line; "" keeps the last one.
        """
        if not self.live.is_started:
            # Leaves room for the numbers, a rate and the time left in 80 columns.
            others = len(self._title) + 2 * len(str(total)) + len(" / 100.0 steps/s 0:00:00 ")
            self._bar.bar_width = max(NARROWEST, min(WIDEST, console.width - others))
            self.start()
        self._values = values or self._values
        self.update(self.tasks[0].id, completed=done, total=total, rate=rate)


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[Bar]:
    """Show a progress bar while the block runs."""
    progress = Bar(title, quiet)
    try:
        yield progress
    finally:
        if progress.live.is_started:
            progress.stop()


@contextmanager
def watching(title: str, steps: int, quiet: bool = False) -> Iterator[Watcher]:
    """Yield a training callback that shows the rate, time left, loss and codebook usage.

    After the first steps, it prints how long the rest will take, if that is long.
    """
    pace = Pace(steps)
    with bar(title, quiet) as progress:

        def watch(step: int, values: dict[str, float]) -> None:
            if any(name.startswith("validation ") for name in values):
                if not quiet:
                    text = (f"{_short(name)} {_figure(name, value)}" for name, value in values.items())
                    progress.console.print(f"  step {step}, held out: {', '.join(text)}")
                return
            forecast = pace.forecast(step)
            if forecast and not quiet:
                progress.console.print(f"  {forecast}")
            shown = by_phase(values, SHOWN)
            text = " ".join(f"{title} {_figure(name, values[name], '.3f')}" for name, title in shown.items())
            progress.show(step, steps, _rate(progress.tasks[0].speed), text)

        yield watch


def _short(name: str) -> str:
    return SHORT.get(name, name.removeprefix("validation "))


def _figure(name: str, value: float, form: str = ".4g") -> str:
    """Format a metric; shares of the codes in per cent."""
    return f"{100 * value:.3g}%" if name.endswith("usage") else f"{value:{form}}"


def _rate(speed: float | None) -> str:
    """Format a number of steps per second."""
    if not speed:
        return ""
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"


@final
class Pace:
    """Measures the first steps of a training and forecasts how long the rest will take.

    Args:
        steps: number of the last step.
        clock: time in seconds.
    """

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._clock = steps, clock
        self._began: tuple[int, float] | None = None
        self._is_told = False

    def forecast(self, step: int) -> str:
        """Return a sentence once, when enough steps are measured and a long time remains, else ""."""
        if self._began is None:  # the first step is slower: it compiles loops and fills caches
            self._began = step, self._clock()
            return ""
        first, then = self._began
        elapsed = self._clock() - then
        if self._is_told or step - first < MEASURED_STEPS or elapsed < MEASURED_SECONDS:
            return ""
        self._is_told = True
        each = elapsed / (step - first)
        left = each * (self._steps - step)
        if left < LONG_SECONDS:
            return ""
        return f"about {duration(left)} at {each:.2g} s a step"


def duration(seconds: float) -> str:
    """Format a duration in the largest unit of which there are two or more."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def counting(title: str, quiet: bool = False) -> Iterator[Counter]:
    """Show a progress bar, and yield the callback that updates it."""
    with bar(title, quiet) as progress:
        yield progress.show


def amount(num: int, things: str) -> str:
    """Format a number of things, whose name is in the plural: "1 picture", "1,024 pictures"."""
    return f"{num:,} {things.removesuffix('s') if num == 1 else things}"


Counter = Callable[[int, int], None]
"""Callback with arguments (done, total) that updates a progress bar."""


def note(text: str, quiet: bool = False) -> None:
    """Print one line to standard error, unless quiet."""
    if not quiet:
        console.print(printable(text), soft_wrap=True, markup=False)
