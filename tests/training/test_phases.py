"""Phases of a step against a loop by hand: which parameters move, when, by which loss; what is logged."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.core.phases import Phase
from smalti.core.results import Loss
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit
from tests.training.adversarial import BETAS, EVERY, SCALE, START, Adversarial

SIZE, STEPS = 6, 14
CONFIG = TrainingConfig(
    steps=STEPS,
    learning_rate=0.02,
    schedule="cosine",
    clip_norm=0.05,
    log_every=1,
    checkpoint_every=4,
    precision="fp32",
)


def model() -> Adversarial:
    torch.manual_seed(0)
    return Adversarial(SIZE, has_noise=False)


def batches(step: int, rank: int = 0, world: int = 1) -> Batch:
    return Batch(torch.randn(5, SIZE, generator=torch.Generator().manual_seed(step)))


def trained(path: Path, made: Trainable | None = None, feed: Any = batches, **settings: Any) -> Trainable:
    made = made or model()
    config = TrainingConfig.model_validate({**CONFIG.model_dump(), **settings})
    fit(made, feed, config, RunDirectory(path), Engine("fp32"))
    return made


def by_hand(made: Adversarial) -> Adversarial:
    """The same steps in plain PyTorch; gradients are asked for by name, so that no other can matter."""
    made = copy.deepcopy(made)
    parts = {"generator": list(made.generator.parameters()), "d": list(made.discriminator.parameters())}
    betas = {"generator": (0.9, 0.999), "d": BETAS}
    adam = {name: torch.optim.Adam(of, lr=1, betas=betas[name]) for name, of in parts.items()}
    losses = {"generator": made.loss, "d": made.discriminator_loss}
    for step in range(STEPS):
        made.trained_steps = step
        rate = 0.02 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        due = ["generator", *(["d"] if step in range(START, STEPS, EVERY) else [])]
        for name in due:
            gradients = torch.autograd.grad(losses[name](batches(step)).total, parts[name])
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            for parameter, gradient in zip(parts[name], gradients, strict=True):
                parameter.grad = gradient * min(1.0, 0.05 / norm.item())
            adam[name].param_groups[0]["lr"] = rate * (SCALE if name == "d" else 1)
            adam[name].step()
    return made


def test_each_phase_moves_its_own_parameters_by_its_own_loss(tmp_path: Path) -> None:
    expected, received = by_hand(model()).state_dict(), trained(tmp_path).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(received[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    before = model().state_dict()
    assert [name for name in before if torch.equal(before[name], received[name])] == ["unused"]
    assert all(parameter.requires_grad for parameter in model().parameters())


def test_parameters_are_trainable_again_afterwards(tmp_path: Path) -> None:
    made = model()
    frozen = made.get_parameter("discriminator.0.bias").requires_grad_(False)
    before = frozen.clone()
    trained(tmp_path, made)
    assert [p for p in made.parameters() if not p.requires_grad] == [frozen]
    assert torch.equal(frozen, before)


def test_metrics_have_the_name_of_their_phase_and_only_those_of_phases_that_ran(tmp_path: Path) -> None:
    made = trained(tmp_path)
    of_generator = {f"generator/{name}" for name in ("loss", "error", "gradient_norm")}
    of_other = {f"discriminator/{name}" for name in ("loss", "real", "fake", "gradient_norm")}
    records = RunDirectory(tmp_path).metrics()
    for record in records:
        step = record["step"] - 1
        names = record.keys() - {"step", "split", "seconds", "learning_rate"}
        fooled = {"generator/fooled"} if step >= START else set()
        assert names == of_generator | fooled | (of_other if step in range(START, STEPS, EVERY) else set())
    torch.manual_seed(0)
    first = made.__class__(SIZE, has_noise=False).loss(batches(0))
    assert records[0]["generator/loss"] == pytest.approx(first.total.item(), rel=1e-5)


def test_a_log_line_has_the_latest_metrics_of_each_phase(tmp_path: Path) -> None:
    trained(tmp_path / "every")
    trained(tmp_path / "some", log_every=3)
    by_step = {record["step"]: record for record in RunDirectory(tmp_path / "every").metrics()}
    lines = {record["step"]: record for record in RunDirectory(tmp_path / "some").metrics()}
    assert list(lines) == [3, 6, 9, 12, STEPS]
    for step, line in lines.items():
        assert line["generator/loss"] == by_step[step]["generator/loss"]
    # The discriminator runs in the steps 6, 8, 10, ..., counted from 1.
    latest = {step: line.get("discriminator/loss") for step, line in lines.items()}
    ran = {3: None, 6: 6, 9: 8, 12: 12, STEPS: 14}
    assert latest == {step: at and by_step[at]["discriminator/loss"] for step, at in ran.items()}


def test_a_checkpoint_holds_the_optimizer_of_each_phase(tmp_path: Path) -> None:
    trained(tmp_path / "early", steps=START)
    trained(tmp_path / "late", steps=STEPS)
    for name, phases in (("early", {"generator"}), ("late", {"generator", "discriminator"})):
        state = RunDirectory(tmp_path / name).read_state()
        assert state is not None
        parts = [key.split(".") for key in state.tensors if key.startswith("optimizer.")]
        assert {phase for _, phase, *_ in parts} == phases
        for _, phase, _index, slot in parts:
            if slot == "step":
                count = len(range(START, STEPS, EVERY)) if phase == "discriminator" else state.step
                assert state.tensors[f"optimizer.{phase}.0.step"] == count


@pytest.mark.parametrize("weight_ema", [0.0, 0.6])
def test_validation_knows_the_number_of_completed_steps(tmp_path: Path, weight_ema: float) -> None:
    """Also on the averaged copy, so that a loss which changes during training is validated as it is now."""
    seen: list[int] = []

    def validate(made: Trainable) -> dict[str, float]:
        seen.append(made.trained_steps)
        return {}

    config = CONFIG.model_copy(update={"steps": 6, "validate_every": 2, "weight_ema": weight_ema})
    fit(model(), batches, config, RunDirectory(tmp_path), Engine("fp32"), validate)
    assert seen == [2, 4, 6]


@pytest.mark.parametrize("step", [3, 5, 6, 11])
def test_a_crash_between_steps_changes_nothing(tmp_path: Path, step: int) -> None:
    """Before the discriminator's first checkpoint, at its first step, and after it."""

    def fails(now: int, rank: int, world: int) -> Batch:
        if now == step:
            raise RuntimeError("power")
        return batches(now)

    def made() -> Adversarial:
        torch.manual_seed(0)
        return Adversarial(SIZE)

    settings = {"weight_ema": 0.6, "checkpoint_every": 2}
    trained(tmp_path / "whole", made(), **settings)
    with pytest.raises(RuntimeError, match="power"):
        trained(tmp_path / "broken", made(), fails, **settings)
    trained(tmp_path / "broken", made(), **settings)
    expected, received = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    for name, tensor in expected.items():
        assert torch.equal(received[name], tensor), name

    def records(name: str) -> list[dict[str, Any]]:
        lines = RunDirectory(tmp_path / name).metrics()
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert records("broken") == records("whole")


class Counting(Trainable):
    """Two phases on one weight; remembers what ran, and at which step."""

    def __init__(self, phases: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.settings = phases
        self.ran: list[tuple[str, int]] = []

    def phases(self) -> Sequence[Phase]:
        def loss(name: str) -> Any:
            def of(batch: Batch) -> Loss:
                self.ran.append((name, self.trained_steps))
                total = (self.w * batch.data).sum() * (math.nan if name == "nan" else 1)
                return Loss(total, {"term": total.detach(), "fine": torch.zeros(())})

            return of

        return [Phase(parameters=[self.w], loss=loss(each["name"]), **each) for each in self.settings]

    def loss(self, batch: Batch) -> Loss:
        raise NotImplementedError


def ones(step: int, rank: int, world: int) -> Batch:
    return Batch(torch.ones(2))


def test_phases_run_in_order_when_they_are_due(tmp_path: Path) -> None:
    settings = [{"name": "a", "every": 3, "start": 1}, {"name": "b", "every": 2}]
    made = Counting(settings)
    trained(tmp_path, made, ones, steps=4)
    assert made.ran == [("b", 0), ("a", 1), ("b", 2)]
    again = Counting(settings)
    trained(tmp_path, again, ones, steps=8)
    assert again.ran == [("a", 4), ("b", 4), ("b", 6), ("a", 7)], "the step is known after a resumption"
    assert [record["step"] for record in RunDirectory(tmp_path).metrics()] == list(range(1, 9))


def test_a_loss_that_is_not_finite_is_blamed_on_its_phase_and_term(tmp_path: Path) -> None:
    made = Counting([{"name": "a"}, {"name": "nan", "start": 3}])
    with pytest.raises(InputError, match=r"^nan/term stopped being finite at step 4: .* step 2 is kept"):
        trained(tmp_path, made, ones, checkpoint_every=2)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_of_phases_differ(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match="a different name for each"):
        trained(tmp_path, Counting([{"name": name} for name in names]), ones)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""},
        {"name": "a.b"},
        {"name": "a/b"},
        {"every": 0},
        {"start": -1},
        {"learning_rate_scale": 0.0},
        {"parameters": ()},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    parameters: Sequence[nn.Parameter] = (nn.Parameter(torch.zeros(1)),)

    def loss(batch: Batch) -> Loss:
        return Loss(batch.data.sum(), {})

    Phase("fine-1_a", parameters, loss)
    with pytest.raises(InputError):
        Phase(**{"name": "a", "parameters": parameters, "loss": loss, **settings})


def test_a_phase_of_gradients_through_others_leaves_them_without(tmp_path: Path) -> None:
    """A gradient that is not asked for would cost time, and the next phase would add to it."""
    seen: list[list[str]] = []

    class Watching(Adversarial):
        def discriminator_loss(self, batch: Batch) -> Loss:
            seen.append([name for name, p in self.named_parameters() if p.grad is not None])
            seen.append([name for name, p in self.named_parameters() if p.requires_grad])
            return super().discriminator_loss(batch)

    trained(tmp_path, Watching(SIZE), steps=START + 1)
    own = [name for name in dict(model().named_parameters()) if name.startswith("discriminator")]
    assert seen == [[], own]


def test_the_default_is_one_phase_of_everything() -> None:
    class Line(Trainable):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        def loss(self, batch: Batch) -> Loss:
            return Loss((self.w * batch.data).sum(), {})

    line = Line()
    (phase,) = line.phases()
    assert phase.parameters == (line.w,)
    assert all(phase.is_due(step) for step in range(5))
    total: Tensor = line(Batch(torch.ones(2)), phase).total
    assert torch.equal(total, line(Batch(torch.ones(2))).total)
