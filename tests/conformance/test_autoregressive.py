"""Properties of every autoregressive network. A new one is a line in `CASES`."""

import importlib
import inspect
import itertools
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import smalti.autoregressive
from smalti.autoregressive.frame_pixelcnn import FramePixelCNN, FramePixelCNNConfig
from smalti.autoregressive.guidance import GuidedNetwork
from smalti.autoregressive.hierarchy import HierarchicalPixelCNN, HierarchicalPixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample, sample_naive
from smalti.autoregressive.transformer import Transformer, TransformerConfig
from smalti.autoregressive.wavenet import WaveNet, WaveNetConfig
from smalti.conditioners.cross_attention import CrossAttentionConfig
from smalti.conditioners.embedding import EmbeddingConfig
from smalti.conditioners.field import UpsampledFieldConfig
from smalti.conditioners.projection import ProjectionConfig
from smalti.core.conditions import Conditions, DenseField, PerFrame, PerItem, TokenSequence
from smalti.core.errors import InputError
from smalti.core.priors import AutoregressiveNetwork

NUM_CODES, NUM_CLASSES = 5, 3


@dataclass(frozen=True)
class Case:
    """Recipe for building a network: `build(num_codes, num_codebooks, conditions)`.

    Attributes:
        build: makes the tiny network.
        grids: sizes to try; the receptive field must cover each.
        settings: the (G, number of classes) that it can be built with.
        label_dropout: the share of the labels that a config hides.
        conditioned: where its config has conditioners, as dotted keys.
    """

    build: Callable[..., AutoregressiveNetwork]
    grids: tuple[tuple[int, ...], ...]
    settings: tuple[tuple[int, int], ...] = tuple(itertools.product((1, 2, 3), (0, NUM_CLASSES)))
    label_dropout: Callable[[Any], float] = lambda config: config.label_dropout
    conditioned: tuple[str, ...] = ()

    @property
    def fewest(self) -> int:
        """The fewest codebooks that it can be built with."""
        return self.settings[0][0]


WIDER = FramePixelCNNConfig(
    frame=GatedPixelCNNConfig.tiny().model_copy(update={"channels": 16}), memory_channels=16, memory_layers=3
)
"""With fewer channels the first code of a frame has a head whose every ReLU may be shut."""

CASES: dict[type[AutoregressiveNetwork], Case] = {
    GatedPixelCNN: Case(
        build=lambda *sizes: GatedPixelCNNConfig.tiny().build(*sizes),
        grids=((4, 4), (3, 5), (5, 2), (1, 5), (5, 1), (1, 1)),
        conditioned=("conditioners",),
    ),
    Transformer: Case(
        build=lambda *sizes: TransformerConfig.tiny().build(*sizes),
        grids=((3, 4), (6,), (4, 1), (1, 1), (2, 2, 3)),
        conditioned=("conditioners",),
    ),
    # With a local condition, and beyond its reach: tests/autoregressive/test_wavenet.py.
    WaveNet: Case(
        build=lambda *sizes: WaveNetConfig.tiny().model_copy(update={"layers": 3}).build(*sizes),
        grids=((6,), (1,), (12,)),
        settings=((1, 0), (1, NUM_CLASSES)),
    ),
    # With actions, and beyond its reach: tests/autoregressive/test_frame_pixelcnn.py.
    FramePixelCNN: Case(
        build=lambda *sizes: WIDER.build(*sizes),
        grids=((3, 2, 2), (1, 3, 2), (4, 1, 3), (1, 1, 1)),
        label_dropout=lambda config: config.frame.label_dropout,
        conditioned=("frame.conditioners",),
    ),
    # Of three levels: tests/autoregressive/test_hierarchy.py.
    HierarchicalPixelCNN: Case(
        build=lambda *sizes: HierarchicalPixelCNNConfig.tiny().build(*sizes),
        grids=((2, 2), (1, 2), (1, 1)),
        settings=tuple(itertools.product((5, 10), (0, NUM_CLASSES))),
        label_dropout=lambda config: config.finer.label_dropout,
        conditioned=("coarsest.conditioners", "finer.conditioners"),
    ),
}
EVERY = [
    pytest.param(
        case, grid, *setting, id=f"{kind.__name__}-{'x'.join(map(str, grid))}-G{setting[0]}-Y{setting[1]}"
    )
    for kind, case in CASES.items()
    for grid in case.grids
    for setting in case.settings
]
EVERY_OF_THREE = [pytest.param(*each.values, 3, id=f"{each.id}-3") for each in EVERY]
FIRST_GRID = [parameter for parameter in EVERY if parameter.values[1] == parameter.values[0].grids[0]]
ONE_OF_FIRST_GRID = [pytest.param(*each.values, 1, id=f"{each.id}-1") for each in FIRST_GRID]


def concrete_networks() -> set[type]:
    """All classes in `smalti.autoregressive` that are networks and can be instantiated."""
    package = smalti.autoregressive
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for found in pkgutil.walk_packages(package.__path__)
    ]
    classes = {item for module in modules for _, item in inspect.getmembers(module, inspect.isclass)}
    return {
        item for item in classes if issubclass(item, AutoregressiveNetwork) and not inspect.isabstract(item)
    }


def build(case: Case, num_codebooks: int, num_classes: int) -> AutoregressiveNetwork:
    """A network in float64, in evaluation mode, whose influences do not fade below what a test can see."""
    torch.manual_seed(0)
    network = case.build(NUM_CODES, num_codebooks, {"label": num_classes}).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def labels(batch_size: int, num_classes: int) -> Conditions:
    """Conditions with a label for some items and -1 for others, or none without classes."""
    if not num_classes:
        return Conditions()
    return Conditions(label=torch.arange(-1, batch_size - 1) % (num_classes + 1) - 1)


def in_order(network: AutoregressiveNetwork, each: torch.Tensor, axes: int) -> torch.Tensor:
    """`(B, G, *grid, ...)` -> `(B, symbols, ...)` in the order of the symbols; the grid has so many axes."""
    order = network.order(each.shape[2 : 2 + axes])
    symbols = each.flatten(2, 1 + axes).transpose(1, 2).flatten(1, 2)
    return symbols if order is None else symbols[:, order]


def random_codes(batch_size: int, num_codebooks: int, grid: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(NUM_CODES, (batch_size, num_codebooks, *grid), generator=generator)


def test_every_network_is_in_the_table():
    # A wrapper of any network, tested beside the masked prior's guidance: tests/priors/test_masked.py.
    assert concrete_networks() - {GuidedNetwork} == set(CASES)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), EVERY)
@torch.no_grad()
def test_steps_give_the_logits_of_the_whole(case, grid, num_codebooks, num_classes, batch_size):
    network = build(case, num_codebooks, num_classes)
    codes = random_codes(batch_size, num_codebooks, grid)
    conditions = labels(batch_size, num_classes)
    logits = network(codes, conditions)
    assert logits.shape == (batch_size, num_codebooks, *grid, NUM_CODES)
    whole = in_order(network, logits, len(grid))
    symbols = in_order(network, codes, len(grid))
    state = network.start(batch_size, grid, conditions)
    previous = None
    for i in range(symbols.shape[1]):
        torch.testing.assert_close(network.step(previous, state), whole[:, i], rtol=0, atol=1e-9)
        previous = symbols[:, i]


@pytest.mark.parametrize(
    ("case", "grid", "num_codebooks", "num_classes", "batch_size"), EVERY_OF_THREE + ONE_OF_FIRST_GRID
)
def test_cached_and_naive_loops_draw_the_same(case, grid, num_codebooks, num_classes, batch_size):
    network = build(case, num_codebooks, num_classes)
    conditions = labels(batch_size, num_classes)
    fast, slow = (
        loop(network, batch_size, grid, conditions, generator=torch.Generator().manual_seed(7))
        for loop in (sample, sample_naive)
    )
    assert torch.equal(fast, slow)


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), EVERY)
@torch.no_grad()
def test_each_symbol_sees_all_that_come_before_it_and_nothing_else(case, grid, num_codebooks, num_classes):
    network = build(case, num_codebooks, num_classes)
    codes = random_codes(1, num_codebooks, grid)
    symbols = codes[0].numel()
    sees = torch.zeros(symbols, symbols)
    for shift in range(1, NUM_CODES):
        # Item i of the batch has symbol i changed, the last item has none.
        flat = in_order(network, codes, len(grid)).repeat(symbols + 1, 1)
        changed = torch.arange(symbols)
        flat[changed, changed] = (flat[changed, changed] + shift) % NUM_CODES
        order = network.order(grid)
        flat = flat if order is None else flat[:, order.argsort()]
        batch = flat.unflatten(1, (-1, num_codebooks)).transpose(1, 2).unflatten(2, grid)
        logits = in_order(network, network(batch.contiguous(), labels(0, 0)), len(grid))
        sees = torch.maximum(sees, (logits[:-1] - logits[-1]).abs().amax(-1).T.float())
    earlier = torch.ones(symbols, symbols).tril(-1).bool()
    assert sees[~earlier].max() < 1e-12
    assert sees[earlier].numel() == 0 or sees[earlier].min() > 1e-10


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
@torch.no_grad()
def test_a_batch_gives_what_each_item_gives_alone(case, grid, num_codebooks, num_classes):
    network = build(case, num_codebooks, num_classes)
    codes, conditions = random_codes(4, num_codebooks, grid), labels(4, num_classes)
    together = network(codes, conditions)
    for i in range(4):
        alone = conditions.part([i])
        torch.testing.assert_close(network(codes[i : i + 1], alone)[0], together[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
@torch.no_grad()
def test_labels_matter_where_there_are_classes(case, grid, num_codebooks, num_classes):
    network = build(case, num_codebooks, num_classes)
    codes = random_codes(1, num_codebooks, grid)
    given = [network(codes, Conditions(label=torch.tensor([label]))) for label in range(-1, NUM_CLASSES)]
    torch.testing.assert_close(given[0], network(codes, Conditions()), rtol=0, atol=0)
    for one, other in itertools.combinations(given, 2):
        assert torch.equal(one, other) == (num_classes == 0)


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
def test_every_parameter_learns(case, grid, num_codebooks, num_classes):
    network = build(case, num_codebooks, num_classes)
    network(random_codes(4, num_codebooks, grid), labels(4, num_classes)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
def test_bad_input_gets_a_sentence(case, grid, num_codebooks, num_classes):
    network = build(case, num_codebooks, num_classes)
    codes = random_codes(2, num_codebooks, grid)
    for bad in (codes - NUM_CODES, codes + NUM_CODES, codes.repeat(1, 2, *[1] * len(grid))):
        with pytest.raises(InputError, match=r"[Ee]xpected .* received"):
            network(bad)
    if num_classes:
        for wrong in ([0, num_classes], [-2, 0], [0]):
            conditions = Conditions(label=torch.tensor(wrong))
            with pytest.raises(InputError, match=r"[Ee]xpected .* label"):
                network(codes, conditions)
            with pytest.raises(InputError, match=r"[Ee]xpected .* label"):
                network.start(2, grid, conditions)


@pytest.mark.parametrize("case", CASES.values(), ids=[kind.__name__ for kind in CASES])
def test_steps_out_of_turn_are_refused(case):
    network = build(case, case.fewest, 0)
    code = torch.zeros(1, dtype=torch.int64)
    grid = min(case.grids, key=math.prod)
    state = network.start(1, grid)
    with pytest.raises(InputError, match="previous code"):
        network.step(code, state)
    network.step(None, state)
    with pytest.raises(InputError, match="previous code"):
        network.step(None, state)
    for _ in range(case.fewest * math.prod(grid) - 1):
        network.step(code, state)
    with pytest.raises(InputError, match="after the last symbol"):
        network.step(code, state)


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
def test_two_states_do_not_disturb_each_other(case, grid, num_codebooks, num_classes):
    network, num = build(case, num_codebooks, num_classes), 4 * num_codebooks
    symbols = random_codes(num, 1, (3,)).squeeze(1)
    state = network.start(3, grid)
    alone = [network.step(symbols[i - 1] if i else None, state) for i in range(num)]
    one, other = network.start(3, grid), network.start(3, grid)
    for i in range(num):
        logits = network.step(symbols[i - 1] if i else None, one)
        network.step((symbols[i - 1] + 1) % NUM_CODES if i else None, other)
        torch.testing.assert_close(logits, alone[i], rtol=0, atol=0)


@pytest.mark.parametrize(("case", "grid", "num_codebooks", "num_classes"), FIRST_GRID)
def test_weights_round_trip_through_safetensors(case, grid, num_codebooks, num_classes, tmp_path):
    network, other = build(case, num_codebooks, num_classes), build(case, num_codebooks, num_classes)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    codes = random_codes(1, num_codebooks, grid)
    torch.testing.assert_close(other(codes), network(codes))


@pytest.mark.parametrize("case", CASES.values(), ids=[kind.__name__ for kind in CASES])
@torch.no_grad()
def test_training_hides_labels_at_the_given_rate_and_evaluation_never(case):
    conditions = Conditions(label=torch.arange(64) % NUM_CLASSES)
    grid = min(case.grids, key=math.prod)
    codes = random_codes(1, case.fewest, grid).expand(64, -1, *[-1] * len(grid))
    network = build(case, case.fewest, NUM_CLASSES)
    with_label, without = network(codes, conditions), network(codes)
    network.train()
    torch.manual_seed(0)
    hidden = 0
    for _ in range(40):
        logits = network(codes, conditions)
        # A network of several parts may hide the label from one of them.
        is_without = (logits - without).abs().amax(-1) < 1e-12
        is_with = (logits - with_label).abs().amax(-1) < 1e-12
        assert (is_without ^ is_with).all()
        hidden += is_without.double().mean().item()
    assert abs(hidden / 40 - case.label_dropout(network.config)) < 0.025  # 4.2 standard errors of 0.1
    torch.testing.assert_close(network.eval()(codes, conditions), with_label)


BY_CONDITION = {
    "mood": EmbeddingConfig(num_ids=4),
    "text": CrossAttentionConfig(num_ids=7, dim=6, heads=2),
    "field": UpsampledFieldConfig(dim=3),
    "throttle": ProjectionConfig(dim=2),
}
CONDITIONED = [pytest.param(case, id=kind.__name__) for kind, case in CASES.items() if case.conditioned]


def conditioned(case: Case) -> tuple[AutoregressiveNetwork, torch.Tensor, Conditions]:
    """A network with every conditioner, codes, and a condition of each kind."""
    torch.manual_seed(0)
    plain, grid = case.build(NUM_CODES, case.fewest), case.grids[0]
    config = plain.config.changed(dict.fromkeys(case.conditioned, BY_CONDITION))
    network = config.build(NUM_CODES, case.fewest).double().eval()
    for name, parameter in network.named_parameters():
        if "by_name" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    # The levels of a hierarchy differ in rows, so it has no value per row.
    is_of_levels = isinstance(network, HierarchicalPixelCNN)
    throttle = PerItem(torch.randn(3, 2)) if is_of_levels else PerFrame(torch.randn(3, grid[0], 2))
    conditions = Conditions(
        mood=PerItem(torch.tensor([0, 3, 1])),
        text=TokenSequence.with_lengths(torch.randint(7, (3, 5)), torch.tensor([5, 3, 1])),
        field=DenseField(torch.randn(3, 3, *(side if side % 2 else side // 2 for side in grid))),
        throttle=throttle,
    )
    return network, random_codes(3, case.fewest, grid), conditions


def test_every_config_with_conditioners_is_in_the_table():
    for case in CASES.values():
        settings = case.build(NUM_CODES, case.fewest).config.model_dump()
        inner = {key: value for key, value in settings.items() if isinstance(value, dict)}
        nested = {f"{key}.conditioners" for key, value in inner.items() if "conditioners" in value}
        assert {*case.conditioned} == nested | ({"conditioners"} & {*settings})


@pytest.mark.parametrize("case", CONDITIONED)
@torch.no_grad()
def test_steps_give_the_logits_of_the_whole_under_conditions(case):
    network, codes, conditions = conditioned(case)
    grid = codes.shape[2:]
    whole = in_order(network, network(codes, conditions), len(grid))
    symbols = in_order(network, codes, len(grid))
    state, previous = network.start(3, grid, conditions), None
    for i in range(symbols.shape[1]):
        torch.testing.assert_close(network.step(previous, state), whole[:, i], rtol=0, atol=1e-9)
        previous = symbols[:, i]


@pytest.mark.parametrize("case", CONDITIONED)
@torch.no_grad()
def test_each_condition_reaches_each_item_and_no_other(case):
    network, codes, conditions = conditioned(case)
    whole = network(codes, conditions)
    for name in conditions:
        without = network(codes, conditions.only(*(other for other in conditions if other != name)))
        assert ((whole - without).abs().flatten(1).amax(1) > 1e-6).all()
    for item in range(3):
        alone = network(codes[[item]], conditions.part([item]))
        torch.testing.assert_close(alone, whole[[item]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CONDITIONED)
@torch.no_grad()
def test_no_symbol_sees_itself_or_later_ones_under_conditions(case):
    network, codes, conditions = conditioned(case)
    codes, conditions = codes[:1], conditions.part([0])
    axes = codes.ndim - 2
    whole = in_order(network, network(codes, conditions), axes)
    places = in_order(network, torch.arange(codes.numel()).view_as(codes), axes)[0].tolist()
    for symbol, place in enumerate(places):
        other = codes.clone()
        other.view(-1)[place] = (other.view(-1)[place] + 1) % NUM_CODES
        changed = in_order(network, network(other, conditions), axes)
        assert torch.equal(changed[:, : symbol + 1], whole[:, : symbol + 1])
