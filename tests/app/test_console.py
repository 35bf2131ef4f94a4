"""Progress and learning curves of models with one and with several training phases."""

from pathlib import Path

import pytest
from PIL import Image

from smalti.app.console import by_phase, console, watching
from smalti.app.runs import draw_learning_curves
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
        (TWO_PHASES, ["generator loss 1.250", "discriminator loss 0.750", "generator codes used 0.500"]),
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
