"""Drawing: against a NumPy oracle, against the distribution itself, and the manners of the loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.autoregressive.sampling import draw_codes, sample, sample_naive
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError


def network(num_codebooks: int = 1, num_classes: int = 0) -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNNConfig.tiny().build(5, num_codebooks, {"label": num_classes}).double()


def oracle(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Probabilities of one item's codes, by the definitions: top-k first, then top-p of what is left."""
    scaled = logits / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if top_k is not None:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p is not None:
        total, kept = 0.0, np.zeros_like(p)
        for code in order:
            if total >= top_p:
                break
            kept[code] = p[code]
            total += p[code]
        p = kept / kept.sum()
    return p


SETTINGS = [
    (1.0, None, None),
    (0.5, None, None),
    (2.0, 3, None),
    (1.0, None, 0.6),
    (0.7, 4, 0.8),
    (1.0, 99, 1.0),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_frequencies_are_those_of_the_oracle(temperature, top_k, top_p):
    logits = torch.tensor([2.0, -1.0, 0.5, 1.2, 0.0, -3.0, 1.0], dtype=torch.float64)
    expected = oracle(logits.numpy(), temperature, top_k, top_p)
    n = 200_000
    codes = draw_codes(logits.expand(n, -1), temperature, top_k, top_p, torch.Generator().manual_seed(0))
    observed = np.bincount(codes.numpy(), minlength=7) / n
    assert (observed[expected == 0] == 0).all()
    standard_error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(observed - expected) <= 4.5 * standard_error).all()


@given(
    tenths=st.lists(st.integers(-300, 300), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0.1, 0.9, 1.0, 3.0]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_a_draw_inverts_the_oracle_at_the_same_uniform(tenths, temperature, top_k, top_p, seed):
    logits = np.array(tenths) / 10  # no ties, whose order would be anyone's choice
    p = oracle(logits, temperature, top_k, top_p)
    cut = top_k is not None or top_p is not None
    order = np.argsort(-p, kind="stable") if cut else np.arange(len(p))
    uniform = torch.rand(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).item()
    cumulative = p[order].cumsum()
    code = draw_codes(
        torch.from_numpy(logits[None]),
        temperature,
        top_k,
        top_p,
        torch.Generator().manual_seed(seed),
    ).item()
    place = int(np.flatnonzero(order == code)[0])
    # The oracle's interval of this code contains the number, up to rounding.
    assert cumulative[place] - p[code] - 1e-9 <= uniform <= cumulative[place] + 1e-9
    assert p[code] > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_temperature_zero_is_argmax_and_top_1_is_too(dtype):
    logits = torch.randn(50, 9).to(dtype)
    assert torch.equal(draw_codes(logits, temperature=0.0), logits.argmax(1))
    unique = (logits == logits.amax(1, keepdim=True)).sum(1) == 1
    assert torch.equal(draw_codes(logits, top_k=1)[unique], logits.argmax(1)[unique])
    assert torch.equal(draw_codes(logits, top_p=1e-9)[unique], logits.argmax(1)[unique])


@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-30, 1e-45])
def test_codes_without_probability_are_never_drawn(temperature):
    logits = torch.full((4096, 6), -torch.inf)
    logits[:, 2], logits[:, 4] = 3e4, 2.9e4
    assert (draw_codes(logits, temperature) == 2).all()
    assert (draw_codes(logits, temperature, top_k=6, top_p=1.0) == 2).all()


@pytest.mark.parametrize(("uniform", "drawn"), [(0.0, 2), (1 - 2**-24, 4)])
def test_the_ends_of_the_uniform_interval_draw_codes_that_have_probability(monkeypatch, uniform, drawn):
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.full(shape, uniform, dtype=dtype))
    logits = torch.log(torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.7, 0.0]]))
    assert draw_codes(logits).item() == drawn


@pytest.mark.parametrize("loop", [sample, sample_naive])
def test_a_seed_gives_the_same_codes_and_another_seed_others(loop):
    one, same, other = (
        loop(network(2), 2, (3, 4), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert one.shape == (2, 2, 3, 4)
    assert one.dtype == torch.int64
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize(
    "arguments", [{"temperature": 0.0}, {"temperature": 0.5, "top_k": 3}, {"top_p": 0.7}]
)
def test_cached_and_naive_draw_the_same_under_each_setting(arguments, num_codebooks):
    fast, slow = (
        loop(network(num_codebooks), 2, (3, 2), generator=torch.Generator().manual_seed(0), **arguments)
        for loop in (sample, sample_naive)
    )
    assert torch.equal(fast, slow)


def test_greedy_codes_are_a_fixed_point_of_the_forward():
    model = network(2).eval()
    codes = sample(model, 1, (3, 3), temperature=0.0)
    assert torch.equal(model(codes).argmax(-1), codes)


def test_samples_follow_the_distribution_of_the_forward():
    """All 25 grids of 1x2 codes, enumerated, against the frequencies of samples."""
    model = network().eval()
    with torch.no_grad():
        for head in model.heads:
            head[-1].weight.mul_(8)
        codes = torch.cartesian_prod(torch.arange(5), torch.arange(5)).view(25, 1, 1, 2)
        log_prob = model(codes).log_softmax(-1).gather(-1, codes.unsqueeze(-1)).flatten(1).sum(1)
    n = 20_000
    drawn = sample(model, n, (1, 2), generator=torch.Generator().manual_seed(0)).view(n, 2)
    observed = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25) / n
    p = log_prob.exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert ((observed - p).abs() <= 4.5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("loop", [sample, sample_naive])
def test_modes_are_as_they_were_even_when_interrupted(loop):
    model = network().train()
    model.layers[1].eval()
    before = [module.training for module in model.modules()]
    seen = []

    def look(done: int, total: int) -> None:
        seen.append((done, total, model.training))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop(model, 1, (2, 2), progress=look)
    assert seen == [(1, 4, False), (2, 4, False), (3, 4, False)]
    assert [module.training for module in model.modules()] == before


def test_labels_go_with_their_items():
    model = network(num_classes=3).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.condition.weight.normal_(std=3.0)
    together = sample(model, 3, (3, 3), Conditions(label=torch.tensor([2, -1, 0])), temperature=0.0)
    for i, label in enumerate([2, -1, 0]):
        alone = sample(model, 1, (3, 3), Conditions(label=torch.tensor([label])), temperature=0.0)
        assert torch.equal(alone[0], together[i])
    assert len({tuple(item.flatten().tolist()) for item in together}) > 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"num": 0}, "num"),
        ({"grid": (0, 2)}, "grid"),
        ({"grid": ()}, "grid"),
    ],
)
@pytest.mark.parametrize("loop", [sample, sample_naive])
def test_settings_out_of_range_are_refused(loop, arguments, named):
    with pytest.raises(InputError, match=f"expected .*{named}.* received"):
        loop(network(), **{"num": 1, "grid": (2, 2), **arguments})
