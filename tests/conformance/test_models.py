"""Properties of every model of signals, with codes or without. A new one is a line in `CASES`."""

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.evaluation.bounds import measure
from smalti.priors.unigram import UnigramPrior
from tests.conformance.classes import concrete
from tests.conformance.models import CASES, SPEC, cases, everywhere, seeded_loss, signals, trained, uniform
from tests.runs import digests

EVERY = cases(LatentVariableModel)
STOCHASTIC = cases(LatentVariableModel, is_deterministic=False)


def measured_of(model, x: torch.Tensor, draws: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return measure(model, Batch(x), uniform(model), draws, generator)


def assert_same(measured, other) -> None:
    assert measured.bounds.keys() == other.bounds.keys()
    for name, bound in measured.bounds.items():
        assert torch.equal(bound.rate, other.bounds[name].rate), name
        assert torch.equal(bound.distortion, other.bounds[name].distortion), name
    assert torch.equal(measured.reconstruction, other.reconstruction)


def test_every_model_is_in_the_table():
    assert concrete(LatentVariableModel) == {case.kind for case in CASES.values()}


@EVERY
def test_a_case_builds_the_class_that_it_names(case):
    assert type(case.build(SPEC)) is case.kind


def test_every_model_has_a_title_of_its_own():
    titles = {case.kind: case.build(SPEC).title for case in CASES.values()}
    assert len(set(titles.values())) == len(titles)
    assert all(title.strip() == title and len(title.splitlines()) == 1 for title in titles.values())


@EVERY
def test_each_tensor_is_saved_and_averaged_once(case):
    model = case.build(SPEC)
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(places)) == len(places)
    assert sum(p.numel() for p in model.parameters()) == sum(
        model.state_dict()[name].numel() for name, _ in model.named_parameters()
    )


@everywhere(LatentVariableModel)
def test_every_parameter_learns_from_the_loss(case, spec):
    torch.manual_seed(0)
    model = case.build(spec)
    loss = model(Batch(signals(spec, 8)))
    loss.total.backward()
    assert loss.total.shape == ()
    assert loss.total.isfinite()
    assert loss.terms
    assert not any(term.requires_grad for term in loss.terms.values())
    assert all(term.isfinite() for term in loss.terms.values())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@everywhere(LatentVariableModel)
@torch.no_grad()
def test_measured_shapes_and_signs(case, spec):
    model, x = trained(case, spec), signals(spec)
    measured = measured_of(model, x, draws=2)
    assert measured.bounds
    for bound in measured.bounds.values():
        assert bound.rate.shape == bound.distortion.shape == bound.log_prob.shape == (3,)
        # Of probabilities, never of densities.
        assert (bound.distortion > 0).all()
        assert (bound.log_prob < 0).all()
        torch.testing.assert_close(bound.log_prob, -(bound.rate + bound.distortion))
    assert measured.reconstruction.shape == x.shape
    assert measured.reconstruction.abs().max() <= 1 + 1e-6
    # Signals of time are reconstructed in windows, whose sums are rounded differently.
    torch.testing.assert_close(measured.reconstruction, model.reconstruct(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 2, 5])
@EVERY
@torch.no_grad()
def test_a_bound_for_each_prior_and_another_of_several_draws(case, draws):
    model = trained(case)
    priors = uniform(model)
    priors += [UnigramPrior(prior.num_codes, prior.num_codebooks, prior.grid) for prior in priors]
    bounds = measure(model, Batch(signals(SPEC)), priors, draws).bounds
    names = [prior.name for prior in priors] or ["normal"]
    several = draws > 1 and not case.is_deterministic
    assert list(bounds) == [n for name in names for n in (name, *([f"{name}, {draws} draws"] * several))]


@EVERY
@torch.no_grad()
def test_a_bound_of_an_item_does_not_depend_on_the_others(case):
    """With the same draws for it, which are those of its place in the batch."""
    model, x = trained(case), signals(SPEC, 4)
    measured, again = measured_of(model, x, draws=3), measured_of(model, x, draws=3)
    assert_same(measured, again)
    for item in range(4):
        others = signals(SPEC, 4, seed=9)
        others[item] = x[item]
        beside = measured_of(model, others, draws=3)
        for name, bound in measured.bounds.items():
            torch.testing.assert_close(beside.bounds[name].rate[item], bound.rate[item], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(
                beside.bounds[name].distortion[item], bound.distortion[item], rtol=1e-5, atol=1e-4
            )
            assert not torch.isclose(beside.bounds[name].distortion, bound.distortion).all()
        torch.testing.assert_close(beside.reconstruction[item], measured.reconstruction[item])


@EVERY
@torch.no_grad()
def test_draws_follow_the_generator_and_leave_others_alone(case):
    model, x = trained(case), signals(SPEC)
    state = torch.get_rng_state()
    first, other = measured_of(model, x, draws=2, seed=1), measured_of(model, x, draws=2, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(measured_of(model, x, draws=2, seed=1), first)
    same = [torch.equal(other.bounds[name].log_prob, bound.log_prob) for name, bound in first.bounds.items()]
    assert same == [case.is_deterministic] * len(same)
    assert torch.equal(first.reconstruction, other.reconstruction)


@STOCHASTIC
@torch.no_grad()
def test_the_weighted_bound_is_tighter_on_average(case):
    model, x = trained(case), signals(SPEC, 8)
    plain, weighted = measured_of(model, x, draws=40).bounds.values()
    assert weighted.log_prob.mean() > plain.log_prob.mean()


@EVERY
@torch.no_grad()
def test_a_loaded_state_gives_the_same(case):
    saved, loaded = trained(case), case.build(SPEC).eval()
    loaded.load_state_dict(saved.state_dict())
    x = signals(SPEC)
    assert torch.equal(seeded_loss(saved, x), seeded_loss(loaded, x))
    assert torch.equal(saved.reconstruct(x), loaded.reconstruct(x))
    assert_same(measured_of(saved, x, draws=2), measured_of(loaded, x, draws=2))


@EVERY
@torch.no_grad()
def test_a_saved_model_comes_back_as_it_was_in_memory(case, tmp_path):
    model = trained(case)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.mul_(1.5).add_(0.01 * len(name))  # weights that neither a constructor nor training gave
    for place in ("one", "two"):
        model.save_pretrained(tmp_path / place)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    loaded = case.kind.from_pretrained(tmp_path / "one")
    assert type(loaded) is case.kind
    assert not loaded.training
    assert (loaded.config, loaded.signal) == (model.config, model.signal)
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    x = signals(SPEC)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    loaded.save_pretrained(tmp_path / "three")
    assert digests(tmp_path / "three") == digests(tmp_path / "one")


@EVERY
def test_works_under_autocast_and_stays_near(case):
    model, x = trained(case), signals(SPEC)
    expected = seeded_loss(model, x)
    with torch.no_grad():
        bounds = measured_of(model, x, draws=2).bounds
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = seeded_loss(model, x)
        with torch.no_grad():
            measured = measured_of(model, x, draws=2)
    loss.backward()
    assert loss.dtype == measured.reconstruction.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    for name, bound in bounds.items():
        torch.testing.assert_close(measured.bounds[name].log_prob, bound.log_prob, rtol=0.05, atol=0)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@EVERY
def test_evaluation_learns_nothing(case):
    model = trained(case)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.loss(Batch(signals(SPEC)))
    model.reconstruct(signals(SPEC))
    measured_of(model, signals(SPEC), draws=2)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@EVERY
def test_a_bad_size_gets_a_sentence(case):
    with pytest.raises(InputError, match=r"expected a size .* received 7x9"):
        case.build(SignalSpec(3, (7, 9)))
