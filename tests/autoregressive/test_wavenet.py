"""WaveNet: its exact reach, its local condition, levels as numbers, its training, its rules of use."""

import pytest
import torch
from pydantic import ValidationError

from smalti.autoregressive.sampling import sample, sample_naive
from smalti.autoregressive.wavenet import LARGEST_TABLE, WaveNet, WaveNetConfig
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.nn.causal import DilatedConv1d

NUM_CODES, NUM_CLASSES, LOCAL = 5, 3, 4
KERNELS = pytest.mark.parametrize("kernel_size", [1, 2, 3])


def tiny(num_codes: int = NUM_CODES, num_codebooks: int = 1, num_classes: int = 0, **changes) -> WaveNet:
    """In float64, in evaluation mode, with influences that do not fade below what a test can see."""
    torch.manual_seed(0)
    given = {name: changes.pop(name) for name in ("local_channels", "outputs") if name in changes}
    config = WaveNetConfig(**{**WaveNetConfig.tiny().model_dump(), **changes})
    network = config.build(num_codes, num_codebooks, {"label": num_classes}, **given).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def symbols(batch_size: int, length: int, num_codes: int = NUM_CODES, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_codes, (batch_size, 1, length), generator=generator)


def conditions(batch_size: int, frames: int, seed: int = 2) -> Conditions:
    """Labels for some items and -1 for others, and a local condition of this many frames."""
    local = torch.randn(
        batch_size, LOCAL, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return Conditions(label=torch.arange(batch_size) % (NUM_CLASSES + 1) - 1, local=local)


def test_defaults():
    config = WaveNetConfig()
    assert (config.kind, config.channels, config.kernel_size, config.layers) == ("wavenet", 64, 2, 8)
    assert WaveNetConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 0},
        {"gate_channels": 0},
        {"skip_channels": 0},
        {"head_channels": 0},
        {"kernel_size": 0},
        {"layers": 0},
        {"layers": 17},
        {"stacks": 0},
        {"dropout": 1},
        {"label_dropout": 1.1},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValidationError):
        WaveNetConfig(**changes)


@pytest.mark.parametrize("sizes", [(0, 1, {}), (5, 0, {}), (5, 1, {"label": -1})])
def test_impossible_counts_are_refused(sizes):
    with pytest.raises(InputError, match="received"):
        WaveNetConfig.tiny().build(*sizes)


def test_several_codebooks_are_refused():
    with pytest.raises(InputError, match=r"one codebook.*received 2"):
        tiny(num_codebooks=2)


@pytest.mark.parametrize(
    ("kernel_size", "layers", "stacks", "reach"),
    [(2, 2, 2, 7), (1, 2, 2, 1), (3, 2, 1, 7), (2, 3, 1, 8), (3, 1, 2, 5)],
)
@torch.no_grad()
def test_every_symbol_within_reach_counts_and_none_beyond(kernel_size, layers, stacks, reach):
    network = tiny(kernel_size=kernel_size, layers=layers, stacks=stacks)
    assert network.reach == reach
    length = reach + 4
    effect = torch.zeros(length, length)
    for shift in range(1, NUM_CODES):
        # Item i of the batch has symbol i changed, the last item has none.
        batch = symbols(1, length).repeat(length + 1, 1, 1)
        at = torch.arange(length)
        batch[at, 0, at] = (batch[at, 0, at] + shift) % NUM_CODES
        logits = network(batch).squeeze(1)
        effect = torch.maximum(effect, (logits[:-1] - logits[-1]).abs().amax(-1).float())
    back = torch.arange(length) - torch.arange(length).unsqueeze(1)
    seen = (back >= 1) & (back <= reach)
    assert effect[seen].min() > 1e-10
    assert effect[~seen].max() < 1e-12


@pytest.mark.parametrize("sees_the_future", [False, True])
def test_padding_on_the_wrong_side_would_be_noticed(monkeypatch, sees_the_future):
    """The classic fault: perturbation must be able to see it."""
    pad, network = torch.nn.functional.pad, tiny()
    if sees_the_future:
        monkeypatch.setattr(DilatedConv1d, "forward", lambda self, x: self.conv(pad(x, (0, self.reach))))
    one, other = symbols(1, 6), symbols(1, 6)
    other[0, 0, 4] = (other[0, 0, 4] + 1) % NUM_CODES
    assert ((network(one) - network(other))[0, 0, :5].abs().max() > 1e-6) == sees_the_future


class TestSteps:
    @pytest.mark.parametrize("batch_size", [1, 5])
    @pytest.mark.parametrize("frames", [1, 4, 12])
    @KERNELS
    @torch.no_grad()
    def test_give_the_logits_of_the_whole(self, kernel_size, frames, batch_size):
        network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL, kernel_size=kernel_size)
        codes, known = symbols(batch_size, 12), conditions(batch_size, frames)
        whole = network(codes, known)
        state = network.start(batch_size, (12,), known)
        for at in range(12):
            logits = network.step(codes[:, 0, at - 1] if at else None, state)
            torch.testing.assert_close(logits, whole[:, 0, at], rtol=0, atol=1e-9)
        with pytest.raises(InputError, match="after the last symbol of a line of 12"):
            network.step(codes[:, 0, -1], state)

    @pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
    @KERNELS
    def test_draw_what_the_naive_loop_draws(self, kernel_size, temperature):
        network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL, kernel_size=kernel_size)
        known = conditions(3, 5)
        fast, slow = (
            loop(network, 3, (20,), known, temperature, generator=torch.Generator().manual_seed(7))
            for loop in (sample, sample_naive)
        )
        assert torch.equal(fast, slow)

    @torch.no_grad()
    def test_a_batch_gives_what_each_item_gives_alone(self):
        network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL)
        codes, known = symbols(4, 12), conditions(4, 3)
        together = network(codes, known)
        for item in range(4):
            alone = known.part([item])
            torch.testing.assert_close(network(codes[[item]], alone)[0], together[item], rtol=0, atol=1e-12)


class TestLocal:
    @pytest.mark.parametrize("frames", [2, 3, 12])
    @KERNELS
    @torch.no_grad()
    def test_a_frame_reaches_its_stretch_and_to_what_follows_within_reach(self, kernel_size, frames):
        network = tiny(local_channels=LOCAL, kernel_size=kernel_size, layers=1)
        codes, known = symbols(1, 12), conditions(1, frames)
        stretch = 12 // frames
        base = network(codes, Conditions(local=known["local"].data))
        for frame in range(frames):
            local = known["local"].data.clone()
            local[:, :, frame] += 1
            changed = (network(codes, Conditions(local=local)) - base)[0, 0].abs().amax(-1)
            first = frame * stretch
            # It comes in after the first convolution, and is not held back as symbols are.
            after = first + stretch + network.reach - 1 - (kernel_size - 1)
            assert changed[first:after].min() > 1e-10
            assert (changed[:first] < 1e-12).all()
            assert (changed[after:] < 1e-12).all()

    @torch.no_grad()
    def test_every_channel_of_it_counts(self):
        network = tiny(local_channels=LOCAL)
        codes, known = symbols(1, 6), conditions(1, 2)
        base = network(codes, Conditions(local=known["local"].data))
        for channel in range(LOCAL):
            local = known["local"].data.clone()
            local[:, channel] += 1
            assert (network(codes, Conditions(local=local)) - base).abs().max() > 1e-6

    @pytest.mark.parametrize(
        "shape", [None, (1, LOCAL, 2), (2, LOCAL + 1, 2), (2, LOCAL, 5), (2, LOCAL, 0)], ids=str
    )
    def test_another_shape_gets_a_sentence(self, shape):
        network = tiny(local_channels=LOCAL)
        known = Conditions(local=None if shape is None else torch.zeros(shape, dtype=torch.float64))
        named = "None" if shape is None else rf"\({', '.join(map(str, shape))}\)"
        words = rf"expected a local condition of shape \(2, {LOCAL}, frames\), .* 6 symbols, received {named}"
        with pytest.raises(InputError, match=words):
            network(symbols(2, 6), known)
        with pytest.raises(InputError, match=words):
            network.start(2, (6,), known)

    def test_every_parameter_learns(self):
        network = tiny(num_classes=NUM_CLASSES, local_channels=LOCAL)
        network(symbols(8, 12), conditions(8, 4)).square().sum().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


class TestDropout:
    @torch.no_grad()
    def test_acts_in_training_only_and_never_in_steps(self):
        network = tiny(dropout=0.5, num_classes=NUM_CLASSES, local_channels=LOCAL)
        codes, known = symbols(2, 6), conditions(2, 3)
        calm = network(codes, known)
        network.train()
        torch.manual_seed(0)
        assert not torch.allclose(network(codes, known), calm)
        state = network.start(2, (6,), known)
        for at in range(6):
            logits = network.step(codes[:, 0, at - 1] if at else None, state)
            torch.testing.assert_close(logits, calm[:, 0, at], rtol=0, atol=1e-12)
        assert torch.equal(network.eval()(codes, known), calm)

    @pytest.mark.parametrize("share", [0.0, 0.3])
    @torch.no_grad()
    def test_hides_this_share_of_the_symbols_from_those_after_them(self, share):
        """A network that sees one symbol back says, where that one is hidden, what it says at the start."""
        network = tiny(dropout=share, kernel_size=1)
        codes = symbols(40, 101)
        calm = network(codes)[:, 0]
        network.train()
        torch.manual_seed(0)
        logits = network(codes)[:, 0]
        hidden = (logits - calm[:1, :1]).abs().amax(-1)[:, 1:] < 1e-9
        as_before = (logits - calm).abs().amax(-1)[:, 1:] < 1e-9
        assert (hidden ^ as_before).all()
        error = 4.5 * (share * (1 - share) / hidden.numel()) ** 0.5
        assert hidden.double().mean().item() == pytest.approx(share, abs=error)


class TestLevels:
    """Of more levels than a table holds, each is read as a number."""

    NUM = 65_536

    def network(self, **changes) -> WaveNet:
        return tiny(self.NUM, outputs=6, **changes)

    def test_no_table_and_few_outputs(self):
        network = self.network()
        assert sum(p.numel() for p in network.parameters()) < 2000
        assert not network.gives_logits
        assert network(symbols(2, 5, self.NUM)).shape == (2, 1, 5, 6)
        table = tiny(LARGEST_TABLE)
        assert table.gives_logits
        assert len(table.embedding.weight) == LARGEST_TABLE

    @KERNELS
    @torch.no_grad()
    def test_steps_give_the_outputs_of_the_whole(self, kernel_size):
        network = self.network(kernel_size=kernel_size, num_classes=NUM_CLASSES, local_channels=LOCAL)
        codes, known = symbols(3, 12, self.NUM), conditions(3, 4)
        whole, state = network(codes, known), network.start(3, (12,), known)
        for at in range(12):
            outputs = network.step(codes[:, 0, at - 1] if at else None, state)
            torch.testing.assert_close(outputs, whole[:, 0, at], rtol=0, atol=1e-9)

    @torch.no_grad()
    def test_every_level_is_another_number(self):
        """The ends, the middle and neighbours are distinguished."""
        network = self.network()
        codes = torch.tensor([0, 1, 32_767, 32_768, self.NUM - 2, self.NUM - 1]).view(6, 1, 1).repeat(1, 1, 2)
        second = network(codes)[:, 0, 1]
        assert len(second.unique(dim=0)) == 6
        near, far = (second[0] - second[1]).abs().max(), (second[0] - second[5]).abs().max()
        assert near < 1e-3 < far

    def test_levels_out_of_range_are_refused(self):
        with pytest.raises(InputError, match=f"from 0 to {self.NUM - 1}"):
            self.network()(torch.full((1, 1, 2), self.NUM))


@pytest.mark.parametrize("grid", [(), (2, 3), (2, 1, 2), (0,)])
def test_grids_that_are_no_lines_are_refused(grid):
    words = "expected a line .* received a grid"
    with pytest.raises(InputError, match=words):
        tiny().start(1, grid)
    with pytest.raises(InputError, match=words):
        tiny()(torch.zeros(1, 1, *grid, dtype=torch.int64))


def test_a_little_training_learns_from_the_symbols_before_and_from_the_local_condition():
    """Each symbol is the one two before it plus what its frame says: after two nothing is left to guess."""
    torch.manual_seed(0)
    config = WaveNetConfig.tiny().model_copy(update={"channels": 16, "gate_channels": 16})
    network = config.build(4, local_channels=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        steps = torch.randint(2, (32, 3))
        codes = torch.randint(4, (32, 12))
        for at in range(2, 12):
            codes[:, at] = (codes[:, at - 2] + steps[:, at // 4]) % 4
        logits = network(codes.unsqueeze(1), Conditions(local=steps.unsqueeze(1).float()))
        nats = torch.nn.functional.cross_entropy(logits[:, 0].movedim(-1, 1), codes, reduction="none")
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
    assert nats[:, 2:].mean() < 0.1
    assert nats[:, :2].mean() > 1.2  # ln 4 = 1.386: the first two cannot be known
