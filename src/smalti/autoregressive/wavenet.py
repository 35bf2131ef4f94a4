"""WaveNet: gated, dilated, causal convolutions over a line of symbols: codes, or the levels of a waveform.

Source: van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio" (arXiv 1609.03499). The cached
step follows le Paine et al. 2016, "Fast Wavenet Generation Algorithm" (arXiv 1611.09482).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig, SamplingKernel
from smalti.kernels.compiled import compiled_module
from smalti.likelihoods.levels import from_levels
from smalti.nn.causal import DilatedConv1d, DilatedState
from smalti.nn.symbols import check_codes, check_counts, check_turn, hide_labels, label_indices

LARGEST_TABLE = 8192
"""More symbols than these are levels of a signal, and are read as numbers instead of looked up in a table."""

WORTH_COMPILING = 1000
"""Symbols of a line from which on the compiled loop is taken; shorter ones are drawn sooner than it loads."""


@NETWORKS.register
class WaveNetConfig(NetworkConfig):
    """Size of a `WaveNet`.

    Attributes:
        channels: width of the residual stream.
        gate_channels: width of the gated maps; twice as many are made before the gate.
        skip_channels: width of the sum of what the layers give.
        head_channels: hidden width of the output head.
        kernel_size: taps of each dilated convolution.
        layers: layers of a stack; layer l has the dilation 2^l.
        stacks: how often the dilations are gone through.
        dropout: share of the symbols before each one that training hides from it. A decoder that may rely on
            the samples before learns to ignore the codes; this takes some of them away.
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
        """The smallest network that has every part; it sees 7 symbols back."""
        return cls(channels=8, gate_channels=6, skip_channels=7, head_channels=9, layers=2, stacks=2)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        num_classes: int = 0,
        num_actions: int = 0,
        local_channels: int = 0,
        outputs: int | None = None,
    ) -> WaveNet:
        """The untrained network; see `WaveNet`."""
        del num_actions
        return WaveNet(num_codes, num_codebooks, num_classes, local_channels, outputs, **self.settings())


@dataclass(slots=True)
class WaveNetState:
    """Where sampling stands.

    Attributes:
        length: symbols of the line.
        rings: past inputs of each layer.
        shifts: what the labels add to each layer's pre-gate maps, `(L, B, 2g)`.
        local: what the local condition adds, `(frames, L, B, 2g)`, or None.
        symbols: how many symbols logits were given for.
    """

    length: int
    rings: list[DilatedState]
    shifts: Tensor
    local: Tensor | None
    symbols: int = 0


class WaveNetLayer(nn.Module):
    """One gated layer: tanh(a) * sigmoid(b), and 1x1 projections to the residual stream and to the skips."""

    def __init__(self, config: WaveNetConfig, dilation: int) -> None:
        super().__init__()
        gate = config.gate_channels
        self.dilated = DilatedConv1d(config.channels, 2 * gate, config.kernel_size, dilation)
        # One product for both projections.
        self.out = nn.Conv1d(gate, config.channels + config.skip_channels, 1)
        self.split = (config.channels, config.skip_channels)

    def forward(
        self, x: Float[Tensor, "b c t"], shift: Float[Tensor, "b g2 #t"]
    ) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b s t"]]:
        """The stream one layer further, and what goes to the skips.

        Args:
            x: the stream.
            shift: what the conditions add to the pre-gate maps.
        """
        a, b = (self.dilated(x) + shift).chunk(2, 1)
        residual, skip = self.out(a.tanh() * b.sigmoid()).split(self.split, 1)
        return x + residual, skip

    def step(
        self, x: Float[Tensor, "b c"], shift: Float[Tensor, "b g2"], ring: DilatedState
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b s"]]:
        """`forward` at the next position."""
        a, b = (self.dilated.step(x, ring) + shift).chunk(2, 1)
        out = nn.functional.linear(a.tanh() * b.sigmoid(), self.out.weight.squeeze(2), self.out.bias)
        residual, skip = out.split(self.split, 1)
        return x + residual, skip


@final
class WaveNet(AutoregressiveNetwork):
    """Predicts each symbol of a line from those before it, a label, and a local condition.

    The local condition `(B, P, frames)` holds for stretches of equal length: the number of symbols must be a
    multiple of the frames. It is projected once a frame, not once a symbol.

    Args:
        num_codes: symbols K: codes, or levels of a waveform. More than `LARGEST_TABLE` are read as numbers.
        num_codebooks: 1; a line has one symbol a position.
        num_classes: number of labels (speakers, say); 0 for a network that ignores labels. A label of -1, or
            none at all, selects a learned "not given".
        local_channels: channels P of the local condition; 0 for none.
        outputs: numbers that are given for each symbol; None for K logits. Others are the parameters of
            another likelihood of the next symbol.
        channels: width of the residual stream.
        gate_channels: width of the gated maps.
        skip_channels: width of the sum of the layers' outputs.
        head_channels: hidden width of the output head.
        kernel_size: taps of each dilated convolution.
        layers: layers of a stack; layer l has the dilation 2^l.
        stacks: how often the dilations are repeated.
        dropout: share of the symbols before each one that training hides from it.
        label_dropout: share of the labels that training hides.

    Raises:
        InputError: for more than one codebook, or sizes that no network can have.
    """

    config: WaveNetConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        num_classes: int = 0,
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
        check_counts(num_codes, num_codebooks, num_classes)
        if num_codebooks != 1:
            raise InputError(
                f"expected one codebook, a WaveNet reads one symbol a position, received {num_codebooks}: "
                "take network.kind=transformer"
            )
        self.num_codes, self.num_codebooks, self.num_classes = num_codes, num_codebooks, num_classes
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
        self.condition = nn.Embedding(num_classes + 1, shifts) if num_classes else None
        self.project = nn.Conv1d(local_channels, shifts, 1, bias=False) if local_channels else None
        self.hidden = nn.Linear(config.skip_channels, config.head_channels)
        self.logit = nn.Linear(config.head_channels, num_codes if outputs is None else outputs)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.1)

    @property
    def gives_logits(self) -> bool:
        """Whether what it gives for a symbol are K logits, and not other parameters."""
        return self.outputs is None

    @property
    def reach(self) -> int:
        """How many symbols before the present one the network sees."""
        return 1 + sum(layer.dilated.reach for layer in self.layers)

    def forward(
        self, codes: Int64[Tensor, "b g *line"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g *line k"]:
        """Logits (or parameters) of every symbol at once.

        In training mode some symbols and labels are hidden (`dropout`, `label_dropout`).

        Raises:
            InputError: when the grid is not a line, a symbol or label is out of range, or the local condition
                is missing, has other channels, or does not divide the line.
        """
        _check_line(codes.shape[2:])
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
        """State before the first symbol. Labels are taken as given.

        Raises:
            InputError: when the grid is not a line, or as `forward` does.
        """
        _check_line(grid)
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
                f"expected no step after the last symbol of a line of {state.length}; start anew"
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
        """The loop compiled by numba, for float32 on a CPU, where a line is long enough to be worth it."""
        weight = self.hidden.weight
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32
        if not (fits and self.gives_logits and isinstance(self.embedding, nn.Embedding)):
            return None
        if state.length < WORTH_COMPILING:
            return None
        loops = compiled_module("smalti.kernels.wavenet")
        return None if loops is None else loops.WaveNetKernel(self, state)

    def _head(self, total: Float[Tensor, "*any s"]) -> Float[Tensor, "*any k"]:
        """From the sum of the skips to logits."""
        return self.logit(self.hidden(total.relu()).relu())

    def _embed(self, symbols: Int64[Tensor, "*any"]) -> Float[Tensor, "*any c"]:
        if isinstance(self.embedding, nn.Embedding):
            return self.embedding(symbols)
        values = from_levels(symbols, self.num_codes).to(self.embedding.weight.dtype)
        return self.embedding(values.unsqueeze(-1))

    def _labels(self, conditions: Conditions | None, batch_size: int, device: torch.device) -> Tensor:
        return label_indices(conditions, batch_size, self.num_classes, device)

    def _label_shifts(self, labels: Int64[Tensor, " b"]) -> Float[Tensor, "b layers g2"]:
        """What the labels add to the pre-gate maps of each layer."""
        if self.condition is None:
            weight = self.hidden.weight
            return weight.new_zeros(len(labels), len(self.layers), self.gates)
        return self.condition(labels).unflatten(1, (len(self.layers), self.gates))

    def _local(
        self, conditions: Conditions | None, batch_size: int, length: int
    ) -> Float[Tensor, "b layers g2 frames"] | None:
        """What the local condition adds to the pre-gate maps of each layer, for each frame."""
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
                f"frames dividing {length} symbols, received {received}: give the decoder's latents"
            )
        return self.project(local).unflatten(1, (len(self.layers), self.gates))

    def _shifts_along(
        self, labels: Tensor, conditions: Conditions | None, codes: Int64[Tensor, "b g t"]
    ) -> Sequence[Tensor]:
        """For each layer what the conditions add, `(B, 2g, T)`, or `(B, 2g, 1)` without a local one."""
        shifts = self._label_shifts(labels).unsqueeze(3)
        length = codes.shape[2]
        local = self._local(conditions, len(codes), length)
        if local is None:
            return shifts.unbind(1)
        repeats = length // local.shape[3]
        return [part.repeat_interleave(repeats, 2) for part in (shifts + local).unbind(1)]


def _check_line(grid: Sequence[int]) -> None:
    if len(grid) != 1 or grid[0] < 1:
        raise InputError(
            f"expected a line of at least one symbol, received a grid {tuple(grid)}; a WaveNet reads "
            "lines: take a gated PixelCNN or a transformer for other grids"
        )
