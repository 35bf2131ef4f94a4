"""Missing values: loss and score are those of the same data without these entries."""

import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.signals import Continuous, SignalSpec
from smalti.core.units import sum_over_items
from smalti.evaluation.evaluate import evaluate
from smalti.likelihoods.normal import NormalConfig
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vae import VAEConfig
from smalti.models.vimco import VIMCOConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.uniform import UniformPrior

SPEC = SignalSpec(2, (8, 8), domain=Continuous())
LENGTHS = torch.tensor([8, 5, 3])


@pytest.fixture(params=[VQVAEConfig, VAEConfig, VIMCOConfig, HierarchyConfig])
def model(request):
    torch.manual_seed(0)
    config = request.param.tiny().model_copy(update={"likelihood": NormalConfig()})
    return config.build(SPEC).eval()


def tails() -> tuple[torch.Tensor, torch.Tensor]:
    """Signals that are zero, and missing, from some length on."""
    mask = (torch.arange(8) < LENGTHS.unsqueeze(1)).view(3, 1, 8, 1).expand(3, 2, 8, 8)
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return x * mask, mask


def test_a_missing_tail_costs_what_padding_does(model):
    x, mask = tails()
    losses = []
    for batch in (Batch(x, mask=mask), Batch(x, lengths=LENGTHS)):
        torch.manual_seed(0)
        losses.append(model.loss(batch))
    torch.testing.assert_close(losses[0].total, losses[1].total)
    assert losses[0].terms.keys() == losses[1].terms.keys()
    for name, term in losses[0].terms.items():
        torch.testing.assert_close(term, losses[1].terms[name])
    masked, padded = (
        evaluate(model, priors(model), [batch], draws=2)
        for batch in (Batch(x, mask=mask), Batch(x, lengths=LENGTHS))
    )
    for name, row in masked.density.items():
        assert row == pytest.approx(padded.density[name], rel=1e-5)
    assert masked.reconstruction == pytest.approx(padded.reconstruction, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (VAEConfig, ("distortion_nats_per_dim", "rate_nats_per_dim")),
        (VIMCOConfig, ("nats_per_dim_weighted",)),
    ],
)
def test_logged_terms_are_per_observed_value(config, parts):
    """The loss is per position; the same nats are logged per value that is neither padding nor missing."""
    x, mask = tails()
    model = config.tiny().model_copy(update={"likelihood": NormalConfig()}).build(SPEC).eval()
    loss = model.loss(Batch(x, mask=mask))
    logged = sum(loss.terms[name] for name in parts) * mask.sum()
    torch.testing.assert_close(logged, loss.total.detach() * x.numel())


def test_a_batch_without_any_value_has_finite_terms(model):
    x = torch.zeros(3, 2, 8, 8)
    loss = model.loss(Batch(x, mask=torch.zeros_like(x, dtype=torch.bool)))
    assert loss.total.isfinite()
    assert all(term.isfinite() for term in loss.terms.values())


def test_vimco_scores_only_what_is_within_the_lengths():
    """13 values padded to 16: each draw costs what its likelihood gives to the 13."""
    torch.manual_seed(0)
    config = VIMCOConfig.tiny().model_copy(update={"likelihood": NormalConfig(), "decode_at_once": 2})
    model = config.build(SignalSpec(1, (16,), domain=Continuous())).eval()
    x = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1))
    x[1, :, 13:] = 0
    terms = model.bound_terms(Batch(x, lengths=torch.tensor([16, 13])), 3, torch.Generator().manual_seed(0))
    for codes, distortions in zip(terms.draws, terms.distortions, strict=True):
        each = -model.likelihood(codes).log_prob(x).detach().double()
        expected = torch.stack([each[0].sum(), each[1, :, :13].sum()])
        torch.testing.assert_close(distortions, expected, rtol=1e-5, atol=0)


def test_scattered_entries_are_left_out_of_the_distortion():
    torch.manual_seed(0)
    config = VQVAEConfig.tiny().model_copy(update={"likelihood": NormalConfig()})
    model = config.build(SPEC).eval()
    mask = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.6
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * mask
    with torch.no_grad():
        each = -model.likelihood(model.encode(x)).log_prob(x).double()
    present = each[mask]
    row = evaluate(model, priors(model), [Batch(x, mask=mask)]).density["uniform"]
    assert row["distortion"] == pytest.approx(present.sum().item() / len(present), rel=1e-5)
    codes = model.num_codebooks * math.prod(model.grid)
    assert row["rate"] == pytest.approx(3 * codes * math.log(model.num_codes) / len(present), rel=1e-5)
    assert row["nats_per_dim"] == pytest.approx(row["rate"] + row["distortion"])
    assert "bits_per_dim" not in row
    term = model.loss(Batch(x, mask=mask)).terms["distortion_nats_per_dim"]
    assert term.item() == pytest.approx(row["distortion"], rel=1e-5)


def test_a_missing_entry_has_no_gradient():
    x, mask = tails()
    x = x.requires_grad_()
    sum_over_items(x.square(), mask=mask).sum().backward()
    assert torch.equal(x.grad != 0, mask & (x != 0))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_values_that_count(masked, lengths):
    mask = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.6
    counted = mask.clone() if masked else torch.ones_like(mask)
    if lengths is not None:
        for item, length in zip(counted, lengths.tolist(), strict=True):
            item[:, length:] = False
    batch = Batch(torch.zeros(3, 2, 8, 8), lengths=lengths, mask=mask if masked else None)
    assert torch.equal(batch.num_values(), counted.flatten(1).sum(1))


def priors(model):
    if not hasattr(model, "num_codes"):
        return []
    return [UniformPrior(model.num_codes, model.num_codebooks, model.grid)]
