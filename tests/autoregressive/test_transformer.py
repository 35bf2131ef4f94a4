"""Transformer: its layer against PyTorch's own, its positions, its training, its rules of use."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from smalti.autoregressive.transformer import (
    Transformer,
    TransformerConfig,
    TransformerLayer,
)
from smalti.core.errors import InputError
from smalti.nn.positions import encoded_positions


def tiny_config(**changes) -> TransformerConfig:
    return TransformerConfig(**{**TransformerConfig.tiny().model_dump(), **changes})


def tiny(num_codes: int = 5, num_codebooks: int = 1, num_classes: int = 0, **changes) -> Transformer:
    torch.manual_seed(0)
    return tiny_config(**changes).build(num_codes, num_codebooks, {"label": num_classes}).double().eval()


def test_defaults():
    config = TransformerConfig()
    assert (config.kind, config.channels, config.layers, config.heads) == ("transformer", 256, 8, 8)
    assert TransformerConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    "changes",
    [{"channels": 1}, {"layers": 0}, {"heads": 0}, {"mlp_ratio": 0}, {"dropout": 1}, {"label_dropout": -0.1}],
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValidationError):
        tiny_config(**changes)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValidationError, match="6 heads for 16 channels"):
        tiny_config(heads=6)
    assert tiny_config(heads=16).heads == 16


@pytest.mark.parametrize("sizes", [(0, 1, {}), (5, 0, {}), (5, 1, {"label": -1})])
def test_impossible_counts_are_refused(sizes):
    with pytest.raises(InputError, match="received"):
        TransformerConfig.tiny().build(*sizes)


@torch.no_grad()
def test_a_layer_is_pytorchs_own_with_a_causal_mask():
    torch.manual_seed(0)
    ours = TransformerLayer(tiny_config(heads=4)).double().eval()
    for parameter in ours.parameters():
        parameter.normal_(std=0.5)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
    theirs.double().eval()
    norm, widen, _, narrow = ours.mlp
    theirs.self_attn.in_proj_weight.copy_(ours.project.weight)
    theirs.self_attn.in_proj_bias.zero_()
    for name, module in (
        ("norm1", ours.norm),
        ("self_attn.out_proj", ours.out),
        ("norm2", norm),
        ("linear1", widen),
        ("linear2", narrow),
    ):
        theirs.get_submodule(name).load_state_dict(module.state_dict())
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    mask = torch.ones(7, 7).triu(1).bool()
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask), rtol=0, atol=1e-12)


def test_residual_branches_begin_smaller_in_a_deeper_network():
    torch.manual_seed(0)
    layer = TransformerLayer(TransformerConfig(channels=128, layers=8))
    for weight, std in (
        (layer.project.weight, 0.02),
        (layer.out.weight, 0.005),
        (layer.mlp[3].weight, 0.005),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert layer.project.bias is None


@pytest.mark.parametrize(("grid", "channels"), [((6,), 4), ((3, 4), 8), ((3, 4), 10), ((2, 3, 2), 7)])
def test_positions_are_sinusoids_of_each_coordinate(grid, channels):
    """By the definition; the first axes have what is over, an odd share lacks its last cosine."""
    columns = []
    for axis, share in enumerate(np.array_split(np.arange(channels), len(grid))):
        coordinate = np.indices(grid)[axis].ravel()
        pairs = -(-len(share) // 2)
        waves = [100 ** -(i / pairs) * coordinate for i in range(pairs)]
        columns += ([np.sin(wave) for wave in waves] + [np.cos(wave) for wave in waves])[: len(share)]
    encoded = encoded_positions(grid, channels)
    np.testing.assert_allclose(encoded.numpy(), np.stack(columns, 1), atol=1e-6)
    assert len(encoded.unique(dim=0)) == np.prod(grid)


@pytest.mark.parametrize("grid", [(), (0, 3), (2,) * 9])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(InputError, match=r"expected a grid of 1 to 8 axes .* received"):
        tiny().start(1, grid)


@torch.no_grad()
def test_a_symbol_gets_its_codebook_and_its_position_on_each_axis():
    network = tiny(num_codebooks=2)
    places = network._places((3, 3)).unflatten(0, (3, 3, 2))
    assert len(places.flatten(0, 2).unique(dim=0)) == 18
    # The same place on a larger grid gets the same embedding.
    torch.testing.assert_close(network._places((5, 4)).unflatten(0, (5, 4, 2))[:3, :3], places)


@torch.no_grad()
def test_dropout_acts_in_training_only_and_never_in_steps():
    network = tiny(dropout=0.5)
    codes = torch.randint(5, (2, 1, 3, 3))
    calm = network(codes)
    network.train()
    assert not torch.allclose(network(codes), calm)
    state = network.start(2, (3, 3))
    for i in range(9):
        logits = network.step(codes.flatten(1)[:, i - 1] if i else None, state)
        torch.testing.assert_close(logits, calm.flatten(2, 3)[:, 0, i], rtol=0, atol=1e-12)


def test_a_little_training_learns_a_pattern_that_needs_the_row_above_on_grids_of_two_sizes():
    """Each code is the one above it plus one: after the first row nothing is left to guess."""
    torch.manual_seed(0)
    network = tiny_config(channels=64, heads=4).build(4)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)

    grids = ((3, 4), (5, 4))

    def losses(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        codes = (torch.randint(4, (32, 1, 1, columns)) + torch.arange(rows)[:, None]) % 4
        nats = nn.functional.cross_entropy(network(codes).movedim(-1, 1), codes, reduction="none")
        return nats[:, :, :1], nats[:, :, 1:]

    for step in range(200):
        top, below = losses(*grids[step % 2])
        optimizer.zero_grad()
        torch.cat([top.flatten(), below.flatten()]).mean().backward()
        optimizer.step()
    for grid in grids:
        top, below = losses(*grid)
        assert below.mean() < 0.05
        assert top.mean() > 1.2  # ln 4 = 1.386: the first row cannot be known
