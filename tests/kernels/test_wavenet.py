"""The compiled loop: what it computes against the step, what it draws against NumPy, when it is taken."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.autoregressive import sampling, wavenet
from smalti.autoregressive.sampling import sample
from smalti.autoregressive.wavenet import LARGEST_TABLE, WORTH_COMPILING, WaveNet, WaveNetConfig
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.kernels import sampling as kernels
from smalti.kernels import wavenet as wavenet_kernel
from smalti.kernels.wavenet import WaveNetKernel

NUM_CODES, NUM_CLASSES, LOCAL, LENGTH = 5, 3, 3, 24
KERNELS = pytest.mark.parametrize("kernel_size", [1, 2, 3])


def tiny(num_codes: int = NUM_CODES, num_classes: int = 0, local_channels: int = 0, **changes) -> WaveNet:
    """In float32, in evaluation mode, with logits that are not all alike."""
    torch.manual_seed(0)
    outputs = changes.pop("outputs", None)
    config = WaveNetConfig(**{**WaveNetConfig.tiny().model_dump(), **changes})
    network = config.build(
        num_codes, conditions={"label": num_classes}, local_channels=local_channels, outputs=outputs
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network.eval()


def conditions(batch_size: int, network: WaveNet, frames: int = 4) -> Conditions:
    """All that the network can be conditioned on, different for each item."""
    labels = torch.arange(batch_size) % (NUM_CLASSES + 1) - 1 if network.num_classes else None
    generator = torch.Generator().manual_seed(1)
    shape = (batch_size, LOCAL, frames)
    local = 3 * torch.randn(shape, generator=generator) if network.local_channels else None
    return Conditions(label=labels, local=local)


def uniform(length: int, batch_size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((length, batch_size), np.float32)


def with_logits(logits: np.ndarray) -> WaveNet:
    """A network that gives these logits for every symbol, whatever came before."""
    network = tiny(len(logits))
    with torch.no_grad():
        network.logit.weight.zero_()
        network.logit.bias.copy_(torch.from_numpy(logits))
    return network


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize(("num_classes", "local_channels"), [(0, 0), (3, 0), (0, LOCAL), (3, LOCAL)])
@KERNELS
@torch.no_grad()
def test_its_logits_are_those_of_the_step_and_its_draws_invert_them(
    kernel_size, num_classes, local_channels, batch_size
):
    network = tiny(num_classes=num_classes, local_channels=local_channels, kernel_size=kernel_size)
    known = conditions(batch_size, network)
    kernel = WaveNetKernel(network, network.start(batch_size, (LENGTH,), known))
    state, previous = network.start(batch_size, (LENGTH,), known), None
    for numbers in uniform(LENGTH, batch_size):
        (drawn,) = kernel.draw(numbers[np.newaxis].copy())
        logits = network.step(previous, state)
        np.testing.assert_allclose(kernel.logits, logits.numpy(), rtol=0, atol=2e-5)
        assert logits.std() > 0.1
        p = np.exp(kernel.logits.astype(np.float64))
        cumulative = p.cumsum(1) / p.sum(1, keepdims=True)
        above = np.take_along_axis(cumulative, drawn[:, np.newaxis], 1)[:, 0]
        below = above - np.take_along_axis(p / p.sum(1, keepdims=True), drawn[:, np.newaxis], 1)[:, 0]
        assert (below <= numbers + 1e-6).all()
        assert (numbers <= above + 1e-6).all()
        previous = torch.from_numpy(drawn.copy())


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 1, "gate_channels": 1, "skip_channels": 1, "head_channels": 1},
        {"channels": 16, "gate_channels": 12, "skip_channels": 20, "head_channels": 8, "layers": 4},
        {"channels": 5, "gate_channels": 3, "skip_channels": 2, "head_channels": 13, "stacks": 3},
    ],
    ids=["ones", "fours", "odd"],
)
@torch.no_grad()
def test_any_width_and_depth(sizes):
    network = tiny(7, **sizes)
    kernel = WaveNetKernel(network, network.start(2, (LENGTH,)))
    drawn = kernel.draw(uniform(LENGTH, 2))
    codes = torch.from_numpy(drawn.T.copy()).unsqueeze(1)
    last = network(codes)[:, 0, -1]
    np.testing.assert_allclose(kernel.logits, last.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("batch_size", [1, 3])
@KERNELS
def test_the_same_seed_draws_the_same_symbols_as_step_by_step(
    monkeypatch, kernel_size, batch_size, temperature
):
    """But where a number lies within rounding of an edge: one in 10^5 of them, and none of these."""
    network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL, kernel_size=kernel_size)
    known = conditions(batch_size, network)
    stepped = sample(network, batch_size, (LENGTH,), known, temperature, generator=generator(3))
    monkeypatch.setattr(wavenet, "WORTH_COMPILING", LENGTH)
    monkeypatch.setattr(WaveNet, "step", None)
    compiled = sample(network, batch_size, (LENGTH,), known, temperature, generator=generator(3))
    assert compiled.dtype == torch.int64
    assert compiled.shape == (batch_size, 1, LENGTH)
    assert torch.equal(compiled, stepped)
    assert len(stepped.unique()) > 1
    if temperature:
        assert not torch.equal(
            sample(network, batch_size, (LENGTH,), known, temperature, generator=generator(4)), stepped
        )


@pytest.mark.parametrize("block", [1, 7, LENGTH, 1000])
def test_blocks_change_nothing_and_progress_is_reported_after_each(monkeypatch, block):
    network = tiny()
    monkeypatch.setattr(wavenet, "WORTH_COMPILING", LENGTH)
    expected = sample(network, 2, (LENGTH,), generator=generator())
    monkeypatch.setattr(sampling, "BLOCK", block)
    seen = []
    drawn = sample(network, 2, (LENGTH,), generator=generator(), progress=lambda *at: seen.append(at))
    assert torch.equal(drawn, expected)
    assert seen == [(min(end, LENGTH), LENGTH) for end in range(block, LENGTH + block, block)]


@torch.no_grad()
def test_several_calls_draw_what_one_call_draws_and_leave_the_state_alone():
    network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL)
    state = network.start(3, (LENGTH,), conditions(3, network))
    numbers = uniform(LENGTH, 3)
    whole = WaveNetKernel(network, state).draw(numbers)
    kernel = WaveNetKernel(network, state)
    parts = [kernel.draw(part.copy()) for part in np.split(numbers, [1, 8, 8, 19])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert state.symbols == 0
    assert not any(ring.ring.any() for ring in state.rings)
    np.testing.assert_array_equal(WaveNetKernel(network, state).draw(numbers), whole)


def test_conditions_go_with_their_items(monkeypatch):
    monkeypatch.setattr(wavenet, "WORTH_COMPILING", LENGTH)
    network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL)
    known = conditions(3, network)
    together = sample(network, 3, (LENGTH,), known, temperature=0.0)
    for item in range(3):
        alone = known.part([item])
        assert torch.equal(sample(network, 1, (LENGTH,), alone, temperature=0.0)[0], together[item])
    assert len({tuple(item.flatten().tolist()) for item in together}) > 1


class TestDispatch:
    def kernel(self, network: WaveNet, length: int = WORTH_COMPILING) -> WaveNetKernel | None:
        return network.kernel(network.start(1, (length,)))

    def test_long_lines_only(self):
        assert isinstance(self.kernel(tiny()), WaveNetKernel)
        assert self.kernel(tiny(), WORTH_COMPILING - 1) is None

    def test_not_without_numba(self, monkeypatch):
        monkeypatch.setattr(wavenet, "compiled_module", lambda name: None)
        assert self.kernel(tiny()) is None
        monkeypatch.setattr(wavenet, "WORTH_COMPILING", 1)
        assert sample(tiny(), 2, (6,), generator=generator()).shape == (2, 1, 6)

    def test_not_in_other_precisions_nor_of_other_outputs_nor_without_a_table(self):
        assert self.kernel(tiny().double()) is None
        assert self.kernel(tiny(outputs=6)) is None
        assert self.kernel(tiny(LARGEST_TABLE + 1)) is None
        assert self.kernel(tiny(LARGEST_TABLE)) is not None

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_not_on_a_gpu(self):
        assert self.kernel(tiny().cuda()) is None

    @pytest.mark.parametrize(
        "settings",
        [{"top_k": 2}, {"top_p": 0.5}, {"draw": lambda logits, generator: logits.argmax(1)}],
        ids=lambda settings: next(iter(settings)),
    )
    def test_not_where_the_draw_is_another(self, monkeypatch, settings):
        monkeypatch.setattr(wavenet, "WORTH_COMPILING", 1)
        expected = sample(tiny(), 2, (12,), generator=generator(), **settings)
        monkeypatch.setattr(wavenet_kernel, "WaveNetKernel", None)
        assert torch.equal(sample(tiny(), 2, (12,), generator=generator(), **settings), expected)
        with pytest.raises(TypeError):
            sample(tiny(), 2, (12,), generator=generator())

    def test_settings_out_of_range_are_refused_all_the_same(self):
        with pytest.raises(InputError, match="temperature"):
            sample(tiny(), 1, (WORTH_COMPILING,), temperature=-1.0)


def test_its_gate_is_that_of_numpy():
    x = np.linspace(-30, 30, 241, dtype=np.float32)
    received = np.array([[kernels.gate(a, b) for b in x] for a in x])
    wide = x.astype(np.float64)
    expected = np.tanh(wide)[:, np.newaxis] / (1 + np.exp(-wide))
    assert np.abs(received - expected).max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    logits = np.array([2.0, -1.0, 0.5, 1.2, 0.0, -3.0, 1.0], np.float32)
    network = with_logits(logits)
    n, lines = 20_000, 10
    drawn = WaveNetKernel(network, network.start(lines, (n,))).draw(uniform(n, lines), temperature)
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    observed = np.bincount(drawn.ravel(), minlength=7) / (n * lines)
    assert (np.abs(observed - p) <= 4.5 * np.sqrt(p * (1 - p) / (n * lines))).all()


@given(
    logits=st.lists(st.floats(-3e4, 3e4, width=32) | st.sampled_from([0.0, -1e4]), min_size=1, max_size=9),
    temperature=st.sampled_from([0.0, 1e-30, 0.1, 1.0, 3.0]),
    numbers=st.lists(st.floats(0, 1, width=32, exclude_max=True), min_size=1, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_a_symbol_of_probability_zero_is_never_drawn(logits, temperature, numbers):
    scaled = np.array(logits, np.float32)
    network = with_logits(scaled)
    ends = np.array([*numbers, 0, 1 - 2**-24], np.float32)
    drawn = WaveNetKernel(network, network.start(1, (len(ends),))).draw(ends[:, np.newaxis], temperature)
    with np.errstate(over="ignore"):
        p = np.exp((scaled.astype(np.float64) - scaled.max()) / (temperature or 1e-300))
    cumulative = np.r_[0, p.cumsum()] / p.sum()
    for number, symbol in zip(ends, drawn[:, 0], strict=True):
        assert p[symbol] > 0
        if temperature:
            assert cumulative[symbol] - 1e-9 <= number <= cumulative[symbol + 1] + 1e-9
        else:
            assert symbol == np.argmax(scaled)
