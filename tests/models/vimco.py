"""Tiny VIMCO models, and their bounds by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.core.conditions import Batch
from smalti.core.priors import DensityPrior
from smalti.core.results import Bound
from smalti.core.signals import SignalSpec
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from tests.models.tiny import all_grids, exaggerate

SMALLEST = SignalSpec(1, (4,), levels=4)
LARGER = SignalSpec(3, (8, 12))
TWICE = SignalSpec(1, (8,), levels=4)
"""As the smallest, with codes at two positions."""


def vimco(spec: SignalSpec = LARGER, encoder_times: float = 4, **settings) -> VIMCO:
    """A model whose codes matter, and whose posterior is neither uniform nor the true one."""
    torch.manual_seed(0)
    model = VIMCOConfig.tiny().model_copy(update=settings).build(spec)
    exaggerate(model.encoder, times=encoder_times)
    exaggerate(model.decoder)
    return model.eval()


def listed(spec: SignalSpec = SMALLEST, num_codes: int = 3, num_codebooks: int = 1, **settings) -> VIMCO:
    """One whose codes can be listed."""
    settings = {"num_samples": 2, "decode_at_once": 1000, "likelihood": CategoricalConfig(), **settings}
    return vimco(spec, num_codes=num_codes, num_codebooks=num_codebooks, **settings)


LISTED = pytest.mark.parametrize(
    "sizes",
    [
        {"spec": SMALLEST, "num_codes": 3},
        {"spec": TWICE, "num_codes": 3},
        {"spec": SMALLEST, "num_codes": 3, "num_codebooks": 2},
    ],
    ids=["one code", "two positions", "two codebooks"],
)


def log_posteriors(model: VIMCO, x: Tensor) -> Tensor:
    """ln q(z | x) of every signal and every grid of `all_grids`, `(B, Z)`, with its gradient."""
    codes = F.one_hot(all_grids(model), model.num_codes).double()
    logits = model.encoder(x).reshape(len(x), model.num_codebooks, model.num_codes, *model.grid)
    log_q = logits - logits.logsumexp(2, keepdim=True)
    return torch.einsum("bgkn,zgnk->bz", log_q, codes)


def log_likelihoods(model: VIMCO, x: Tensor) -> Tensor:
    """ln p(x | z) of every signal and every grid of `all_grids`, `(B, Z)`, with its gradient."""
    codes = F.one_hot(all_grids(model), model.num_codes).double()
    latents = torch.einsum("zgnk,gkd->zgdn", codes, model.embeddings).flatten(1, 2)
    likelihood = model.family(model.decoder(latents))
    each = [likelihood.log_prob(one.expand(len(codes), *one.shape)).flatten(1).sum(1) for one in x]
    return torch.stack(each)


def log_priors(model: VIMCO, prior: Prior | None = None) -> Tensor:
    """ln p(z) of every grid."""
    grids = all_grids(model)
    if prior is None:
        return torch.full((len(grids),), -math.log(len(grids)))
    return prior.log_prob(grids).double()


def exact_bound(log_q: Tensor, log_joint: Tensor, draws: int) -> Tensor:
    """The bound of so many draws in expectation, for one signal: a sum over all tuples of grids."""
    log_weights = log_joint - log_q
    total = torch.zeros(())
    for drawn in itertools.product(range(len(log_q)), repeat=draws):
        chosen = list(drawn)
        bound = log_weights[chosen].logsumexp(0) - math.log(draws)
        total = total + log_q[chosen].sum().exp() * bound
    return total


def repeated(model: VIMCO, x: Tensor, times: int, draws: int, *priors: DensityPrior) -> dict[str, Bound]:
    """Bounds of one signal from fresh draws, so often."""
    batch = Batch(x.expand(times, *x.shape[1:]))
    return measure(model, batch, priors, draws, torch.Generator().manual_seed(0)).bounds


def assert_mean(values: Tensor, expected: Tensor) -> None:
    error = values.std() / math.sqrt(len(values))
    assert error < 0.25
    assert (values.mean() - expected).abs() < 4 * error + 1e-6
