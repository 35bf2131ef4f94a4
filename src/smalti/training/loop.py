"""The training loop: one function for every model, exactly resumable.

All randomness is a function of (seed, step): the order of the data, and every draw of a model in training.
The state of a run is therefore its tensors and its step, and a killed and resumed run gives the same weights,
bit for bit, as an uninterrupted one (on one CPU thread).
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import check_data_conditions
from smalti.core.conditions import Batch
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.core.phases import Phase
from smalti.core.results import Loss
from smalti.core.weights import load_weights
from smalti.training.best import Best
from smalti.training.checkpoints import RunDirectory, State
from smalti.training.engine import Engine, Precision
from smalti.training.watchdog import Watchdog


class TrainingConfig(Configuration):
    """Settings of the training loop.

    Attributes:
        steps: number of optimizer steps.
        batch_size: items per step, over all ranks.
        learning_rate: of Adam, after warm-up; a phase of a model may scale it.
        warmup_steps: steps over which the learning rate rises linearly.
        schedule: "constant" (as in the paper), or "cosine" decay to zero at the last step.
        clip_norm: maximum gradient norm of each phase; 0 disables clipping.
        weight_ema: decay of the averaged weights that are saved and evaluated; 0 disables averaging.
        precision: "auto" uses bf16 on GPUs that support it, fp32 elsewhere.
        log_every: steps between log lines.
        validate_every, checkpoint_every: interval in steps; 0 means only at the end. None validates every 500
            steps, or ten times in a shorter run, but at most every 50 steps.
        keep: "best" saves the weights with the lowest score on validation data, "last" those of the last
            step. Without validation data the two are the same.
        trackers: any of "tensorboard", "wandb".
        seed: of the weights, the order of the data, and all draws.
    """

    steps: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float = Field(default=1.0, ge=0)
    weight_ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Precision = "auto"
    log_every: int = Field(default=50, ge=1)
    validate_every: int | None = Field(default=None, ge=0)
    checkpoint_every: int = Field(default=500, ge=0)
    keep: Literal["best", "last"] = "best"
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def validation_interval(self) -> int:
        """Steps between validations; 0 means only at the end."""
        if self.validate_every is None:
            return min(500, max(50, self.steps // 10))
        return self.validate_every

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "cosine":
            return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm

    def weight_ema_at(self, step: int) -> float:
        """Decay of the weight average at a step: small at first, so that the initial weights are
        forgotten."""
        return min(self.weight_ema, (1 + step) / (10 + step))


Watcher = Callable[[int, dict[str, float]], None]
"""Callback after every step, with the step and its values (empty unless the step is logged)."""


def silent(step: int, values: dict[str, float]) -> None:
    """Watcher that ignores every step."""


class Interrupted(Exception):
    """Raised on Ctrl-C, after the run was saved."""


def fit(
    model: Trainable,
    batches: Callable[[int, int, int], Batch],
    config: TrainingConfig,
    directory: RunDirectory,
    engine: Engine,
    validate: Callable[[Any], dict[str, float]] | None = None,
    watch: Watcher = silent,
    score: str | None = None,
) -> None:
    """Train a model from the current state of its run to `config.steps`; write the weights to the run.

    A step runs the phases of the model that are due, in order and on the same batch, each with its own Adam
    optimizer. Metrics have the names of the loss terms; with several phases, `phase/name`. A logged step
    has the latest metrics of every phase that ran since the previous logged step.

    Args:
        model: on any device; it ends with the weights of the last step, not the averaged ones.
        batches: `(step, rank, world) -> Batch` on the engine's device, the rank's share of the step's batch.
        config: the settings.
        directory: the run; training resumes from its newest checkpoint.
        engine: devices and ranks.
        validate: returns named values for a model in evaluation mode.
        watch: called after every step, with the values of the logged ones.
        score: name of the value of `validate` whose minimum decides which weights `config.keep="best"` saves;
            None saves the last weights. In the metrics, `is_best` marks the lowest score so far.

    Raises:
        Diverged: if a loss or its gradient is not finite; the last checkpoint is kept.
        InputError: if two phases have the same name, or the batches lack a condition that the model reads.
        Interrupted: on Ctrl-C, after the run was saved.
    """
    # The averaged weights are a separate model, so that it can be evaluated directly.
    averaged = copy.deepcopy(model) if config.weight_ema else model
    averaged.to(engine.device)
    phases = _phases(model)
    optimizers = {phase.name: _adam(phase, config) for phase in phases}
    frozen = {phase.name: _others(model, phase) for phase in phases}
    wrapped, prepared = engine.prepare(model, list(optimizers.values()), is_partial=any(frozen.values()))
    best = Best(keeps_weights=config.keep == "best")
    first = _restore(directory, model, averaged, optimizers, best, engine)
    watchdog = Watchdog(engine.device, directory)
    started = time.perf_counter() - directory.seconds

    def save(step: int) -> None:
        watchdog.check()
        if engine.is_main:
            tensors = _collect(model, averaged, optimizers) | best.tensors()
            # The state is written last: if the process is killed in between, a resumed run rewrites the
            # weights.
            directory.write_model(best.weights or averaged.product.state_dict())
            directory.write_state(State(step, directory.metrics_bytes, tensors))

    # Metrics by phase since the last log line, because a phase need not be due at the step that is logged.
    latest: dict[str, dict[str, Tensor]] = {}
    with _ctrl_c() as interrupted:
        for step in range(first, config.steps):
            _seed(config.seed, step)
            rate = config.learning_rate_at(step)
            model.train()
            _count(step, model)
            batch = batches(step, engine.rank, engine.world)
            if step == first:
                check_data_conditions(model, batch.conditions)
            for phase, optimizer in zip(phases, prepared, strict=True):
                if not phase.is_due(step):
                    continue
                for group in optimizer.param_groups:
                    group["lr"] = rate * phase.learning_rate_scale
                with _without_gradient(frozen[phase.name]):
                    loss: Loss = wrapped(batch, phase)
                    engine.backward(loss.total)
                norm = engine.clip(phase.parameters, config.clip_norm or math.inf)
                values = {"loss": loss.total.detach(), **loss.terms, "gradient_norm": norm}
                prefix = f"{phase.name}/" if len(phases) > 1 else ""
                watchdog.watch(prefix, values, step + 1)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                latest[phase.name] = {prefix + name: value for name, value in values.items()}
            if averaged is not model:
                _average(averaged, model, config.weight_ema_at(step))
            done = step + 1
            # Also on the averaged copy, which validation evaluates.
            _count(done, model, averaged)
            if done % config.log_every == 0 or done == config.steps:
                watchdog.check()
                values = _means(latest, engine) | {"learning_rate": rate}
                latest = {}
                seconds = round(time.perf_counter() - started, 3)
                if engine.is_main:
                    directory.append_metrics({"step": done, "split": "train", "seconds": seconds, **values})
                engine.track(values, done)
                watch(done, values)
            else:
                watch(done, {})
            if validate and _due(done, config.validation_interval, config.steps) and engine.is_main:
                values = _validated(validate, averaged.product)
                mark = {} if score is None else {"is_best": best.offer(done, values[score], averaged.product)}
                directory.append_metrics({"step": done, "split": "validation", **values, **mark})
                engine.track({f"validation/{name}": value for name, value in values.items()}, done)
                watch(done, {f"validation {name}": value for name, value in values.items()})
            # Ranks must stop together, and synchronise the flag only at logged steps.
            asked = engine.world == 1 or done % config.log_every == 0
            stop = asked and engine.any_rank(interrupted.is_set())
            if stop or _due(done, config.checkpoint_every, config.steps):
                save(done)
            if stop:
                engine.finish()
                raise Interrupted(
                    f"stopped and saved at step {done} of {config.steps}; run the same command to resume"
                )
    if first >= config.steps and engine.is_main and not directory.model_path.is_file():
        directory.write_model(best.weights or averaged.product.state_dict())  # the file was lost
    engine.finish()
    engine.wait()


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _seed(seed: int, step: int) -> None:
    """Make every draw of a step a function of (seed, step), on every rank.

    A model draws for the whole batch and each rank takes its share, so the result does not depend on the
    number of ranks.
    """
    torch.manual_seed(seed * 1_000_003 + step)


def _count(steps: int, *models: Trainable) -> None:
    """Tell models, and what they train, the number of steps done."""
    for model in models:
        model.trained_steps = model.product.trained_steps = steps


def _phases(model: Trainable) -> tuple[Phase, ...]:
    """The phases of a model, checked for unique names: optimizer states and metrics are stored by name."""
    phases = tuple(model.phases())
    names = [phase.name for phase in phases]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"expected at least one phase and a different name for each, received {names}: "
            f"fix phases() of {type(model).__name__}"
        )
    return phases


def _adam(phase: Phase, config: TrainingConfig) -> torch.optim.Optimizer:
    rate = config.learning_rate * phase.learning_rate_scale
    return torch.optim.Adam(phase.parameters, lr=rate, betas=phase.betas, fused=True)


def _others(model: Trainable, phase: Phase) -> list[nn.Parameter]:
    """Trainable parameters of the model outside the phase; empty for the usual single phase."""
    own = {id(parameter) for parameter in phase.parameters}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in own]


@contextmanager
def _without_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Disable gradients of parameters for one loss, which would otherwise be computed, averaged over ranks
    and discarded."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _means(latest: Mapping[str, Mapping[str, Tensor]], engine: Engine) -> dict[str, float]:
    """Average the scalars of all phases over ranks and transfer them to the CPU at once."""
    scalars = {name: value for of_phase in latest.values() for name, value in of_phase.items()}
    if not scalars:  # no phase was due
        return {}
    stacked = torch.stack([value.float().to(engine.device) for value in scalars.values()])
    return dict(zip(scalars, engine.mean_over_ranks(stacked).tolist(), strict=True))


def _validated(validate: Callable[[Any], dict[str, float]], model: nn.Module) -> dict[str, float]:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        values = validate(model)
    model.train(was_training)
    return values


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) model, for buffers (codebooks) as for parameters."""
    pairs = list(zip(averaged.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)


def _collect(
    model: nn.Module, averaged: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The whole state of a run as named tensors; optimizer states under the name of their phase."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if averaged is not model:
        tensors |= {f"averaged.{name}": tensor for name, tensor in averaged.state_dict().items()}
    for phase, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{phase}.{index}.{slot}": value for slot, value in slots.items()}
    return tensors


def _restore(
    directory: RunDirectory,
    model: nn.Module,
    averaged: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    best: Best,
    engine: Engine,
) -> int:
    """Load the newest checkpoint, if any; return the step to resume from."""
    state = directory.read_state()
    if state is None:
        if engine.is_main:
            directory.truncate_metrics(0)
        return 0

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}

    load_weights(model, under("model."), directory.path)
    if averaged is not model:
        load_weights(averaged, under("averaged."), directory.path)
    for phase, optimizer in optimizers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under(f"optimizer.{phase}.").items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        _check_slots(optimizer, slots, directory)
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if engine.is_main:  # the only rank that validates and saves
        best.restore(state.tensors)
        directory.truncate_metrics(state.metrics_bytes)
    return state.step


def _check_slots(
    optimizer: torch.optim.Optimizer, slots: Mapping[int, Mapping[str, Tensor]], directory: RunDirectory
) -> None:
    """Compare shapes: a fused optimizer would read beyond the state of another parameter."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for index, own in slots.items():
        shape = parameters[index].shape if index < len(parameters) else None
        if any(value.ndim and value.shape != shape for value in own.values()):
            raise InputError(
                f"expected the state of an optimizer of this model in {directory.path}, received one whose "
                "parameters have another order or size: train again with another --out"
            )


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Set the event on the first Ctrl-C; interrupt immediately on the second."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
