"""A training step of two processes equals that of one process on the whole batch, for every model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.conditions import Batch, Conditions
from smalti.core.models import LatentVariableModel, Trainable
from smalti.core.signals import Continuous, SignalSpec
from smalti.encoders.context import ContextEncoderConfig
from smalti.likelihoods.normal import NormalConfig
from smalti.models.masked import MaskedPrediction, MaskedPredictionConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.nn import collectives
from smalti.objectives.adversarial import AdversarialConfig
from smalti.objectives.discriminators.patch import PatchDiscriminatorConfig
from smalti.objectives.objective import ObjectiveConfig
from smalti.objectives.pixel import L1Config
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.masked import MaskedPrior
from smalti.quantizers.bsq import BSQConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.estimators.nsvq import NSVQConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.ibq import IBQConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.multi_scale import MultiScaleVQConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.residual_fsq import ResidualFSQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from tests.conformance.classes import concrete
from tests.conformance.models import CASES as MODELS
from tests.conformance.models import GRADIENT, SPEC, Case, signals
from tests.conformance.test_quantizers import REVIVING
from tests.nn.test_collectives import on_ranks

WORLD, NUM, STEPS = 2, 8, 4
"""Ranks, items of all ranks, and steps: enough for a codebook to begin and to revive codes."""
SEQUENCE = SignalSpec(1, (16,))
NUM_MELS, FRAMES = 6, 64


Results = dict[str, dict[str, Tensor]]
"""Of one rank: what ranks average ("averaged") and what is the same on each ("equal")."""
Mutation = Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Trained:
    """A model and its data.

    Attributes:
        build: makes the model, with weights that depend on the seed only.
        batch: the batch of a step, of all ranks.
        shares: whether a step draws numbers or collects statistics for all ranks.
    """

    build: Callable[[], Trainable]
    batch: Callable[[int], Batch]
    shares: bool = True


def of_signals(case: Case, spec: SignalSpec = SPEC, shares: bool = True) -> Trained:
    """A model of signals; those of the first rank are flat, so that its losses and codes are others."""

    def batch(step: int) -> Batch:
        x = signals(spec, NUM, seed=step)
        flat = x[: NUM // WORLD].flatten(2)[..., :1].view(-1, spec.channels, *(1,) * len(spec.size))
        x[: NUM // WORLD] = flat
        return Batch(x)

    return Trained(lambda: case.build(spec), batch, shares)


def vqvae(spec: SignalSpec = SPEC, shares: bool = True, **settings: Any) -> Trained:
    config = VQVAEConfig.tiny().model_copy(update=settings)
    return of_signals(Case(MODELS["vqvae"].kind, config.build), spec, shares)


def with_missing_values() -> Trained:
    """A VQ-VAE of continuous values, of which the first rank misses more than the second."""
    spec = SignalSpec(SPEC.channels, SPEC.size, domain=Continuous())
    whole = vqvae(spec, likelihood=NormalConfig())

    def batch(step: int) -> Batch:
        x = signals(SPEC, NUM, seed=step)
        kept = torch.linspace(0.2, 1, NUM).view(-1, *(1,) * (x.ndim - 1))
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(step)) < kept
        return Batch(x * mask, mask=mask)

    return Trained(whole.build, batch)


def codes(step: int) -> Batch:
    """Codes of one axis, with classes; the items of the first rank are shorter."""
    generator = torch.Generator().manual_seed(step)
    data = torch.randint(5, (NUM, 2, 6), generator=generator)
    labels = torch.randint(3, (NUM,), generator=generator)
    return Batch(data, Conditions(label=labels), lengths=torch.tensor([1, 2, 3, 2, 6, 5, 6, 6]))


def prior() -> Trained:
    """An autoregressive prior."""
    config = TransformerConfig.tiny().model_copy(update={"label_dropout": 0.5})
    return Trained(lambda: LearnedPrior(config.build(5, 2, {"label": 3}), (6,)), codes)


def masked_prior() -> Trained:
    """A masked prior, which draws what it hides."""
    sizes = {"channels": 16, "layers": 1, "heads": 2, "label_dropout": 0.5}
    return Trained(lambda: MaskedPrior(5, 2, (6,), {"label": 3}, **sizes), codes)


def masked() -> Trained:
    """Masked prediction over log-mels; the items of the first rank end in silence."""

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        x = 2 * torch.rand(NUM, NUM_MELS, FRAMES, generator=generator) - 1
        x[: NUM // WORLD, :, FRAMES // 4 :] = -1
        return Batch(x)

    def build() -> MaskedPrediction:
        encoder = ContextEncoderConfig.tiny().model_copy(update={"dropout": 0.0})
        made = MaskedPrediction(MaskedPredictionConfig.tiny(), encoder, SignalSpec(NUM_MELS, (FRAMES,)))
        made.centres.normal_()
        return made

    return Trained(build, batch)


def objective() -> Trained:
    """A model with further terms, one of them balanced by gradients of all ranks."""
    whole = vqvae(quantizer=GRADIENT)
    judge = AdversarialConfig(
        discriminator=PatchDiscriminatorConfig(width=16, layers=1), feature_matching=0.5
    )
    config = ObjectiveConfig(terms={"l1": L1Config(), "judge": judge})

    def build() -> Trainable:
        made = whole.build()
        assert isinstance(made, LatentVariableModel)
        return config.build(made)

    return Trained(build, whole.batch)


CASES: dict[str, Trained] = {
    **{name: of_signals(case, shares=name != "vqvae-gradient") for name, case in MODELS.items()},
    # With codebooks that collect no statistics, so that the draws alone make the difference.
    "vqvae-jitter": vqvae(SEQUENCE, quantizer=GRADIENT, jitter=0.5),
    "vqvae-code-dropout": vqvae(quantizer=GRADIENT, code_dropout=0.5),
    "vqvae-residual": vqvae(
        quantizer=ResidualVQConfig(
            dim=4, num_codes=8, num_quantizers=3, quantizer_dropout=0.7, codebook=GradientCodebookConfig()
        )
    ),
    "vqvae-reviving": vqvae(quantizer=VectorQuantizerConfig(num_codes=40, code_dim=4, codebook=REVIVING)),
    "vqvae-multi-scale": vqvae(
        quantizer=MultiScaleVQConfig(dim=4, num_codes=8, scales=((1, 1), (2, 2)), codebook=REVIVING)
    ),
    "vqvae-nsvq": vqvae(
        quantizer=VectorQuantizerConfig(
            num_codes=8, code_dim=4, codebook=GradientCodebookConfig(), gradient=NSVQConfig()
        )
    ),
    "vqvae-fsq": vqvae(quantizer=FSQConfig(levels=(4, 3)), shares=False),
    # The entropy of the batch is that of all ranks.
    "vqvae-lfq": vqvae(quantizer=LFQConfig(bits=4, temperature=1.0)),
    "vqvae-bsq": vqvae(quantizer=BSQConfig(bits=5, group_bits=3)),
    "vqvae-residual-fsq": vqvae(quantizer=ResidualFSQConfig(levels=(4, 3), quantizer_dropout=0.7)),
    "vqvae-ibq": vqvae(quantizer=IBQConfig(dim=4, num_codes=8, entropy_weight=2.0, entropy_temperature=0.3)),
    "vqvae-missing": with_missing_values(),
    "objective": objective(),
    "prior": prior(),
    "masked-prior": masked_prior(),
    "masked": masked(),
}


def share(batch: Batch, rank: int, world: int) -> Batch:
    """The items of a rank."""
    return batch.part(torch.arange(rank * NUM // world, (rank + 1) * NUM // world))


def normalised(loss: Tensor, batch: Batch) -> Tensor:
    """A mutant: the loss is divided by a statistic of the items of this rank, not of all ranks."""
    return loss / batch.data.float().std()


def trained(
    case: Trained, rank: int, world: int, steps: int = STEPS, mutate: Mutation | None = None
) -> Results:
    """Losses and gradients of every step, and the buffers at the end, as computed by one rank."""
    torch.manual_seed(0)
    model = case.build().train()
    averaged: dict[str, Tensor] = {}
    for step in range(steps):
        batch = share(case.batch(step), rank, world)
        torch.manual_seed(step)
        loss = model.loss(batch).total
        loss = mutate(loss, batch) if mutate else loss
        loss.backward()
        averaged[f"{step} loss"] = loss.detach()
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            averaged[f"{step} gradient of {name}"] = gradient.clone()
        model.zero_grad()
    return {"averaged": averaged, "equal": {name: buffer.clone() for name, buffer in model.named_buffers()}}


@contextmanager
def alone() -> Iterator[None]:
    """A mutant: every rank draws and collects statistics as if there were no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "rank_and_world", lambda: (0, 1))
        yield


def work(rank: int) -> dict[str, dict[str, Results]]:
    """The results of every case on one rank, and those of the first step of its mutants."""
    results = {}
    for name, case in CASES.items():
        results[name] = {
            "": trained(case, rank, WORLD),
            "normalised": trained(case, rank, WORLD, 1, normalised),
        }
        with alone():
            results[name]["alone"] = trained(case, rank, WORLD, 1)
    return results


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Results]]]:
    return on_ranks(work, WORLD)


def assert_as_in_one_process(of_ranks: Sequence[Results], whole: Results) -> None:
    means = {
        name: torch.stack([each["averaged"][name] for each in of_ranks]).mean(0) for name in whole["averaged"]
    }
    torch.testing.assert_close(means, whole["averaged"], rtol=1e-4, atol=1e-5)
    for each in of_ranks:
        torch.testing.assert_close(each["equal"], whole["equal"])


EVERY = pytest.mark.parametrize("name", CASES)


def test_every_trainable_is_in_the_table() -> None:
    assert concrete(Trainable) == {type(case.build()) for case in CASES.values()}


@EVERY
def test_ranks_train_as_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    assert_as_in_one_process([each[name][""] for each in ranks], trained(CASES[name], 0, 1))


@EVERY
def test_a_loss_that_is_normalised_by_rank_is_noticed(name: str, ranks: list[dict[str, Any]]) -> None:
    whole = trained(CASES[name], 0, 1, 1, normalised)
    with pytest.raises(AssertionError):
        assert_as_in_one_process([each[name]["normalised"] for each in ranks], whole)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.shares])
def test_draws_and_statistics_of_one_rank_are_noticed(name: str, ranks: list[dict[str, Any]]) -> None:
    whole = trained(CASES[name], 0, 1, 1)
    with pytest.raises(AssertionError):
        assert_as_in_one_process([each[name]["alone"] for each in ranks], whole)
