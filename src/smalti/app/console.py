"""Progress bars and notes of the commands, written to standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from smalti.training.loop import Watcher

console = Console(stderr=True, highlight=False)
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
    "validation usage": "codes used",
    "validation bits_per_code": "bits/code",
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


@contextmanager
def bar(title: str, total: int, quiet: bool = False) -> Iterator[Progress]:
    """Show a progress bar with one task (number 0): completed of total, rate, time left."""
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=console,
        disable=quiet,
        speed_estimate_period=600,  # steps may be slow; rich's default window is 30 s
    )
    with progress:
        progress.add_task(title, total=total, rate="", values="")
        yield progress


@contextmanager
def watching(title: str, steps: int, quiet: bool = False) -> Iterator[Watcher]:
    """Yield a training callback that shows the rate, time left, loss and codebook usage."""
    with bar(title, steps, quiet) as progress:

        def watch(step: int, values: dict[str, float]) -> None:
            if any(name.startswith("validation ") for name in values):
                if not quiet:
                    text = ", ".join(f"{SHORT.get(name, name)} {value:.4g}" for name, value in values.items())
                    progress.console.print(f"  step {step}, held out: {text}")
                return
            task = progress.tasks[0]
            rate = f"{task.speed:.1f} steps/s" if task.speed else ""
            progress.update(task.id, completed=step, rate=rate)
            shown = by_phase(values, SHOWN)
            if shown:
                text = " ".join(f"{title} {values[name]:.3f}" for name, title in shown.items())
                progress.update(task.id, values=text)

        yield watch


@contextmanager
def counting(title: str, quiet: bool = False) -> Iterator[Counter]:
    """Show a progress bar, and yield the callback that updates it."""
    with bar(title, 0, quiet) as progress:
        yield Counter(progress)


class Counter:
    """Callback with arguments (done, total) that updates a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._progress.tasks[0].id, completed=done, total=total)


def note(text: str, quiet: bool = False) -> None:
    """Print one line to standard error, unless quiet."""
    if not quiet:
        console.print(text, soft_wrap=True, markup=False)
