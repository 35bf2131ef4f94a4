"""WaveNet: gated, dilated, causal convolutions over a sequence of codes or of waveform levels.

Source: van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio" (arXiv 1609.03499). The cached
step follows le Paine et al. 2016, "Fast Wavenet Generation Algorithm" (arXiv 1611.09482).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig, SamplingKernel
from smalti.kernels.compiled import compiled_module
from smalti.likelihoods.levels import from_levels
from smalti.nn.causal import DilatedConv1d, DilatedState
from smalti.nn.symbols import check_codes, check_counts, check_turn, hide_labels, label_indices

LARGEST_TABLE = 8192
"""Above this number, symbols are treated as levels of a signal and embedded as numbers, without a table."""

WORTH_COMPILING = 1000
"""Minimum length for the compiled loop; a shorter sequence is drawn faster than the loop loads."""


@NETWORKS.register
class WaveNetConfig(NetworkConfig):
    """Settings of a `WaveNet`.

    Attributes:
        channels: width of the residual stream.
        gate_channels: width of the gated maps; the maps before the gate have twice this width.
        skip_channels: width of the sum of the layers' skip outputs.
        head_channels: hidden width of the output head.
        kernel_size: taps of each dilated convolution.
        layers: layers of a stack; layer l has dilation 2^l.
        stacks: number of stacks.
        dropout: share of the input symbols that training hides. A decoder that can rely on the previous
            samples learns to ignore the codes; this dropout counteracts it.
        label_dropout: share of the labels that training hides.
    """

    kind: Literal["wavenet"] = "wavenet"
    channels: int = Field(default=64, ge=1)
    gate_channels: int = Field(default=64, ge=1)
    skip_channels: int = Field(default=64, ge=1)
    head_channels: int = Field(default=128, ge=1)
    kernel_size: int = Field(default=2, ge=1)
    layers: int = Field(default=8, ge=1, le=16)
    stacks: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def tiny(cls) -> WaveNetConfig:
        """The smallest network with every part, for tests; it sees 7 symbols back."""
        return cls(channels=8, gate_channels=6, skip_channels=7, head_channels=9, layers=2, stacks=2)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        local_channels: int = 0,
        outputs: int | None = None,
    ) -> WaveNet:
        """Build the untrained network; see `WaveNet`."""
        return WaveNet(num_codes, num_codebooks, conditions, local_channels, outputs, **self.settings())


@dataclass(slots=True)
class WaveNetState:
    """Sampling state.

    Attributes:
        length: number of symbols of the sequence.
        rings: ring buffer of past inputs of each layer.
        shifts: bias of the labels on each layer's pre-gate maps, `(L, B, 2g)`.
        local: bias of the local condition, `(frames, L, B, 2g)`, or None.
        symbols: number of symbols for which logits were computed.
    """

    length: int
    rings: list[DilatedState]
    shifts: Tensor
    local: Tensor | None
    symbols: int = 0


class WaveNetLayer(nn.Module):
    """One gated layer: tanh(a) * sigmoid(b), and 1x1 projections to the residual stream and the skip
    output."""

    def __init__(self, config: WaveNetConfig, dilation: int) -> None:
        super().__init__()
        gate = config.gate_channels
        self.dilated = DilatedConv1d(config.channels, 2 * gate, config.kernel_size, dilation)
        # A single matrix product computes both projections.
        self.out = nn.Conv1d(gate, config.channels + config.skip_channels, 1)
        self.split = (config.channels, config.skip_channels)

    def forward(
        self, x: Float[Tensor, "b c t"], shift: Float[Tensor, "b g2 #t"]
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b s t"]]:
        """Apply the layer; return the residual stream and the skip output.

        Args:
            x: the residual stream.
            shift: bias of the conditions on the pre-gate maps.
        """
        a, b = (self.dilated(x) + shift).chunk(2, 1)
        residual, skip = self.out(a.tanh() * b.sigmoid()).split(self.split, 1)
        return x + residual, skip

    def step(
        self, x: Float[Tensor, "b c"], shift: Float[Tensor, "b g2"], ring: DilatedState
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b s"]]:
        """Apply the layer at the next position only."""
        a, b = (self.dilated.step(x, ring) + shift).chunk(2, 1)
        out = nn.functional.linear(a.tanh() * b.sigmoid(), self.out.weight.squeeze(2), self.out.bias)
        residual, skip = out.split(self.split, 1)
        return x + residual, skip


@final
class WaveNet(AutoregressiveNetwork):
    """Predicts each symbol of a sequence from the previous ones, a label, and a local condition.

    Each frame of the local condition `(B, P, frames)` covers an equal number of symbols, so the number of
    symbols must be a multiple of the frames. It is projected once per frame, not once per symbol.

    Args:
        num_codes: symbols K: codes, or levels of a waveform. More than `LARGEST_TABLE` are embedded as
            numbers.
        num_codebooks: must be 1, one symbol per position.
        conditions: number of ids of each id condition of the data, by name; it embeds `label`. A label of -1,
            or none at all, selects a learned "not given".
        local_channels: channels P of the local condition; 0 for none.
        outputs: output values per symbol; None for K logits, otherwise the parameters of another likelihood
            of the next symbol.
        channels: width of the residual stream.
        gate_channels: width of the gated maps.
        skip_channels: width of the sum of the layers' skip outputs.
        head_channels: hidden width of the output head.
        kernel_size: taps of each dilated convolution.
        layers: layers of a stack; layer l has dilation 2^l.
        stacks: number of stacks.
        dropout: share of the input symbols that training hides.
        label_dropout: share of the labels that training hides.

    Raises:
        InputError: for more than one codebook, or sizes that are not positive.
    """

    config: WaveNetConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        local_channels: int = 0,
        outputs: int | None = None,
        *,
        channels: int = 64,
        gate_channels: int = 64,
        skip_channels: int = 64,
        head_channels: int = 128,
        kernel_size: int = 2,
        layers: int = 8,
        stacks: int = 2,
        dropout: float = 0.0,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.config = config = WaveNetConfig(
            channels=channels,
            gate_channels=gate_channels,
            skip_channels=skip_channels,
            head_channels=head_channels,
            kernel_size=kernel_size,
            layers=layers,
            stacks=stacks,
            dropout=dropout,
            label_dropout=label_dropout,
        )
        check_counts(num_codes, num_codebooks)
        if num_codebooks != 1:
            raise InputError(
                f"expected one codebook, a WaveNet has one symbol per position, received {num_codebooks}: "
                "use network.kind=transformer"
            )
        self.num_codes, self.num_codebooks = num_codes, num_codebooks
        self.condition_sizes = id_sizes(conditions, "label")
        self.local_channels, self.outputs = local_channels, outputs
        self.embedding = (
            nn.Linear(1, config.channels)
            if num_codes > LARGEST_TABLE
            else nn.Embedding(num_codes, config.channels)
        )
        stack = nn.ModuleList(
            WaveNetLayer(config, 2**layer) for _ in range(config.stacks) for layer in range(config.layers)
        )
        self.layers = cast("Sequence[WaveNetLayer]", stack)
        self.gates = 2 * config.gate_channels
        shifts = len(stack) * self.gates
        self.condition = nn.Embedding(self.num_classes + 1, shifts) if self.num_classes else None
        self.project = nn.Conv1d(local_channels, shifts, 1, bias=False) if local_channels else None
        self.hidden = nn.Linear(config.skip_channels, config.head_channels)
        self.logit = nn.Linear(config.head_channels, num_codes if outputs is None else outputs)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.1)

    @property
    def gives_logits(self) -> bool:
        """True if the outputs for a symbol are K logits."""
        return self.outputs is None

    @property
    def reach(self) -> int:
        """Number of previous symbols that the network sees."""
        return 1 + sum(layer.dilated.reach for layer in self.layers)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check that the grid is a line.

        Raises:
            InputError: for another grid.
        """
        if len(grid) != 1 or grid[0] < 1:
            raise InputError(
                f"expected a line of at least one symbol, received a grid {tuple(grid)}: use network.kind="
                "gated_pixelcnn or transformer for grids with more axes"
            )

    def forward(
        self, codes: Int64[Tensor, "b g *line"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g *line k"]:
        """Logits (or parameters) of every symbol at once.

        Training mode hides some symbols and labels (`dropout`, `label_dropout`).

        Raises:
            InputError: if the grid has more than one axis, a symbol or label is out of range, or the local
                condition is missing, has the wrong number of channels, or does not divide the length.
        """
        self.check_grid(codes.shape[2:])
        check_codes(codes, self.num_codebooks, self.num_codes)
        x = self._embed(codes.squeeze(1)).movedim(2, 1)
        labels = self._labels(conditions, len(codes), x.device)
        if self.training:
            if self.config.dropout:
                x = x * (torch.rand_like(x[:, :1]) >= self.config.dropout)
            labels = hide_labels(labels, self.config.label_dropout, self.num_classes)
        x = nn.functional.pad(x, (1, -1))
        total: Tensor | None = None
        for layer, shift in zip(self.layers, self._shifts_along(labels, conditions, codes), strict=True):
            x, skip = layer(x, shift)
            total = skip if total is None else total + skip
        assert total is not None
        return self._head(total.movedim(1, 2)).unsqueeze(1)

    @torch.no_grad()
    def start(
        self, batch_size: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> WaveNetState:
        """State before the first symbol; labels are never hidden.

        Raises:
            InputError: if the grid has more than one axis, or as in `forward`.
        """
        self.check_grid(grid)
        device = self.hidden.weight.device
        labels = self._labels(conditions, batch_size, device)
        local = self._local(conditions, batch_size, grid[0])
        return WaveNetState(
            length=grid[0],
            rings=[layer.dilated.start(batch_size) for layer in self.layers],
            shifts=self._label_shifts(labels).transpose(0, 1).contiguous(),
            local=None if local is None else local.permute(3, 1, 0, 2).contiguous(),
        )

    @torch.no_grad()
    def step(self, previous: Int64[Tensor, " b"] | None, state: WaveNetState) -> Float[Tensor, "b k"]:
        """Logits (or parameters) of the next symbol, without dropout. See `AutoregressiveNetwork.step`."""
        check_turn(previous, state.symbols)
        if state.symbols == state.length:
            raise InputError(
                f"expected no step after the last symbol of a line of {state.length}: call start"
            )
        if previous is None:
            x = state.shifts.new_zeros(state.shifts.shape[1], self.config.channels)
        else:
            x = self._embed(previous)
        shifts = state.shifts
        if state.local is not None:
            shifts = shifts + state.local[state.symbols * len(state.local) // state.length]
        total = x.new_zeros(len(x), self.config.skip_channels)
        for layer, shift, ring in zip(self.layers, shifts, state.rings, strict=True):
            x, skip = layer.step(x, shift, ring)
            total = total + skip
        state.symbols += 1
        return self._head(total)

    def kernel(self, state: WaveNetState) -> SamplingKernel | None:
        """Numba-compiled sampling loop, for float32 on a CPU and sequences long enough to benefit; else
        None."""
        weight = self.hidden.weight
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32
        if not (fits and self.gives_logits and isinstance(self.embedding, nn.Embedding)):
            return None
        if state.length < WORTH_COMPILING:
            return None
        loops = compiled_module("smalti.kernels.wavenet")
        return None if loops is None else loops.WaveNetKernel(self, state)

    def _head(self, total: Float[Tensor, "*any s"]) -> Float[Tensor, "*any k"]:
        """Compute logits from the sum of the skip outputs."""
        return self.logit(self.hidden(total.relu()).relu())

    def _embed(self, symbols: Int64[Tensor, "*any"]) -> Float[Tensor, "*any c"]:
        if isinstance(self.embedding, nn.Embedding):
            return self.embedding(symbols)
        values = from_levels(symbols, self.num_codes).to(self.embedding.weight.dtype)
        return self.embedding(values.unsqueeze(-1))

    def _labels(self, conditions: Conditions | None, batch_size: int, device: torch.device) -> Tensor:
        return label_indices(conditions, batch_size, self.num_classes, device)

    def _label_shifts(self, labels: Int64[Tensor, " b"]) -> Float[Tensor, "b layers g2"]:
        """Bias of the labels on the pre-gate maps of each layer."""
        if self.condition is None:
            weight = self.hidden.weight
            return weight.new_zeros(len(labels), len(self.layers), self.gates)
        return self.condition(labels).unflatten(1, (len(self.layers), self.gates))

    def _local(
        self, conditions: Conditions | None, batch_size: int, length: int
    ) -> Float[Tensor, "b layers g2 frames"] | None:
        """Bias of the local condition on the pre-gate maps of each layer, for each frame."""
        local = conditions.tensor("local") if conditions is not None else None
        if self.project is None:
            return None
        if (
            local is None
            or local.ndim != 3
            or local.shape[:2] != (batch_size, self.local_channels)
            or not local.shape[2]
            or length % local.shape[2]
        ):
            received = None if local is None else tuple(local.shape)
            raise InputError(
                f"expected a local condition of shape ({batch_size}, {self.local_channels}, frames), the "
                f"frames dividing {length} symbols, received {received}: pass the decoder's latents"
            )
        return self.project(local).unflatten(1, (len(self.layers), self.gates))

    def _shifts_along(
        self, labels: Tensor, conditions: Conditions | None, codes: Int64[Tensor, "b g t"]
    ) -> Sequence[Tensor]:
        """Bias of the conditions in each layer, `(B, 2g, T)`, or `(B, 2g, 1)` without a local condition."""
        shifts = self._label_shifts(labels).unsqueeze(3)
        length = codes.shape[2]
        local = self._local(conditions, len(codes), length)
        if local is None:
            return shifts.unbind(1)
        repeats = length // local.shape[3]
        return [part.repeat_interleave(repeats, 2) for part in (shifts + local).unbind(1)]
