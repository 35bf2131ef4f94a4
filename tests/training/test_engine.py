"""The engine on one CPU: precision, clipping and trackers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.core.results import Loss
from smalti.training.engine import Engine

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these are the rules of a CPU")


class Product(Trainable):
    """Remembers the type that its product was computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dtype: torch.dtype | None = None

    def loss(self, batch: Batch) -> Loss:
        product = self.linear(batch.data)
        self.dtype = product.dtype
        return Loss(product.float().sum(), {})


def gradients(engine: Engine, model: Product) -> list[Tensor]:
    wrapped, _ = engine.prepare(model, [torch.optim.Adam(model.parameters())])
    engine.backward(wrapped(Batch(torch.ones(2, 4))).total)
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_one_process_on_a_cpu() -> None:
    engine = Engine()
    assert (engine.device.type, engine.rank, engine.world, engine.is_main) == ("cpu", 0, 1, True)
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(engine.mean_over_ranks(values), values)
    engine.wait()
    engine.track({"loss": 1.0}, 1)
    engine.finish()


def test_each_engine_has_its_own_precision() -> None:
    """Also one after the other in one process, as in the demo."""
    for precision, dtype in (
        ("auto", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("auto", torch.float32),
    ):
        model = Product()
        found = gradients(Engine(precision), model)
        assert model.dtype == dtype, precision
        assert all(gradient.dtype == torch.float32 for gradient in found), "weights stay in float32"


def test_clip_bounds_the_norm_over_all_parameters_and_gives_what_it_was() -> None:
    engine, model = Engine(), Product()
    before = [gradient.clone() for gradient in gradients(engine, model)]
    norm = torch.cat([gradient.flatten() for gradient in before]).norm()
    assert norm > 1
    assert engine.clip(model.parameters(), 0.5) == pytest.approx(norm.item(), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient * 0.5 / norm, rtol=1e-4, atol=0)
    assert engine.clip(model.parameters(), float("inf")) == pytest.approx(0.5, rel=1e-4)


def test_tracker_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "smalti.training.engine.find_spec", lambda name: None if name == "wandb" else real(name)
    )
    with pytest.raises(InputError, match=r"wandb is not installed: run pip install 'smalti\[wandb\]'"):
        Engine(trackers=("tensorboard", "wandb"), directory=tmp_path)


def test_trackers_write_nothing_before_training_begins(tmp_path: Path) -> None:
    """So a run that fails on its data leaves a directory that the next one accepts."""
    engine = Engine(trackers=("tensorboard",), directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    gradients(engine, Product())
    assert list((tmp_path / "run").rglob("events*"))
    engine.finish()
