"""Gated PixelCNN over code grids of any size, with several codebooks per position and an optional class.

Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders" (arXiv 1606.05328).
The cached step follows Ramachandran et al. 2017, "Fast Generation for Convolutional Autoregressive Models"
(arXiv 1704.06001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor, nn

from smalti.autoregressive.gated_layer import GatedLayer, LayerState, transposed
from smalti.core.conditioners import ConditionedConfig, Conditioner, Conditioners
from smalti.core.conditions import Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig, SamplingKernel
from smalti.kernels.compiled import compiled_module
from smalti.nn.symbols import check_codes, check_counts, check_turn, hide_labels, label_indices

WORTH_COMPILING = 64
"""Minimum number of symbols in a grid for compiled sampling; compiling takes ten seconds, once per
machine."""
MAX_COMPILED_BATCH = 64
"""Maximum number of grids for the compiled loop, which is single-threaded."""


@NETWORKS.register
class GatedPixelCNNConfig(ConditionedConfig, NetworkConfig):
    """Settings of a `GatedPixelCNN`; `conditioners` as in `ConditionedConfig`.

    Attributes:
        channels: maps p of each stack.
        layers: number of layers.
        kernel_size: odd kernel size of all layers but the first.
        first_kernel_size: odd kernel size of the first layer.
        head_channels: hidden width of the output heads.
        dropout: dropout of the gated horizontal maps of each layer.
        label_dropout: share of the labels that training hides, so that one network learns both p(z) and
            p(z | class).
    """

    kind: Literal["gated_pixelcnn"] = "gated_pixelcnn"
    channels: int = Field(default=64, ge=1)
    layers: int = Field(default=15, ge=1)
    kernel_size: int = Field(default=3, ge=3)
    first_kernel_size: int = Field(default=7, ge=3)
    head_channels: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    @field_validator("kernel_size", "first_kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, received {size}; use {size - 1} or {size + 1}")
        return size

    @classmethod
    def tiny(cls) -> GatedPixelCNNConfig:
        """The smallest network with every part, for tests; its receptive field is 4 rows and columns."""
        return cls(channels=8, layers=3, first_kernel_size=5, head_channels=16)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        local_channels: int = 0,
    ) -> GatedPixelCNN:
        """Build the untrained network; see `GatedPixelCNN`."""
        settings = {**self.settings(), "conditioners": self.build_conditioners(self.channels)}
        return GatedPixelCNN(num_codes, num_codebooks, conditions, local_channels, **settings)


@dataclass(slots=True)
class PixelCNNState:
    """Sampling state.

    Attributes:
        grid: rows and columns.
        layers: state of each layer.
        heads: the heads, laid out for one position.
        features: output of the last layer at the current position, `(B, p)`.
        context: `features` plus the embeddings of the codes already drawn at this position.
        conditions: prepared state of each conditioner, by name.
        symbols: number of symbols for which logits were computed.
    """

    grid: tuple[int, int]
    layers: list[LayerState]
    heads: list[nn.Module]
    features: Tensor
    context: Tensor
    conditions: dict[str, Any]
    symbols: int = 0


@final
class GatedPixelCNN(AutoregressiveNetwork):
    """Gated PixelCNN whose trunk sees all earlier positions, without a blind spot.

    With G codebooks, the input of the trunk is the sum of their embeddings. At a position, code g is
    predicted by its own head from the trunk and the embeddings of codes 0 to g - 1 at that position.

    Conditioners are applied to the horizontal stack after every layer, with the same weights.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G of each position.
        conditions: number of ids of each id condition of the data, by name; it embeds `label`. A label of -1,
            or none at all, selects a learned "not given".
        local_channels: channels P of the local condition `(B, P, r, c)`, whose sides divide the grid's; a
            single position conditions the whole grid. 0 for none.
        channels: maps p of each stack.
        layers: number of layers.
        kernel_size: odd kernel size of all layers but the first.
        first_kernel_size: odd kernel size of the first layer.
        head_channels: hidden width of the output heads.
        dropout: dropout of the gated horizontal maps of each layer.
        label_dropout: share of the labels that training hides.
        conditioners: modules for activations of `channels`, by the name of the condition that each reads.
            Saving requires that each has a registered config.
    """

    config: GatedPixelCNNConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        local_channels: int = 0,
        *,
        channels: int = 64,
        layers: int = 15,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        head_channels: int = 256,
        dropout: float = 0.0,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        super().__init__()
        self.conditioners = Conditioners(conditioners)
        self.config = config = GatedPixelCNNConfig(
            channels=channels,
            layers=layers,
            kernel_size=kernel_size,
            first_kernel_size=first_kernel_size,
            head_channels=head_channels,
            dropout=dropout,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        check_counts(num_codes, num_codebooks)
        self.num_codes = num_codes
        self.num_codebooks = num_codebooks
        self.condition_sizes = id_sizes(conditions, "label")
        channels = config.channels
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(num_codebooks))
        stack = nn.ModuleList(
            GatedLayer(
                channels,
                config.kernel_size if i else config.first_kernel_size,
                first=i == 0,
                num_classes=self.num_classes + 1 if self.num_classes else 0,
                dropout=config.dropout,
            )
            for i in range(config.layers)
        )
        self.layers = cast("Sequence[GatedLayer]", stack)
        self.local_channels = local_channels
        shifts = len(stack) * 4 * channels
        self.project = nn.Conv2d(local_channels, shifts, 1, bias=False) if local_channels else None
        self.prefixes = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(num_codebooks - 1))
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Linear(channels, config.head_channels),
                nn.ReLU(),
                nn.Linear(config.head_channels, num_codes),
            )
            for _ in range(num_codebooks)
        )

    @property
    def reach(self) -> int:
        """Number of rows up, and of columns to either side, that the last layer sees."""
        return self.config.first_kernel_size // 2 + (self.config.layers - 1) * (self.config.kernel_size // 2)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check that the grid has rows and columns.

        Raises:
            InputError: for another grid.
        """
        if len(grid) != 2 or min(grid) < 1:
            raise InputError(
                f"expected a grid of rows and columns, received {tuple(grid)}: pass a line of n codes as "
                "(1, n); for clips use network.kind=frame_pixelcnn or transformer"
            )

    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g *grid k"]:
        """Logits of every code at once; training mode hides some labels (`label_dropout`).

        Raises:
            InputError: if the grid is not one of rows and columns, a code or label is out of range, the
                number of codebooks is wrong, or a condition is missing, has the wrong number of channels, or
                does not fit the grid.
        """
        self.check_grid(codes.shape[2:])
        check_codes(codes, self.num_codebooks, self.num_codes)
        local = self._local(conditions, len(codes), codes.shape[2:])
        labels = label_indices(conditions, len(codes), self.num_classes, codes.device)
        if self.training:
            labels = hide_labels(labels, self.config.label_dropout, self.num_classes)
        prepared = self.conditioners.prepare(conditions, len(codes), codes.shape[2:], hide=self.training)
        each = codes.unbind(1)
        v = h = (
            torch.stack([embed(c) for embed, c in zip(self.embeddings, each, strict=True)])
            .sum(0)
            .movedim(-1, 1)
        )
        for layer, shifts in zip(self.layers, local, strict=True):
            v, h = layer(v, h, labels, shifts)
            h = self.conditioners(h, prepared)
        context = h.movedim(1, -1)
        logits = [self.heads[0](context)]
        for prefix, head, c in zip(self.prefixes, self.heads[1:], each, strict=False):
            context = context + prefix(c)
            logits.append(head(context))
        return torch.stack(logits, 1)

    @torch.no_grad()
    def start(
        self, batch_size: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> PixelCNNState:
        """State before the first symbol; it uses the current weights, and labels are never hidden.

        Raises:
            InputError: if the grid is not one of rows and columns, or as in `forward`.
        """
        self.check_grid(grid)
        rows, columns = grid
        weight = self.layers[0].out.weight
        labels = label_indices(conditions, batch_size, self.num_classes, weight.device)
        features = weight.new_empty(batch_size, self.config.channels)
        local = self._local(conditions, batch_size, grid)
        layers = [
            layer.start(rows, columns, labels, shifts)
            for layer, shifts in zip(self.layers, local, strict=True)
        ]
        heads = [transposed(head) for head in self.heads]
        prepared = self.conditioners.prepare(conditions, batch_size, grid)
        return PixelCNNState((rows, columns), layers, heads, features, features, prepared)

    @torch.no_grad()
    def step(self, previous: Int64[Tensor, " b"] | None, state: PixelCNNState) -> Float[Tensor, "b k"]:
        """Logits of the next symbol, without dropout. See `AutoregressiveNetwork.step`."""
        check_turn(previous, state.symbols)
        if previous is not None:
            self._feed(previous, state)
        position, codebook = divmod(state.symbols, self.num_codebooks)
        if codebook == 0:
            self._advance(position, state)
        state.symbols += 1
        return state.heads[codebook](state.context)

    def kernel(self, state: PixelCNNState) -> SamplingKernel | None:
        """Numba-compiled sampling loop, for float32 on a CPU and all but small grids and large batches.

        It does not support conditioners.
        """
        weight, (rows, columns) = self.layers[0].out.weight, state.grid
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not len(self.conditioners)
        symbols = rows * columns * self.num_codebooks
        if not fits or symbols < WORTH_COMPILING or len(state.features) > MAX_COMPILED_BATCH:
            return None
        loops = compiled_module("smalti.kernels.pixelcnn")
        return None if loops is None else loops.PixelCNNKernel(self, state)

    def _local(
        self, conditions: Conditions | None, batch_size: int, grid: Sequence[int]
    ) -> Sequence[Float[Tensor, "b p4 r c"] | None]:
        """Bias of the local condition on the pre-gate maps of each layer."""
        if self.project is None:
            return [None] * len(self.layers)
        local = conditions.tensor("local") if conditions is not None else None
        if (
            local is None
            or local.ndim != 4
            or local.shape[:2] != (batch_size, self.local_channels)
            or any(side % (part or side + 1) for side, part in zip(grid, local.shape[2:], strict=True))
        ):
            received = None if local is None else tuple(local.shape)
            raise InputError(
                f"expected a local condition of shape ({batch_size}, {self.local_channels}, rows, columns) "
                f"whose sides divide those of the grid {tuple(grid)}, received {received}: pass the latents"
            )
        return self.project(local).chunk(len(self.layers), 1)

    def _feed(self, code: Tensor, state: PixelCNNState) -> None:
        """Set the code for which logits were last computed."""
        position, codebook = divmod(state.symbols - 1, self.num_codebooks)
        slot = state.layers[0].left.slots[position % state.grid[1]]
        embedded = self.embeddings[codebook](code)
        if codebook == 0:
            slot.copy_(embedded)
        else:
            slot.add_(embedded)
        if codebook + 1 < self.num_codebooks:
            state.context = state.context + self.prefixes[codebook](code)

    def _advance(self, position: int, state: PixelCNNState) -> None:
        """Run the trunk at a position: the horizontal stack, and at the start of a row the vertical one."""
        row, column = divmod(position, state.grid[1])
        if row == state.grid[0]:
            raise InputError(f"expected no step after the last symbol of a grid {state.grid}: call start")
        layers = list(zip(self.layers, state.layers, strict=True))
        if column == 0:
            v = state.layers[0].left.row
            for layer, layer_state in layers:
                v = layer.start_row(v, layer_state)
        outs = [later.left.slots[column] for later in state.layers[1:]] + [state.features]
        for (layer, layer_state), out in zip(layers, outs, strict=True):
            layer.step(column, layer_state, out)
            if state.conditions:
                out.copy_(self.conditioners(out, state.conditions, position))
        state.context = state.features
