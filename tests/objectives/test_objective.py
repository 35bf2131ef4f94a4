"""What an objective minimises, with which parameters, against sums by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.errors import Diverged, InputError
from smalti.core.models import ForwardPass, LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.likelihoods.gaussian import GaussianFamily
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vae import VAEConfig
from smalti.models.vimco import VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.objectives.adversarial import Adversarial
from smalti.objectives.base import Term
from smalti.objectives.discriminators.base import DISCRIMINATORS, Discriminator, Verdict
from smalti.objectives.discriminators.patch import PatchDiscriminator
from smalti.objectives.discriminators.waveform import WaveformDiscriminator
from smalti.objectives.objective import Objective, ObjectiveConfig
from smalti.objectives.pixel import L1, L2
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit
from tests.conformance.classes import concrete

SPEC = SignalSpec(channels=1, size=(16, 16))


def model(config: Any = None) -> Any:
    torch.manual_seed(0)
    return (config or VQVAEConfig.tiny()).build(SPEC)


def batch(**given: Any) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randint(256, (4, 1, 16, 16), generator=generator) / 127.5 - 1, **given)


def judge(weight: float = 0.5, start: int = 0, **settings: Any) -> Adversarial:
    torch.manual_seed(2)
    return Adversarial(PatchDiscriminator(1, width=16, layers=2), weight, start, **settings)


def slopes(total: Tensor, of: nn.Module) -> dict[str, Tensor]:
    named = {name: each for name, each in of.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if each is None else each
        for (name, p), each in zip(named.items(), found, strict=True)
    }


def assert_close(received: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            received[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def output_slope(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Gradient of an objective's loss at the decoder's output."""
    kept: list[Tensor] = []
    original = type(objective.model).forward_pass

    def forward_pass(self: Any, given: Batch) -> ForwardPass:
        run = original(self, given)
        kept.append(run.output)
        return run

    with monkeypatch.context() as patched:
        patched.setattr(type(objective.model), "forward_pass", forward_pass)
        (slope,) = torch.autograd.grad(objective.loss(batch()).total, kept)
    return slope


@pytest.mark.parametrize("config", [VQVAEConfig.tiny(), VAEConfig.tiny(), HierarchyConfig.tiny()])
def test_the_likelihood_alone_is_the_loss_of_the_model(config: Any) -> None:
    made = model(config).eval()
    torch.manual_seed(3)
    expected = made.loss(batch())
    torch.manual_seed(3)
    received = Objective(made).eval().loss(batch())
    assert received.terms.keys() == expected.terms.keys()
    torch.testing.assert_close(received.total, expected.total)
    assert_close(slopes(received.total, made), slopes(expected.total, made))


def by_hand(made: VQVAE, likelihood: float, terms: Sequence[tuple[float, Term]]) -> Tensor:
    run = made.forward_pass(batch())
    distortion = -run.likelihood.log_prob(batch().data).mean()
    reconstruction = run.likelihood.mean()
    extra = sum((weight * term(reconstruction, batch().data) for weight, term in terms), torch.zeros(()))
    return likelihood * distortion + extra + run.latent_loss


def test_terms_are_added_by_their_weights() -> None:
    made, gan = model().eval(), judge(0.7, balance=False, feature_matching=0.3)
    objective = Objective(made, {"l1": L1(2.0), "l2": L2(3.0), "gan": gan}, likelihood=0.5).eval()
    loss = objective.loss(batch())
    expected = by_hand(made, 0.5, [(2.0, L1()), (3.0, L2()), (0.7, gan)])
    torch.testing.assert_close(loss.total, expected)
    assert_close(slopes(loss.total, made), slopes(expected, made))
    assert {"l1", "l2", "gan", "distortion_bits_per_dim"} <= loss.terms.keys()
    assert not any(value.requires_grad for value in loss.terms.values())


def test_without_gradients_every_term_has_its_weight() -> None:
    made, gan = model().eval(), judge(0.7)
    objective = Objective(made, {"l1": L1(2.0), "gan": gan}).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            objective.loss(batch()).total, by_hand(made, 1.0, [(2.0, L1()), (0.7, gan)])
        )


def test_a_balanced_term_has_its_share_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model().eval()
    without = output_slope(Objective(made, {"l1": L1(2.0)}).eval(), monkeypatch)
    objective = Objective(made, {"l1": L1(2.0), "gan": judge(0.25)}).eval()
    added = output_slope(objective, monkeypatch) - without
    assert added.norm().item() == pytest.approx(0.25 * without.norm().item(), rel=1e-4)
    unbalanced = Objective(made, {"l1": L1(2.0), "gan": judge(1.0, balance=False)}).eval()
    plain = output_slope(unbalanced, monkeypatch) - without
    torch.testing.assert_close(added / added.norm(), plain / plain.norm(), rtol=1e-3, atol=1e-5)
    factor = objective.loss(batch()).terms["gan_factor"]
    assert factor.item() == pytest.approx(added.norm().item() / plain.norm().item(), rel=1e-3)


def test_a_term_starts_at_its_step() -> None:
    objective = Objective(model().eval(), {"l1": L1(2.0, start=5), "gan": judge(start=7)}).eval()
    seen = {}
    for step in (4, 5, 7):
        objective.trained_steps = step
        seen[step] = {"l1", "gan"} & objective.loss(batch()).terms.keys()
    assert seen == {4: set(), 5: {"l1"}, 7: {"l1", "gan"}}
    assert [phase.start for phase in objective.phases()] == [0, 7]


@pytest.mark.parametrize("balance", [True, False])
def test_gradients_of_all_parameters_with_a_discriminator(balance: bool) -> None:
    config = VQVAEConfig.tiny().changed({"likelihood": {"kind": "gaussian"}})
    made, gan = model(config).eval(), judge(0.3, balance=balance)
    objective = Objective(made, {"l1": L1(2.0), "gan": gan}, likelihood=0.5).eval()
    loss = objective.loss(batch())
    factor = loss.terms["gan_factor"].item() if balance else 0.3
    expected = by_hand(made, 0.5, [(2.0, L1()), (factor, gan)])
    torch.testing.assert_close(loss.total, expected)
    assert_close(slopes(loss.total, made), slopes(expected, made))


def test_values_beyond_the_range_keep_a_gradient() -> None:
    far = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    mean = GaussianFamily(1)(far).straight_through_mean()
    assert torch.equal(mean, torch.ones_like(mean))
    (slope,) = torch.autograd.grad(L2()(mean, torch.zeros_like(mean)), far)
    assert (slope > 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_values_beyond_the_range_do_not_go_further(sign: int) -> None:
    # A term that sees clipped values, such as features of a network, may ask for ever more.
    raw = torch.tensor([3.0, 0.5, -3.0]).mul(sign).view(1, 1, 1, 3).requires_grad_()
    mean = GaussianFamily(1)(raw).straight_through_mean()
    (slope,) = torch.autograd.grad(-(mean * torch.tensor([1.0, 1.0, -1.0]) * sign).sum(), raw)
    assert (slope * sign).flatten().tolist() == [0.0, -1.0, 0.0]
    (slope,) = torch.autograd.grad(GaussianFamily(1)(raw).straight_through_mean().square().sum(), raw)
    torch.testing.assert_close(slope, 2 * raw.clamp(-1, 1))


def test_a_discriminator_may_learn_before_its_term_joins_in() -> None:
    objective = Objective(model(), {"gan": judge(start=7, head_start=3)})
    (_, phase) = objective.phases()
    assert phase.start == 4
    objective.trained_steps = 4
    assert "gan" not in objective.loss(batch()).terms
    assert phase.loss(batch()).total.isfinite()
    assert Objective(model(), {"gan": judge(start=2, head_start=3)}).phases()[1].start == 0


def test_each_phase_reaches_its_own_parameters_alone() -> None:
    objective = Objective(model(), {"gan": judge(every=3, learning_rate_scale=0.5)})
    generator, discriminator = objective.phases()
    assert (discriminator.name, discriminator.every, discriminator.learning_rate_scale) == ("gan", 3, 0.5)
    own = {id(each) for each in discriminator.parameters}
    assert own == {id(each) for each in objective.terms["gan"].parameters()}
    assert {id(each) for each in generator.parameters} == {id(e) for e in objective.model.parameters()}
    objective.zero_grad()
    generator.loss(batch()).total.backward()
    assert all(each.grad is None for each in discriminator.parameters)
    before = [None if each.grad is None else each.grad.clone() for each in generator.parameters]
    discriminator.loss(batch()).total.backward()
    assert all(each.grad is not None for each in discriminator.parameters)
    for earlier, each in zip(before, generator.parameters, strict=True):
        assert earlier is None or torch.equal(earlier, each.grad)


def logits(term: Adversarial, signal: Tensor) -> list[Tensor]:
    return [verdict.logits for verdict in term.discriminator(signal)]


@pytest.mark.parametrize("kind", ["hinge", "non-saturating"])
def test_losses_of_the_discriminator_and_the_model(kind: Any) -> None:
    real, fake = batch().data, batch().data.flip(0) * 0.5
    term = judge(loss=kind)
    (of_real,), (of_fake,) = logits(term, real), logits(term, fake)
    if kind == "hinge":
        expected, deceiving = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean(), -of_fake.mean()
    else:
        expected = -F.logsigmoid(of_real).mean() - torch.log1p(-of_fake.sigmoid()).mean()
        deceiving = -F.logsigmoid(of_fake).mean()
    found = term.discriminator_loss(fake, real)
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(term(fake, real), deceiving)
    torch.testing.assert_close(found.terms["real_logits"], of_real.mean().detach())
    torch.testing.assert_close(found.terms["fake_logits"], of_fake.mean().detach())


def test_r1_is_the_squared_slope_at_signals() -> None:
    real, fake = batch().data, batch().data.flip(0) * 0.5
    plain, term = judge(), judge(r1=4.0)
    penalty = term.discriminator_loss(fake, real).total - plain.discriminator_loss(fake, real).total
    x = real.clone().requires_grad_()
    each = logits(term, x)[0].flatten(1).mean(1)
    squares = [torch.autograd.grad(value, x, retain_graph=True)[0].square().sum() for value in each]
    torch.testing.assert_close(penalty, 4.0 / 2 * torch.stack(squares).mean(), rtol=1e-3, atol=1e-6)


def test_lecam_compares_with_the_averages_of_the_other_kind() -> None:
    real, fake = batch().data, batch().data.flip(0) * 0.5
    plain, term = judge(), judge(lecam=3.0).eval()
    term.average_logits.copy_(torch.tensor([0.4, -0.3]))
    (of_real,), (of_fake,) = logits(term, real), logits(term, fake)
    distance = F.relu(of_real + 0.3).square().mean() + F.relu(0.4 - of_fake).square().mean()
    added = term.discriminator_loss(fake, real).total - plain.discriminator_loss(fake, real).total
    torch.testing.assert_close(added, 3.0 * distance)
    assert torch.equal(term.average_logits, torch.tensor([0.4, -0.3])), "fixed in evaluation mode"
    term.train().discriminator_loss(fake, real).total.backward()
    means = torch.stack([of_real.mean(), of_fake.mean()])
    torch.testing.assert_close(term.average_logits, torch.tensor([0.4, -0.3]).lerp(means, 0.01))


def test_without_weight_the_likelihood_fits_its_own_parameters_alone() -> None:
    config = VQVAEConfig.tiny().changed({"likelihood": {"kind": "gaussian"}})
    made = model(config).eval()
    objective = Objective(made, {"l1": L1()}, likelihood=0.0).eval()
    found = slopes(objective.loss(batch()).total, made)
    run = made.forward_pass(batch())
    distortion = -run.likelihood.log_prob(batch().data).mean()
    scale = slopes(distortion, made)["family.log_scale"]
    rest = slopes(L1()(run.likelihood.mean(), batch().data) + run.latent_loss, made)
    assert_close(found, {**rest, "family.log_scale": scale})


def test_padding_and_missing_values_do_not_count() -> None:
    mask = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(5)) < 0.7
    objective = Objective(model().eval(), {"l1": L1(), "l2": L2()}).eval()
    given = batch(mask=mask)
    clean = Batch(torch.where(mask, given.data, 0), mask=mask)
    run = objective.model.forward_pass(clean)
    error = ((run.likelihood.mean() - clean.data).abs() * mask).mean()
    torch.testing.assert_close(objective.loss(clean).terms["l1"], error.detach())


def test_padded_items_count_up_to_their_length() -> None:
    lengths = torch.tensor([16, 16, 9, 5])
    objective = Objective(model().eval(), {"l1": L1()}).eval()
    given = batch(lengths=lengths)
    error = (objective.model.forward_pass(given).likelihood.mean() - given.data).abs()
    inside = torch.arange(16)[None, :, None] < lengths[:, None, None]
    expected = (error[:, 0] * inside).mean()
    torch.testing.assert_close(objective.loss(given).terms["l1"], expected.detach())


def test_frozen_codes_keep_the_regularisation_of_latents() -> None:
    config = VQVAEConfig.tiny().changed({"code_dropout": 0.5})
    objective = Objective(model(config), {"l1": L1()}, freeze_codes=True)
    objective.train()
    made = objective.model
    assert made.training
    assert made.decoder.training
    assert not any(part.training for part in (made.encoder, made.quantizer))
    objective.eval()
    assert not any(part.training for part in (made, made.decoder))


def test_frozen_codes_stay_while_the_decoder_learns() -> None:
    made = model()
    before, codes = copy.deepcopy(made.state_dict()), made.eval().encode(batch().data)
    objective = Objective(made, {"l1": L1()}, freeze_codes=True)
    objective.train()
    (phase,) = objective.phases()
    optimizer = torch.optim.Adam(phase.parameters, 0.01)
    for _ in range(3):
        objective(batch(), phase).total.backward()
        optimizer.step()
        objective.zero_grad()
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("decoder.", "family.")) for name in changed)
    assert torch.equal(made.eval().encode(batch().data), codes)


def test_measure_averages_terms_over_items() -> None:
    made = model().eval()
    objective = Objective(made, {"l1": L1(2.0), "gan": judge()})
    whole = batch()
    parts = [Batch(whole.data[:3]), Batch(whole.data[3:])]
    expected = (made.reconstruct(whole.data) - whole.data).abs().mean().item()
    assert objective.measure(made, parts) == {"l1": pytest.approx(expected, rel=1e-5)}


def test_configs_name_terms_by_their_kind() -> None:
    assert ObjectiveConfig().is_plain
    made = model()
    assert ObjectiveConfig().build(made) is made
    config = ObjectiveConfig.model_validate({"terms": {"l1": {"weight": 3}, "squares": {"kind": "l2"}}})
    assert {name: (each.kind, each.weight) for name, each in config.terms.items()} == {  # pyright: ignore
        "l1": ("l1", 3.0),
        "squares": ("l2", 1.0),
    }
    assert ObjectiveConfig.model_validate(config.model_dump(mode="json")) == config
    objective = config.build(made)
    assert isinstance(objective, Objective)
    assert objective.product is made


@pytest.mark.parametrize("terms", [{"gan": judge()}, {"l1": L1(start=5)}], ids=["balanced", "later"])
def test_without_the_likelihood_a_term_gives_the_scale_from_the_first_step(terms: dict[str, Term]) -> None:
    with pytest.raises(InputError, match="starts at step 0"):
        Objective(model(), terms, likelihood=0.0)
    Objective(model(), {**terms, "l2": L2()}, likelihood=0.0)


@pytest.mark.parametrize("settings", [{"likelihood": 0.0}, {"likelihood": -1.0}])
def test_there_is_something_to_minimise(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="likelihood weight above 0"):
        Objective(model(), **settings)


@pytest.mark.parametrize("name", ["model", "a.b", "a b", ""])
def test_names_of_terms(name: str) -> None:
    with pytest.raises((InputError, KeyError), match=r"names of terms|module name"):
        Objective(model(), {name: L1()})


def test_models_without_a_reconstruction_are_refused() -> None:
    with pytest.raises(InputError, match="one reconstruction"):
        Objective(model(VIMCOConfig.tiny()), {"l1": L1()})
    with pytest.raises(InputError, match="one reconstruction"):
        LatentVariableModel.forward_pass(model(), batch())


@pytest.mark.parametrize(
    "settings",
    [{"loss": "wasserstein"}, {"r1": -1.0}, {"lecam": -0.1}, {"feature_matching": -1.0}, {"head_start": -1}],
)
def test_adversarial_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="hinge, non-saturating, and weights"):
        judge(**settings)


@pytest.mark.parametrize(
    "settings", [{"periods": (0,)}, {"windows": (4,)}, {"periods": (), "windows": ()}, {"periods": (2, -3)}]
)
def test_waveform_discriminators_without_networks(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="periods of at least 1"):
        WaveformDiscriminator(2, **settings)


def test_verdicts_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    pictures, sounds = torch.rand(3, 1, 32, 32), torch.rand(3, 1, 3000)
    cases: list[tuple[Discriminator, Tensor]] = [
        (PatchDiscriminator(1, 8, 2), pictures),
        (WaveformDiscriminator(4), sounds),
    ]
    assert {type(each) for each, _ in cases} == concrete(Discriminator)
    for discriminator, signal in cases:
        config = discriminator.config
        assert DISCRIMINATORS.parse(config.model_dump(mode="json")) == config
        whole: Sequence[Verdict] = discriminator(signal)
        alone = discriminator(signal[1:2])
        for ours, theirs in zip(whole, alone, strict=True):
            torch.testing.assert_close(ours.logits[1:2], theirs.logits, rtol=1e-4, atol=1e-5)
            assert ours.features


def test_a_discriminator_that_is_not_finite_is_named(tmp_path: Path) -> None:
    objective = Objective(model(), {"l1": L1(), "gan": judge(start=5, head_start=5)})
    with torch.no_grad():
        next(objective.terms["gan"].parameters()).fill_(torch.nan)

    def feed(step: int, rank: int, world: int) -> Batch:
        return batch()

    config = TrainingConfig(steps=3, precision="fp32", log_every=1)
    with pytest.raises(Diverged, match=r"gan/(classification|real_logits|fake_logits).* at step 1"):
        fit(objective, feed, config, RunDirectory(tmp_path), Engine("fp32"))
