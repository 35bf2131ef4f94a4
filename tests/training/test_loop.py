"""The loop against oracles: its schedule, its optimizer, its averages, its log, and what a stop leaves."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smalti.conditioners.embedding import Embedding
from smalti.core.conditioners import Conditioners
from smalti.core.conditions import Batch, Conditions, PerItem
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.core.results import Loss
from smalti.training.checkpoints import RunDirectory, State
from smalti.training.engine import Engine
from smalti.training.loop import Interrupted, TrainingConfig, fit

WIDTH = 3
Batches = Callable[[int, int, int], Batch]


class Line(Trainable):
    """loss = mean of x . w, so that the gradient of w is the mean of the batch, whatever w is."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(WIDTH))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    seen: Tensor

    def loss(self, batch: Batch) -> Loss:
        self.seen += 1
        total = (batch.data @ self.w).mean()
        return Loss(total=total, terms={"slope": batch.data.mean().detach()})


def gradient_at(step: int) -> np.ndarray:
    """Of very different lengths, so that clipping matters."""
    return np.random.default_rng(step).normal(size=WIDTH) * (0.1 + step % 4)


def batches(step: int, rank: int = 0, world: int = 1) -> Batch:
    return Batch(torch.from_numpy(gradient_at(step)).float()[None])


def config(steps: int = 12, **settings: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "steps": steps,
            "learning_rate": 0.1,
            "log_every": 1,
            "checkpoint_every": 5,
            "clip_norm": 0,
            **settings,
        }
    )


def trained(path: Path, settings: TrainingConfig, feed: Batches = batches, **more: Any) -> dict[str, Tensor]:
    fit(Line(), feed, settings, RunDirectory(path), Engine(), **more)
    return load_file(path / "model.safetensors")


def adam(settings: TrainingConfig) -> np.ndarray:
    """The weights after each step, in float64: Kingma & Ba 2015, algorithm 1, on clipped gradients."""
    w, m, v = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
    path = []
    for step in range(settings.steps):
        g = gradient_at(step)
        if settings.clip_norm:
            g = g * min(1.0, settings.clip_norm / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = settings.learning_rate * min(1, (step + 1) / (settings.warmup_steps + 1))
        if settings.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        w = w - rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize("clip_norm", [0, 0.3])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_weights_are_those_of_adam(
    tmp_path: Path, clip_norm: float, schedule: str, warmup_steps: int
) -> None:
    settings = config(clip_norm=clip_norm, schedule=schedule, warmup_steps=warmup_steps)
    w = trained(tmp_path, settings)["w"]
    np.testing.assert_allclose(w.numpy(), adam(settings)[-1], rtol=1e-4, atol=1e-6)


def test_clipping_changes_the_weights() -> None:
    assert np.abs(adam(config(clip_norm=0.3))[-1] - adam(config())[-1]).max() > 0.01


def test_saved_weights_are_the_moving_average(tmp_path: Path) -> None:
    settings = config(weight_ema=0.6)
    average = np.zeros(WIDTH)
    for step, w in enumerate(adam(settings)):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    tensors = trained(tmp_path, settings)
    np.testing.assert_allclose(tensors["w"].numpy(), average, rtol=1e-4, atol=1e-6)
    assert np.abs(average - adam(settings)[-1]).max() > 0.01
    # Counts are not averaged.
    assert tensors["seen"] == 12


def test_the_model_keeps_its_last_weights_not_the_average(tmp_path: Path) -> None:
    model, settings = Line(), config(weight_ema=0.6)
    fit(model, batches, settings, RunDirectory(tmp_path), Engine())
    np.testing.assert_allclose(model.w.detach().numpy(), adam(settings)[-1], rtol=1e-4, atol=1e-6)


def test_metrics_say_what_happened(tmp_path: Path) -> None:
    settings = config(steps=7, log_every=3, clip_norm=0.3, warmup_steps=4)
    watched: list[tuple[int, dict[str, float]]] = []
    trained(tmp_path, settings, watch=lambda step, values: watched.append((step, values)))
    records = RunDirectory(tmp_path).metrics()
    assert [record["step"] for record in records] == [3, 6, 7]
    weights = np.vstack([np.zeros(WIDTH), adam(settings)])
    for record in records:
        step = record["step"] - 1
        g = gradient_at(step)
        assert record["split"] == "train"
        assert record["loss"] == pytest.approx(g @ weights[step], rel=1e-4, abs=1e-6)
        assert record["slope"] == pytest.approx(g.mean(), rel=1e-5)
        assert record["gradient_norm"] == pytest.approx(np.linalg.norm(g), rel=1e-5), "before clipping"
        assert record["learning_rate"] == settings.learning_rate_at(step)
        assert record["seconds"] >= 0
    assert [step for step, _ in watched] == list(range(1, 8))
    valued = [(step, values) for step, values in watched if values]
    reported = [(record["step"], {key: record[key] for key in valued[0][1]}) for record in records]
    assert valued == reported


def test_validation_sees_the_average_in_evaluation_mode(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool, float]] = []

    def validate(model: Line) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled(), model.w[0].item()))
        return {"psnr": float(len(seen))}

    tensors = trained(tmp_path, config(steps=10, validate_every=4, weight_ema=0.6), validate=validate)
    records = [record for record in RunDirectory(tmp_path).metrics() if record["split"] == "validation"]
    assert records == [
        {"step": s, "split": "validation", "psnr": p} for s, p in ((4, 1.0), (8, 2.0), (10, 3.0))
    ]
    assert [(training, gradients) for training, gradients, _ in seen] == [(False, False)] * 3
    assert seen[-1][2] == tensors["w"][0].item()


@pytest.mark.parametrize(("every", "steps"), [(5, [5, 10, 12]), (12, [12]), (0, [12])])
def test_checkpoints_come_when_they_are_due(
    tmp_path: Path, every: int, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = RunDirectory.write_state

    def write_state(directory: RunDirectory, state: State) -> None:
        real(directory, state)
        written.append(state.step)

    monkeypatch.setattr(RunDirectory, "write_state", write_state)
    trained(tmp_path, config(checkpoint_every=every))
    assert written == steps
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000000012"]


def fails_at(step: int, error: Exception) -> Batches:
    def feed(now: int, rank: int, world: int) -> Batch:
        if now == step:
            raise error
        return batches(now)

    return feed


SETTINGS = config(weight_ema=0.6, schedule="cosine", warmup_steps=3)


def assert_like_undisturbed(directory: Path, whole: Path) -> None:
    assert (
        directory.joinpath("model.safetensors").read_bytes()
        == whole.joinpath("model.safetensors").read_bytes()
    )

    def records(path: Path) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in record.items() if k != "seconds"} for record in RunDirectory(path).metrics()
        ]

    assert records(directory) == records(whole)


def test_a_crash_costs_no_more_than_the_last_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path / "whole", SETTINGS)
    with pytest.raises(RuntimeError, match="power"):
        trained(tmp_path / "broken", SETTINGS, fails_at(8, RuntimeError("power")))
    assert [record["step"] for record in RunDirectory(tmp_path / "broken").metrics()] == list(range(1, 9))
    resumed: list[int] = []

    def feed(step: int, rank: int, world: int) -> Batch:
        resumed.append(step)
        return batches(step)

    trained(tmp_path / "broken", SETTINGS, feed)
    assert resumed == list(range(5, 12))
    assert_like_undisturbed(tmp_path / "broken", tmp_path / "whole")


def test_a_crash_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    trained(tmp_path / "whole", SETTINGS)
    with pytest.raises(RuntimeError):
        trained(tmp_path / "broken", SETTINGS, fails_at(3, RuntimeError()))
    trained(tmp_path / "broken", SETTINGS)
    assert_like_undisturbed(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize("method", ["write_model", "write_state"])
def test_a_kill_between_the_last_two_writes_loses_nothing(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither may be taken for the other: the weights of step 12 must follow a state of step 12."""
    trained(tmp_path / "whole", SETTINGS)
    real = getattr(RunDirectory, method)
    calls = []

    def killed(directory: RunDirectory, what: Any) -> None:
        calls.append(what)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(directory, what)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, method, killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "broken", SETTINGS)
    trained(tmp_path / "broken", SETTINGS)
    assert_like_undisturbed(tmp_path / "broken", tmp_path / "whole")


def test_ctrl_c_saves_the_step_it_is_in(tmp_path: Path) -> None:
    trained(tmp_path / "whole", SETTINGS)
    before = signal.getsignal(signal.SIGINT)

    def feed(step: int, rank: int, world: int) -> Batch:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    with pytest.raises(Interrupted, match="saved at step 7 of 12"):
        trained(tmp_path / "broken", SETTINGS, feed)
    assert signal.getsignal(signal.SIGINT) is before
    state = RunDirectory(tmp_path / "broken").read_state()
    assert state is not None
    assert state.step == 7
    trained(tmp_path / "broken", SETTINGS)
    assert_like_undisturbed(tmp_path / "broken", tmp_path / "whole")


@pytest.fixture
def handled_ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal has it: a shell starts jobs in the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled_ctrl_c")
def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def feed(step: int, rank: int, world: int) -> Batch:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, SETTINGS, feed)
    state = RunDirectory(tmp_path).read_state()
    assert state is not None
    assert state.step == 5


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    trained(tmp_path, SETTINGS)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()
    }
    trained(tmp_path, SETTINGS, fails_at(0, AssertionError("no data is needed")))
    after = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()
    }
    assert after == before


def test_steps_may_be_raised(tmp_path: Path) -> None:
    trained(tmp_path / "once", config(steps=12))
    trained(tmp_path / "twice", config(steps=7))
    trained(tmp_path / "twice", config(steps=12))
    assert_like_undisturbed(tmp_path / "twice", tmp_path / "once")


def test_draws_depend_on_the_seed_and_the_step_alone(tmp_path: Path) -> None:
    drawn: dict[int, list[float]] = {}

    def feed(step: int, rank: int, world: int) -> Batch:
        drawn.setdefault(step, []).append(torch.rand(()).item())
        return batches(step)

    trained(tmp_path / "a", config(), feed)
    torch.rand(5)
    trained(tmp_path / "b", config(), feed)
    trained(tmp_path / "c", config(seed=1), feed)
    first, second, other = np.array(list(drawn.values())).T
    assert (first == second).all()
    assert (first != other).all()
    assert len(set(first)) == len(first)


class Spoilt(Trainable):
    """Its terms, or only its gradient, stop being finite at a step that the batch names."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def loss(self, batch: Batch) -> Loss:
        term, root = batch.data
        good, bad = self.w.square().sum(), self.w.sum() * term
        # At root = 0 the value is 0, and its derivative 0 times infinity.
        total = good + bad + (self.w * root).square().sum().sqrt()
        return Loss(total=total, terms={"good": good.detach(), "bad": bad.detach()})


@pytest.mark.parametrize(
    ("term", "root", "beginning"),
    [(math.nan, 1.0, "bad stopped"), (math.inf, 1.0, "bad stopped"), (0.0, 0.0, "gradient_norm stopped")],
)
@pytest.mark.parametrize("step", [0, 7])
def test_numbers_that_are_not_finite_never_reach_a_checkpoint(
    tmp_path: Path, term: float, root: float, beginning: str, step: int
) -> None:
    def feed(now: int, rank: int, world: int) -> Batch:
        return Batch(torch.tensor([term, root] if now == step else [0.0, 1.0]))

    directory = RunDirectory(tmp_path)
    with pytest.raises(InputError) as stopped:
        fit(Spoilt(), feed, config(checkpoint_every=1, log_every=100), directory, Engine())
    sentence = str(stopped.value)
    assert sentence.startswith(f"{beginning} being finite at step {step + 1}: ")
    state = directory.read_state()
    if step == 0:
        assert "there was no checkpoint yet" in sentence
        assert state is None
    else:
        assert "the checkpoint of step 7 is kept" in sentence
        assert state is not None
        assert state.step == 7
        for tensors in (state.tensors, directory.read_model()):
            assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_tensorboard_gets_the_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine = Engine(trackers=("tensorboard",), directory=tmp_path)
    settings = config(steps=4, validate_every=2)
    fit(Line(), batches, settings, RunDirectory(tmp_path), engine, validate=lambda model: {"psnr": 30.0})
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events.parent)).Reload()
    records = RunDirectory(tmp_path).metrics()
    losses = [(event.step, event.value) for event in log.Scalars("loss")]
    assert losses == [
        (r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in records if r["split"] == "train"
    ]
    assert [(event.step, event.value) for event in log.Scalars("validation/psnr")] == [(2, 30.0), (4, 30.0)]


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [
        config(steps=100, warmup_steps=9, schedule="cosine").learning_rate_at(step) for step in range(100)
    ]
    assert rates[0] == pytest.approx(0.01)
    assert np.argmax(rates) == 9
    assert (np.diff(rates[9:]) < 0).all()
    assert 0 < rates[-1] < 0.001
    assert [config(warmup_steps=3).learning_rate_at(step) for step in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )


def test_a_run_holds_nothing_that_loading_could_run(request: pytest.FixtureRequest) -> None:
    """Only JSON, safetensors, pictures, text and raw arrays: no pickle, and so no zip archive of one."""
    files = [path for path in request.getfixturevalue("trained").rglob("*") if path.is_file()]
    assert len(files) > 15
    raw = {"signals.bin", "labels.bin"}
    for path in files:
        assert path.suffix in (".json", ".jsonl", ".safetensors", ".png", ".txt") or path.name in raw, path
        if path.name not in raw:
            assert not path.read_bytes().startswith(
                (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
            ), path
    for path in (path for path in files if path.suffix == ".json"):
        json.loads(path.read_text())


class Conditioned(Line):
    """A model with a conditioner."""

    def __init__(self) -> None:
        super().__init__()
        self.conditioners = Conditioners({"tempo": Embedding(WIDTH, num_ids=2)})


def test_batches_without_a_condition_of_the_model_are_refused_before_training(tmp_path: Path) -> None:
    def feed(step: int, rank: int = 0, world: int = 1) -> Batch:
        given = Conditions(mood=PerItem(torch.zeros(1, dtype=torch.int64)))
        return Batch(batches(step, rank, world).data, given)

    model = Conditioned()
    with pytest.raises(InputError) as error:
        fit(model, feed, config(), RunDirectory(tmp_path), Engine())
    assert all(name in str(error.value) for name in ("'tempo'", "mood"))
    assert not model.seen
