"""Progress and learning curves of models with one and with several training phases."""

from pathlib import Path

import pytest
from PIL import Image

from smalti.app.console import Pace, amount, bar, by_phase, console, counting, duration, watching
from smalti.app.runs import draw_learning_curves
from smalti.core.errors import InputError
from smalti.evaluation import figures
from smalti.training.checkpoints import RunDirectory

TWO_PHASES = {
    "generator/loss": 1.25,
    "generator/gradient_norm": 9.0,
    "generator/batch_usage": 0.5,
    "discriminator/loss": 0.75,
    "learning_rate": 1e-3,
}


def test_titles_are_in_their_order_and_name_the_phase() -> None:
    titles = {"loss": "loss", "batch_usage": "codes used"}
    assert list(by_phase(TWO_PHASES, titles).items()) == [
        ("generator/loss", "generator loss"),
        ("discriminator/loss", "discriminator loss"),
        ("generator/batch_usage", "generator codes used"),
    ]
    assert list(by_phase(["batch_usage", "mse", "loss"], titles)) == ["loss", "batch_usage"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (TWO_PHASES, ["generator loss 1.250", "discriminator loss 0.750", "generator codes used 50%"]),
        ({"loss": 2.5, "learning_rate": 1e-3}, ["loss 2.500"]),
        ({"validation mse": 2.5}, ["step 7, held out: squared error 2.5"]),
    ],
    ids=["two phases", "one phase", "held out"],
)
def test_progress_shows_the_loss_of_each_phase(
    values: dict[str, float], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 200)
    with console.capture() as captured, watching("Training", 10) as watch:
        watch(7, {})
        watch(7, values)
    shown = captured.get()
    assert "7/10" in shown
    assert all(text in shown for text in expected)
    assert ("held out" in shown) == ("validation mse" in values)


@pytest.mark.parametrize(
    ("title", "steps"), [("Training", 250_000), ("Training the prior", 20_000), ("Masked prediction", 100)]
)
def test_progress_fits_into_80_columns(title: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 80)
    values = "loss 123.456 distortion 5.678 bits/code 8.100 codes used 1.000"
    with console.capture() as captured, bar(title) as progress:
        progress.show(steps - 1, steps, "100.0 steps/s", values)
        progress.show(steps, steps, "100.0 steps/s")
    first, second = captured.get().splitlines()[:2]
    assert first.startswith(title)
    assert f"{steps}/{steps} 100.0 steps/s" in first
    assert max(len(first), len(second)) <= 80
    assert second.strip() == values


def test_an_error_before_the_first_item_leaves_no_bar() -> None:
    with console.capture() as captured, pytest.raises(InputError), counting("Sampling"):
        raise InputError("expected a class")
    assert captured.get() == ""


@pytest.mark.parametrize(
    ("seconds_a_step", "expected"),
    [(0.25, "about 3 h at 0.25 s a step"), (30.0, "about 14 days at 30 s a step"), (0.001, "")],
)
def test_the_first_steps_tell_how_long_it_takes(seconds_a_step: float, expected: str) -> None:
    now = 0.0
    pace = Pace(40_000, lambda: now)
    told = []
    for step in range(1, 11_000):
        now += 100.0 if step == 1 else seconds_a_step
        told.append(pace.forecast(step))
    assert [text for text in told if text] == ([expected] if expected else [])
    # Measured for at least five seconds, without the first step.
    if expected:
        assert told.index(expected) == max(3, round(5 / seconds_a_step))


def test_durations() -> None:
    assert [duration(s) for s in (50.0, 119.0, 120.0, 7_199.0, 7_200.0, 172_800.0)] == [
        "50 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h",
        "2 days",
    ]


def test_curves_state_their_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, str]] = []
    monkeypatch.setattr(figures, "learning_curves", lambda metrics, titles, path: drawn.append(titles))
    for name, metrics in (("one", {"loss": 1.0, "psnr": 20.0}), ("two", TWO_PHASES)):
        run = RunDirectory(tmp_path / name)
        run.append_metrics({"step": 1, "split": "train", **metrics})
        draw_learning_curves(run)
    assert drawn[0] == {"loss": "loss", "psnr": "PSNR, dB"}
    assert drawn[1]["generator/loss"] == "generator loss"


@pytest.mark.parametrize(
    ("num", "expected"), [(0, "0 pictures"), (1, "1 picture"), (2, "2 pictures"), (1024, "1,024 pictures")]
)
def test_amounts(num: int, expected: str) -> None:
    assert amount(num, "pictures") == expected


def test_each_phase_has_curves_of_its_own(tmp_path: Path) -> None:
    def width(name: str, metrics: dict[str, float]) -> int:
        run = RunDirectory(tmp_path / name)
        for step in (1, 2):
            run.append_metrics({"step": step, "split": "train", **metrics})
        draw_learning_curves(run)
        with Image.open(run.figures_path / "learning_curves.png") as image:
            return image.width

    one = width("one", {"loss": 1.0})
    assert width("two", TWO_PHASES) == pytest.approx(3 * one, rel=0.01)
