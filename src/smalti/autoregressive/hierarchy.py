"""Autoregressive prior over multi-level code grids: coarsest level first, each finer one given those
above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.core.conditioners import condition_names
from smalti.core.conditions import Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig
from smalti.nn.blocks import ResidualBlock
from smalti.nn.levels import Levels
from smalti.nn.symbols import check_codes, check_counts, check_turn

DEFAULT_LEVEL = GatedPixelCNNConfig()


@NETWORKS.register
class HierarchicalPixelCNNConfig(NetworkConfig):
    """Settings of a `HierarchicalPixelCNN`.

    Attributes:
        coarsest: the network of the coarsest level.
        finer: the network of each other level.
        factors: ratio of each level's resolution to the one above it, from the second coarsest on; as in the
            autoencoder.
        condition_channels: channels of the maps that condition a level on those above.
        condition_blocks: residual blocks that compute these maps.
    """

    kind: Literal["hierarchical_pixelcnn"] = "hierarchical_pixelcnn"
    coarsest: GatedPixelCNNConfig = DEFAULT_LEVEL
    finer: GatedPixelCNNConfig = DEFAULT_LEVEL
    factors: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=(2,), min_length=1, max_length=32)
    condition_channels: int = Field(default=128, ge=1)
    condition_blocks: int = Field(default=4, ge=0)

    @classmethod
    def tiny(cls) -> HierarchicalPixelCNNConfig:
        """The smallest network with every part, for tests."""
        level = GatedPixelCNNConfig.tiny()
        return cls(coarsest=level, finer=level, condition_channels=8, condition_blocks=1)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
    ) -> HierarchicalPixelCNN:
        """Build the untrained network; see `HierarchicalPixelCNN`."""
        return HierarchicalPixelCNN(num_codes, num_codebooks, conditions, **self.settings())


@dataclass(slots=True)
class HierarchyState:
    """Sampling state.

    Attributes:
        grids: grid of each level, coarsest first.
        conditions: of the items.
        level: index of the current level.
        symbols: number of symbols of the current level for which logits were computed.
        inner: state of the network of the current level.
        codes: codes of the current level so far, `(B, G, *grid)`.
        known: condition from the levels above, or None.
    """

    grids: list[tuple[int, ...]]
    conditions: Conditions
    level: int
    symbols: int
    inner: Any
    codes: Tensor
    known: Tensor | None


class _LevelConditioner(nn.Module):
    """Computes the maps that condition a level, from the codes of the level above and its own condition.

    Args:
        config: widths.
        num_codes: codes of each codebook.
        num_codebooks: codes of each position.
    """

    def __init__(self, config: HierarchicalPixelCNNConfig, num_codes: int, num_codebooks: int) -> None:
        super().__init__()
        channels = config.condition_channels
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(num_codebooks))
        blocks = [ResidualBlock(2, channels, channels) for _ in range(config.condition_blocks)]
        self.layers = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), *blocks)

    def forward(
        self, codes: Int64[Tensor, "b g h w"], known: Float[Tensor, "b c r s"] | None
    ) -> Float[Tensor, "b c h w"]:
        each = zip(self.embeddings, codes.unbind(1), strict=True)
        maps = torch.stack([embed(c) for embed, c in each]).sum(0).movedim(-1, 1)
        if known is not None:
            maps = maps + nn.functional.interpolate(known, maps.shape[2:])
        return self.layers(maps)


@final
class HierarchicalPixelCNN(AutoregressiveNetwork):
    """A gated PixelCNN per level, each conditioned on the levels above by convolutions.

    Source: Razavi et al. 2019, "Generating Diverse High-Fidelity Images with VQ-VAE-2" (arXiv 1906.00446),
    without the attention of its coarsest level.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G of each position of the coarsest grid, of all levels together.
        conditions: number of ids of each id condition of the data, by name; it embeds `label`.
        coarsest: settings of the network of the coarsest level.
        finer: settings of the network of each other level.
        factors: ratio of each level's resolution to the one above it, from the second coarsest on.
        condition_channels: channels of the maps that condition a level on those above.
        condition_blocks: residual blocks that compute these maps.

    Raises:
        InputError: if the levels do not make this number of codes, or one has a conditioner for `local`.
    """

    config: HierarchicalPixelCNNConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 5,
        conditions: Mapping[str, int] | None = None,
        *,
        coarsest: GatedPixelCNNConfig = DEFAULT_LEVEL,
        finer: GatedPixelCNNConfig = DEFAULT_LEVEL,
        factors: tuple[int, ...] = (2,),
        condition_channels: int = 128,
        condition_blocks: int = 4,
    ) -> None:
        super().__init__()
        self.config = config = HierarchicalPixelCNNConfig(
            coarsest=coarsest,
            finer=finer,
            factors=factors,
            condition_channels=condition_channels,
            condition_blocks=condition_blocks,
        )
        check_counts(num_codes, num_codebooks)
        self.num_codes, self.num_codebooks = num_codes, num_codebooks
        self.condition_sizes = id_sizes(conditions, "label")
        of_one = sum(Levels(1, config.factors).sizes)
        if num_codebooks % of_one:
            raise InputError(
                f"expected factors between levels that make {num_codebooks} codes per coarse position, "
                f"received {config.factors}, which make {of_one}: set network.factors to those of the "
                "autoencoder"
            )
        own = num_codebooks // of_one
        self.layout = self.code_layout = Levels(own, config.factors)
        networks = [
            config.coarsest.build(num_codes, own, conditions),
            *(
                config.finer.build(num_codes, own, conditions, local_channels=config.condition_channels)
                for _ in config.factors
            ),
        ]
        self.networks = cast("list[GatedPixelCNN]", nn.ModuleList(networks))
        if any("local" in condition_names(network) for network in networks):
            raise InputError(
                "expected conditioners of other conditions than 'local', the maps from the levels above, "
                "received one for it: remove it from network.coarsest and network.finer"
            )
        conditioners = [_LevelConditioner(config, num_codes, own) for _ in config.factors]
        self.level_conditioners = cast("list[_LevelConditioner]", nn.ModuleList(conditioners))

    def order(self, grid: Sequence[int]) -> Int64[Tensor, " symbols"]:
        """Order of the symbols: level by level."""
        return self.layout.order(grid)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check that the grid has rows and columns.

        Raises:
            InputError: for another grid.
        """
        if len(grid) != 2 or min(grid) < 1:
            raise InputError(f"expected a grid of rows and columns, received {tuple(grid)}")

    def forward(
        self, codes: Int64[Tensor, "b g h w"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g h w k"]:
        """Logits of every code at once; training mode hides some labels.

        Raises:
            InputError: if the grid is not one of rows and columns, a code or label is out of range, or the
                number of codebooks is wrong.
        """
        self.check_grid(codes.shape[2:])
        check_codes(codes, self.num_codebooks, self.num_codes)
        given = Conditions(**{**(conditions or {}), "local": None})
        levels = self.layout.unpack(codes)
        logits, known = [], None
        for level, network in enumerate(self.networks):
            if level:
                known = self.level_conditioners[level - 1](levels[level - 1], known)
            logits.append(network(levels[level], Conditions(**{**given, "local": known})))
        return self.layout.pack(logits)

    @torch.no_grad()
    def start(
        self, batch_size: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> HierarchyState:
        """State before the first symbol.

        Raises:
            InputError: as in `forward`.
        """
        self.check_grid(grid)
        grids = self.layout.grids(grid)
        given = Conditions(**{**(conditions or {}), "local": None})
        inner = self.networks[0].start(batch_size, grids[0], given)
        return HierarchyState(grids, given, 0, 0, inner, self._empty(batch_size, grids[0]), None)

    @torch.no_grad()
    def step(self, previous: Int64[Tensor, " b"] | None, state: HierarchyState) -> Float[Tensor, "b k"]:
        """Logits of the next symbol, level by level. See `AutoregressiveNetwork.step`."""
        check_turn(previous, state.level + state.symbols)
        if previous is not None:
            position, codebook = divmod(state.symbols - 1, self.layout.num_codebooks)
            state.codes.flatten(2)[:, codebook, position] = previous
        if state.symbols == state.codes[0].numel():
            self._descend(state)
            previous = None
        state.symbols += 1
        return self.networks[state.level].step(previous, state.inner)

    def _descend(self, state: HierarchyState) -> None:
        """Start the next level."""
        if state.level + 1 == len(state.grids):
            raise InputError(f"expected no step after the last symbol of {state.grids}: call start")
        state.known = self.level_conditioners[state.level](state.codes, state.known)
        state.level += 1
        state.symbols = 0
        grid, batch_size = state.grids[state.level], len(state.codes)
        conditions = Conditions(**state.conditions, local=state.known)
        state.inner = self.networks[state.level].start(batch_size, grid, conditions)
        state.codes = self._empty(batch_size, grid)

    def _empty(self, batch_size: int, grid: Sequence[int]) -> Int64[Tensor, "b g h w"]:
        device = next(self.parameters()).device
        return torch.zeros(batch_size, self.layout.num_codebooks, *grid, dtype=torch.int64, device=device)
