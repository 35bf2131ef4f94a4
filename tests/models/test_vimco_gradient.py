"""VIMCO: its signals, gradient and loss against sums over all tuples of draws of tiny models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import smalti.models.vimco
from smalti.core.conditions import Batch
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.models.vimco import VIMCO, vimco_signals
from smalti.priors.uniform import UniformPrior
from tests.models.tiny import LIKELIHOODS, all_grids, exaggerate, gradients, signals
from tests.models.vimco import (
    LARGER,
    SMALLEST,
    TWICE,
    exact_bound,
    listed,
    log_likelihoods,
    log_posteriors,
    log_priors,
    repeated,
    vimco,
)


def naive_signals(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L and L - L_-i by loops; a common factor is taken out, which floats could not hold."""
    draws, items = log_weights.shape
    bound, learning = np.zeros(items), np.zeros((draws, items))
    for b in range(items):
        top = log_weights[:, b].max()
        weights = [math.exp(value - top) for value in log_weights[:, b]]
        bound[b] = math.log(sum(weights) / draws) + top
        for i in range(draws):
            others = [log_weights[j, b] for j in range(draws) if j != i]
            replaced = [*others, sum(others) / len(others)]
            top_of_them = max(replaced)
            total = sum(math.exp(value - top_of_them) for value in replaced)
            learning[i, b] = bound[b] - (math.log(total / draws) + top_of_them)
    return bound, learning


class TestSignals:
    @pytest.mark.parametrize("scale", [0.1, 3.0, 1000.0])
    @pytest.mark.parametrize(("draws", "items"), [(2, 1), (3, 4), (50, 3)])
    def test_equal_the_naive_loop(self, draws, items, scale):
        log_weights = np.random.default_rng(draws).normal(-6000, scale, (draws, items))
        bound, learning = vimco_signals(torch.tensor(log_weights))
        expected_bound, expected = naive_signals(log_weights)
        np.testing.assert_allclose(bound, expected_bound, rtol=1e-12)
        np.testing.assert_allclose(learning, expected, rtol=1e-9, atol=1e-9)

    def test_of_equal_draws_there_is_nothing_to_learn(self):
        bound, learning = vimco_signals(torch.full((4, 2), -7.0))
        torch.testing.assert_close(bound, torch.full((2,), -7.0))
        torch.testing.assert_close(learning, torch.zeros(4, 2))

    def test_the_better_draw_is_learnt_from_and_the_worse_unlearnt(self):
        _, learning = vimco_signals(torch.tensor([[-5.0], [-9.0], [-9.0]]))
        assert learning[0] > 1
        assert (learning[1:] < 0).all()


def expected_gradients(model: VIMCO, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The loss's gradient in expectation: every tuple of draws, as often as it occurs."""
    grids, draws = all_grids(model), model.config.num_samples
    log_q = log_posteriors(model, x)[0].detach()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for drawn in itertools.product(range(len(grids)), repeat=draws):
        chosen = list(drawn)
        monkeypatch.setattr(smalti.models.vimco, "_draw", lambda *_, c=chosen: grids[c].unsqueeze(1))
        probability = log_q[chosen].sum().exp()
        for name, gradient in gradients(model, model.loss(Batch(x)).total).items():
            total[name] += probability * gradient
    return total


@pytest.mark.usefixtures("double")
class TestGradient:
    @pytest.mark.parametrize(
        ("sizes", "num_samples"),
        [
            ({"spec": SMALLEST, "num_codes": 3}, 2),
            ({"spec": SMALLEST, "num_codes": 3}, 3),
            ({"spec": SMALLEST, "num_codes": 2}, 5),
            ({"spec": TWICE, "num_codes": 2}, 3),
            ({"spec": TWICE, "num_codes": 3}, 2),
            ({"spec": SMALLEST, "num_codes": 2, "num_codebooks": 2}, 3),
        ],
    )
    def test_in_expectation_is_that_of_the_bound(self, sizes, num_samples, monkeypatch: pytest.MonkeyPatch):
        model = listed(**sizes, num_samples=num_samples)
        (x,) = signals(model.signal, 1, seed=num_samples).split(1)
        log_joint = log_likelihoods(model, x)[0] + log_priors(model)
        bound = exact_bound(log_posteriors(model, x)[0], log_joint, num_samples)
        exact = gradients(model, -bound / model.signal.dims)
        ours = expected_gradients(model, x, monkeypatch)
        for name, gradient in exact.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)
            assert gradient.any(), name

    def test_of_a_mixture_of_logistics_too(self, monkeypatch: pytest.MonkeyPatch):
        model = listed(num_samples=3, likelihood=LogisticMixtureConfig(components=2))
        (x,) = signals(model.signal, 1).split(1)
        log_joint = log_likelihoods(model, x)[0] + log_priors(model)
        bound = exact_bound(log_posteriors(model, x)[0], log_joint, 3)
        ours = expected_gradients(model, x, monkeypatch)
        for name, gradient in gradients(model, -bound / model.signal.dims).items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)

    def test_of_a_batch_is_the_mean_of_its_items(self, monkeypatch: pytest.MonkeyPatch):
        model = listed(TWICE, num_samples=4)
        x = signals(TWICE, 3)
        codes = model_draws(model, x)
        monkeypatch.setattr(smalti.models.vimco, "_draw", lambda *_: codes)
        whole = gradients(model, model.loss(Batch(x)).total)
        each = []
        for item in range(3):
            monkeypatch.setattr(smalti.models.vimco, "_draw", lambda *_, i=item: codes[:, [i]])
            each.append(gradients(model, model.loss(Batch(x[[item]])).total))
        for name, gradient in whole.items():
            torch.testing.assert_close(gradient, sum(one[name] for one in each) / 3)

    @pytest.mark.parametrize("decode_at_once", [1, 3, 7, 1000])
    def test_does_not_depend_on_how_many_are_decoded_at_once(self, decode_at_once):
        reference, other = (
            vimco(num_samples=5, decode_at_once=size, likelihood=CategoricalConfig())
            for size in (20, decode_at_once)
        )
        found = []
        for model in (reference, other):
            torch.manual_seed(1)
            total = model.loss(Batch(signals(LARGER, 4))).total
            found.append({"value": total.detach(), **gradients(model, total)})
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)

    def test_draws_without_weight_are_left_out_and_nothing_is_lost(self, monkeypatch: pytest.MonkeyPatch):
        """Weights of a whole picture differ by many nats: most draws are not decoded again."""
        model = vimco(num_samples=20, decode_at_once=1)
        exaggerate(model.decoder)
        x = signals(LARGER, 3)
        found, decoded = [], []
        for negligible in (smalti.models.vimco.NEGLIGIBLE, -1.0):
            monkeypatch.setattr(smalti.models.vimco, "NEGLIGIBLE", negligible)
            torch.manual_seed(1)
            total = model.loss(Batch(x)).total
            with_hook = []
            handle = model.decoder.register_forward_hook(lambda *_, calls=with_hook: calls.append(1))
            found.append(gradients(model, total))
            handle.remove()
            decoded.append(len(with_hook))
        assert 3 <= decoded[0] <= 30
        assert decoded[1] == 60
        for name, gradient in found[1].items():
            torch.testing.assert_close(found[0][name], gradient, rtol=1e-5, atol=1e-7)


def model_draws(model: VIMCO, x: Tensor) -> Tensor:
    """Draws of training, `(S, B, G, *grid)`."""
    torch.manual_seed(5)
    return smalti.models.vimco._draw(model.log_posterior(x).detach(), model.config.num_samples)


class TestLoss:
    @LIKELIHOODS
    @pytest.mark.usefixtures("double")
    def test_its_value_is_the_bound_of_its_draws(self, likelihood):
        model = listed(TWICE, num_samples=6, likelihood=likelihood)
        x = signals(TWICE, 5)
        codes = model_draws(model, x)
        torch.manual_seed(5)
        loss = model.loss(Batch(x))
        grids = all_grids(model).tolist()
        log_weights = log_likelihoods(model, x) + log_priors(model) - log_posteriors(model, x)
        drawn = torch.tensor([[grids.index(codes[s, b].tolist()) for s in range(6)] for b in range(5)])
        weights = log_weights.gather(1, drawn).detach()
        bits = 1 / (model.signal.dims * math.log(2))
        bound = (weights.logsumexp(1) - math.log(6)).mean()
        torch.testing.assert_close(loss.total.detach(), -bound / model.signal.dims)
        torch.testing.assert_close(loss.terms["bits_per_dim_weighted"], -bound * bits)
        torch.testing.assert_close(loss.terms["bits_per_dim"], -weights.mean() * bits)
        assert not any(term.requires_grad for term in loss.terms.values())

    @torch.no_grad()
    def test_its_average_is_the_measured_bound(self):
        model = vimco(SMALLEST, num_samples=3, decode_at_once=10_000)
        (x,) = signals(SMALLEST, 1).split(1)
        torch.manual_seed(0)
        loss = model.loss(Batch(x.expand(20_000, 1, 4)))
        prior = UniformPrior(model.num_codes, model.num_codebooks, model.grid)
        bounds = repeated(model, x, 20_000, 3, prior)
        bits = 1 / (4 * math.log(2))
        for name, term in (
            ("uniform, 3 draws", loss.terms["bits_per_dim_weighted"]),
            ("uniform", loss.terms["bits_per_dim"]),
        ):
            assert term.item() == pytest.approx(-bounds[name].log_prob.mean().item() * bits, abs=0.02)

    @LIKELIHOODS
    @pytest.mark.usefixtures("double")
    def test_a_few_steps_raise_the_exact_bound(self, likelihood):
        model = listed(TWICE, num_samples=5, likelihood=likelihood)
        x = signals(TWICE, 6)

        @torch.no_grad()
        def exact() -> float:
            log_q = log_posteriors(model, x)
            return (
                (log_q.exp() * (log_likelihoods(model, x) + log_priors(model) - log_q)).sum(1).mean().item()
            )

        before = exact()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(100):
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(Batch(x)).total.backward()
            optimizer.step()
        assert exact() > before + 1

    def test_a_batch_of_one_and_a_remainder_train(self):
        model = vimco()
        for num in (4, 3, 1):
            loss = model(Batch(signals(LARGER, num))).total
            loss.backward()
            assert loss.isfinite()

    def test_ranks_average_to_one_process(self, monkeypatch: pytest.MonkeyPatch):
        model = vimco()
        x = signals(LARGER, 6)
        torch.manual_seed(3)
        whole = gradients(model, model.loss(Batch(x)).total)
        shares = []
        for rank, part in enumerate(x.split(3)):
            monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda rank=rank: (rank, 2))
            torch.manual_seed(3)
            shares.append(gradients(model, model.loss(Batch(part)).total))
        for name, gradient in whole.items():
            torch.testing.assert_close(
                (shares[0][name] + shares[1][name]) / 2, gradient, rtol=1e-4, atol=1e-6
            )
