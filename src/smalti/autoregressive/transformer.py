"""Causal transformer over code grids of any size and number of dimensions, with an optional class.

Sources: Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762); pre-norm and initialisation as
in Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from smalti.core.conditioners import ConditionedConfig, Conditioner, Conditioners
from smalti.core.conditions import Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig, SamplingKernel
from smalti.kernels.compiled import compiled_module
from smalti.nn.positions import encoded_positions
from smalti.nn.symbols import check_codes, check_counts, check_turn, hide_labels, label_indices

INITIAL_STD = 0.02
"""Standard deviation of the initial weights."""
WORTH_COMPILING = 64
"""Minimum number of symbols in a grid for compiled sampling; compiling takes ten seconds, once per
machine."""
MAX_COMPILED_BATCH = 32
"""Maximum number of grids for which the single-threaded compiled loop is faster."""


@NETWORKS.register
class TransformerConfig(ConditionedConfig, NetworkConfig):
    """Settings of a `Transformer`; `conditioners` as in `ConditionedConfig`.

    Attributes:
        channels: width of the residual stream.
        layers: number of layers.
        heads: attention heads; must divide `channels`.
        mlp_ratio: hidden width of each MLP, in multiples of `channels`.
        dropout: dropout of the embedded symbols and of the output of each branch.
        label_dropout: share of the labels that training hides, so that one network learns both p(z) and
            p(z | class).
    """

    kind: Literal["transformer"] = "transformer"
    channels: int = Field(default=256, ge=2)
    layers: int = Field(default=8, ge=1)
    heads: int = Field(default=8, ge=1)
    mlp_ratio: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _shared_out(self) -> TransformerConfig:
        if self.channels % self.heads:
            raise ValueError(
                f"expected a number of heads that divides the channels, received {self.heads} heads for "
                f"{self.channels} channels; set heads={math.gcd(self.heads, self.channels)}"
            )
        return self

    @classmethod
    def tiny(cls) -> TransformerConfig:
        """The smallest network with every part, for tests."""
        return cls(channels=16, layers=2, heads=2, mlp_ratio=2)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
    ) -> Transformer:
        """Build the untrained network; see `Transformer`."""
        settings = {**self.settings(), "conditioners": self.build_conditioners(self.channels)}
        return Transformer(num_codes, num_codebooks, conditions, **settings)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Queries, keys and values have no bias: the normalisation has one, and a bias of the keys would cancel in
    the softmax.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.channels * config.mlp_ratio
        self.heads = config.heads
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        widen, narrow = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.mlp = nn.Sequential(nn.LayerNorm(channels), widen, nn.GELU(), narrow)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.project, widen):
            nn.init.normal_(linear.weight, std=INITIAL_STD)
        for linear in (self.out, narrow):
            # The residual stream sums over branches, so scale its initial width down with the depth.
            nn.init.normal_(linear.weight, std=INITIAL_STD / math.sqrt(2 * config.layers))
        for linear in (self.out, widen, narrow):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "b s c"]) -> Float[Tensor, "b s c"]:
        """Apply the layer to all symbols at once. Output i depends on inputs <= i."""
        q, k, v = self.project(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.mlp(x))

    def step(
        self, x: Float[Tensor, "b c"], symbol: int, cache: Float[Tensor, "two b h s d"]
    ) -> Float[Tensor, "b c"]:
        """Apply the layer to one symbol, without dropout, given the cache; add its key and value to the
        cache."""
        qkv = self.project(self.norm(x)).unflatten(1, (3, self.heads, -1))
        cache[:, :, :, symbol] = qkv[:, 1:].transpose(0, 1)
        keys, values = cache[:, :, :, : symbol + 1]
        x = x + self.out(F.scaled_dot_product_attention(qkv[:, 0].unsqueeze(2), keys, values).flatten(1))
        return x + self.mlp(x)


@dataclass(slots=True)
class TransformerState:
    """Sampling state.

    Attributes:
        grid: size of each axis.
        begin: input at the first symbol, `(B, C)`.
        places: position encoding added to the input of each symbol, `(S, C)`.
        caches: keys and values of each layer, `(2, B, heads, S, C / heads)`, filled up to the current symbol.
        conditions: prepared state of each conditioner, by name.
        symbols: number of symbols for which logits were computed.
    """

    grid: tuple[int, ...]
    begin: Tensor
    places: Tensor
    caches: list[Tensor]
    conditions: dict[str, Any]
    symbols: int = 0


@final
class Transformer(AutoregressiveNetwork):
    """Pre-norm transformer over the S = P * G symbols of a grid of P positions, in order.

    The input at index i, which predicts symbol i, is the embedding of symbol i - 1 (for the first symbol, of
    the class) plus an encoding of the position of symbol i on each axis and of its codebook. One set of
    weights can therefore be used for grids of any size.

    Conditioners are applied to the stream before every layer, with the same weights.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G of each position.
        conditions: number of ids of each id condition of the data, by name; it embeds `label`. A label of -1,
            or none at all, selects a learned "not given".
        channels: width of the residual stream.
        layers: number of layers.
        heads: attention heads; must divide `channels`.
        mlp_ratio: hidden width of each MLP, in multiples of `channels`.
        dropout: dropout of the embedded symbols and of the output of each branch.
        label_dropout: share of the labels that training hides.
        conditioners: modules for activations of `channels`, by the name of the condition that each reads.
            Saving requires that each has a registered config.
    """

    config: TransformerConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        *,
        channels: int = 256,
        layers: int = 8,
        heads: int = 8,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        super().__init__()
        self.conditioners = Conditioners(conditioners)
        self.config = config = TransformerConfig(
            channels=channels,
            layers=layers,
            heads=heads,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        check_counts(num_codes, num_codebooks)
        self.num_codes = num_codes
        self.num_codebooks = num_codebooks
        self.condition_sizes = id_sizes(conditions, "label")
        channels = config.channels
        self.begin = nn.Embedding(self.num_classes + 1, channels)
        self.embeddings = nn.Parameter(torch.empty(num_codebooks, num_codes, channels))
        self.codebooks = nn.Parameter(torch.empty(num_codebooks, channels))
        self.position_scale = nn.Parameter(torch.full((channels,), INITIAL_STD))
        stack = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.layers = cast("Sequence[TransformerLayer]", stack)
        self.norm = nn.LayerNorm(channels)
        self.head_weights = nn.Parameter(torch.empty(num_codebooks, num_codes, channels))
        self.head_biases = nn.Parameter(torch.zeros(num_codebooks, num_codes))
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.begin.weight, self.embeddings, self.codebooks, self.head_weights):
            nn.init.normal_(table, std=INITIAL_STD)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check the number of axes, and that none is empty.

        Raises:
            InputError: for another grid.
        """
        axes = self.config.channels // 2
        if not 1 <= len(grid) <= axes or min(grid) < 1:
            raise InputError(
                f"expected a grid of 1 to {axes} axes (half the channels), each of at least 1 position, "
                f"received {tuple(grid)}: pass one size per axis"
            )

    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g *grid k"]:
        """Logits of every code at once; training mode hides some labels (`label_dropout`).

        Raises:
            InputError: if a code or label is out of range, or the number of codebooks is wrong.
        """
        check_codes(codes, self.num_codebooks, self.num_codes)
        labels = label_indices(conditions, len(codes), self.num_classes, codes.device)
        if self.training:
            labels = hide_labels(labels, self.config.label_dropout, self.num_classes)
        grid = codes.shape[2:]
        rows = torch.arange(self.num_codebooks, device=codes.device) * self.num_codes
        symbols = (codes.flatten(2).transpose(1, 2) + rows).flatten(1)
        embedded = F.embedding(symbols[:, :-1], self.embeddings.flatten(0, 1))
        x = torch.cat([self.begin(labels).unsqueeze(1), embedded], 1) + self._places(grid)
        x = self.dropout(x)
        prepared = self.conditioners.prepare(conditions, len(codes), grid, hide=self.training)
        for layer in self.layers:
            x = layer(self._conditioned(x, prepared, grid))
        by_codebook = self.norm(x).unflatten(1, (-1, self.num_codebooks)).permute(2, 0, 1, 3).flatten(1, 2)
        biases = self.head_biases.unsqueeze(1)
        logits = torch.baddbmm(biases, by_codebook, self.head_weights.transpose(1, 2))
        return logits.unflatten(1, (len(codes), *grid)).transpose(0, 1)

    @torch.no_grad()
    def start(
        self, batch_size: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> TransformerState:
        """State before the first symbol; labels are never hidden.

        Raises:
            InputError: if the grid has no axis or an empty one, or a label is out of range.
        """
        labels = label_indices(conditions, batch_size, self.num_classes, self.head_biases.device)
        places = self._places(grid)
        heads, layers = self.config.heads, self.config.layers
        caches = places.new_empty(layers, 2, batch_size, heads, len(places), places.shape[1] // heads)
        prepared = self.conditioners.prepare(conditions, batch_size, grid)
        return TransformerState(tuple(grid), self.begin(labels), places, list(caches), prepared)

    @torch.no_grad()
    def step(self, previous: Int64[Tensor, " b"] | None, state: TransformerState) -> Float[Tensor, "b k"]:
        """Logits of the next symbol, without dropout. See `AutoregressiveNetwork.step`."""
        symbol = state.symbols
        check_turn(previous, symbol)
        if symbol == len(state.places):
            raise InputError(f"expected no step after the last symbol of a grid {state.grid}: call start")
        if previous is None:
            x = state.begin
        else:
            x = F.embedding(previous, self.embeddings[(symbol - 1) % self.num_codebooks])
        x = x + state.places[symbol]
        for layer, cache in zip(self.layers, state.caches, strict=True):
            x = self.conditioners(x, state.conditions, symbol // self.num_codebooks)
            x = layer.step(x, symbol, cache)
        state.symbols += 1
        codebook = symbol % self.num_codebooks
        return F.linear(self.norm(x), self.head_weights[codebook], self.head_biases[codebook])

    def kernel(self, state: TransformerState) -> SamplingKernel | None:
        """Numba-compiled sampling loop, for float32 on a CPU, long grids and small batches; None elsewhere.

        It does not support conditioners.
        """
        weight = self.head_weights
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not len(self.conditioners)
        if not fits or len(state.places) < WORTH_COMPILING or len(state.begin) > MAX_COMPILED_BATCH:
            return None
        loops = compiled_module("smalti.kernels.transformer")
        return None if loops is None else loops.TransformerKernel(self, state)

    def _conditioned(
        self, x: Float[Tensor, "b s c"], prepared: dict[str, Any], grid: Sequence[int]
    ) -> Float[Tensor, "b s c"]:
        """Apply the conditioners to the stream; they see the symbols of each codebook as a grid."""
        if not len(self.conditioners):
            return x
        by_codebook = x.unflatten(1, (*grid, self.num_codebooks)).movedim(-1, 1).unbind(-1)
        conditioned = [self.conditioners(each, prepared) for each in by_codebook]
        return torch.stack(conditioned, -1).movedim(1, -1).flatten(1, -2)

    def _places(self, grid: Sequence[int]) -> Float[Tensor, "s c"]:
        """Encodings of the position and codebook of every symbol of a grid."""
        self.check_grid(grid)
        positions = encoded_positions(grid, self.config.channels).to(self.position_scale)
        return ((positions * self.position_scale).unsqueeze(1) + self.codebooks).flatten(0, 1)
