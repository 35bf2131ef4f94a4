"""The nouns of smalti: abstract classes and frozen results. Imports nothing else of ours.

Shapes, everywhere: an image is `(B, C, H, W)`, a sound `(B, 1, T)`, a clip `(B, C, F, H, W)`, latents are
`(B, D, *grid)`, and codes are always int64 `(B, G, *grid)`, with G codebooks for each position.
Log-probabilities and rates are in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL import Image


class InputError(ValueError):
    """A user's mistake, told in one sentence: what was expected, what came, what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class Configuration(BaseModel):
    """Base of every `Config`: validated, immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True)
class SignalSpec:
    """What a modality promises of its signals: `channels` and `levels` a channel, over `size` positions.

    `sample_rate_hz` is that of the sound, for waveforms and their spectrograms.
    """

    channels: int
    size: tuple[int, ...]
    levels: int = 256
    sample_rate_hz: int | None = None

    @property
    def ndim(self) -> int:
        """Number of spatial (or temporal) dimensions."""
        return len(self.size)

    @property
    def dims(self) -> int:
        """Number of scalar dimensions of one signal: the divisor of bits/dim."""
        return self.channels * math.prod(self.size)


@dataclass(frozen=True)
class Conditions:
    """What a network is told beside its input.

    Attributes:
        labels: class (of speech: speaker) of each item, int64 `(B,)`; -1 means "not given". None when no
            item has one.
        local: what is told of each stretch of the input, `(B, P, *coarse)`, where every axis of `coarse`
            divides that of the input: an autoregressive decoder's upsampled latents. None when there is none.
        voices: what an encoder of speech knows of each item's speaker, `(B, V)`; None where it has to find it
            in the item itself.
        actions: of clips, what is done at each frame (the next one shows what came of it), int64 `(B, F)`; -1
            means "not given". None when no clip has any.
    """

    labels: Int64[Tensor, " b"] | None = None
    local: Float[Tensor, "b p *coarse"] | None = None
    voices: Float[Tensor, "b v"] | None = None
    actions: Int64[Tensor, "b f"] | None = None

    def part(self, first: int) -> Conditions:
        """Those of the items from `first` on."""
        return self._each(lambda tensor: tensor[first:])

    def to(self, device: torch.device) -> Conditions:
        """The same conditions on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        given = (self.labels, self.local, self.voices, self.actions)
        return Conditions(*(None if tensor is None else change(tensor) for tensor in given))


@dataclass(frozen=True)
class Batch:
    """One batch, ready for a model.

    Attributes:
        data: signals in their model range, or codes for a prior.
        conditions: what is told beside them.
        lengths: of each item on its first axis after the channels (time), int64 `(B,)`, where items end
            before the batch does; what follows an item is padding, and does not count. None when all fill
            the batch.
    """

    data: Tensor
    conditions: Conditions = field(default_factory=Conditions)
    lengths: Int64[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and the named detached scalars that it is made of (for logs and for blame)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents.

    Attributes:
        latents: `(B, D, *grid)`, the chosen code vectors; gradients pass straight through to the input.
        codes: int64 `(B, G, *grid)`.
        loss: the quantizer's own terms (codebook, commitment), a scalar.
        terms: those terms by name, detached.
    """

    latents: Float[Tensor, "b d *grid"]
    codes: Int64[Tensor, "b g *grid"]
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Bound:
    """An upper bound on -ln p(x) for each item, in two parts, nats.

    Attributes:
        rate: ln q(z|x) - ln p(z); of a deterministic encoder, -ln p(z); and what is paid for labels.
        distortion: -ln p(x|z).
        labels: what of the rate is paid for labels that a decoder is told.
    """

    rate: Float[Tensor, " b"]
    distortion: Float[Tensor, " b"]
    labels: float | Float[Tensor, " b"] = 0.0

    @property
    def log_prob(self) -> Float[Tensor, " b"]:
        """The lower bound on ln p(x), nats."""
        return -(self.rate + self.distortion)


class Modality(ABC):
    """What a signal is: how it is read from a file, its range, how it is shown and written.

    Stored items are levels, integers `(C, *size)`; a model sees them in [-1, 1]. Where `is_ragged`, items
    differ in their first axis after the channels (time), and `spec.size` is that of the crops that training
    takes.
    """

    extensions: tuple[str, ...]
    """Endings of the files that it can read, such as ".png"."""
    ending: str
    """Of the files that `save` writes."""
    noun: str
    """What its items are called in messages, in the plural: "pictures"."""
    is_ragged: bool = False
    readers: int | None = None
    """Threads that decode items side by side, or None for one a core. With 1, for items that are large and
    decoded by several threads themselves, one item at a time is in memory."""
    sample_rate_hz: int | None = None
    """Of the waveforms that `render` gives, where it gives waveforms."""
    padding: int = 0
    """The level that follows an item that is shorter than a crop."""
    pattern: str | None = None
    """A regular expression over file names that a user gave, with a group `speaker` or `label`."""

    @property
    def stored_shape(self) -> tuple[int | None, ...]:
        """Shape of an item; None as the side after the channels where items differ in it."""
        spec = self.spec
        return (spec.channels, None if self.is_ragged else spec.size[0], *spec.size[1:])

    @property
    @abstractmethod
    def spec(self) -> SignalSpec:
        """Channels, size and levels of a training signal."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """All that a figure measured on these signals depends on, as plain JSON values."""

    @abstractmethod
    def decode(self, content: Any) -> np.ndarray:
        """The levels of one item, `(C, *size)`, from a file, its bytes, or what the modality calls raw.

        Raises:
            UnreadableItem: with the reason, when there is no such signal in it.
        """

    @abstractmethod
    def to_model(self, levels: Tensor) -> Float[Tensor, "b c *size"]:
        """Stored levels to [-1, 1]."""

    @abstractmethod
    def to_stored(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """[-1, 1] to the nearest level, clipped: the exact inverse of `to_model`."""

    @abstractmethod
    def check(self, signal: Any) -> Any:
        """What a user passes, in the range of a model: `(B, C, *size)`, or of ragged items a list of such.

        Raises:
            InputError: for another type, range or shape.
        """

    def oddities(self, item: np.ndarray) -> list[str]:
        """What a user should know of an item that was read, in words: that it is silent, say."""
        return []

    def seconds(self, length: int) -> float | None:
        """How long an item of this length (in time) lasts, or None where it does not last."""
        return None

    def render(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """A model's signal as a user wants it: levels, unless the modality has something better."""
        return self.to_stored(signal)

    @abstractmethod
    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """A picture of signals: each of `rows[0]` with those of the other rows under it.

        Args:
            rows: batches `(B, C, *size)`, or lists of `(C, *size)`, levels or floats in [-1, 1].
        """

    @abstractmethod
    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one signal, `(C, *size)` or `(1, C, *size)`, levels or floats in [-1, 1], as a file."""


class Trainable(nn.Module, ABC):
    """Anything the training loop can train: it turns a batch into a loss."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """The loss of one batch (mean over items, so that equal shares of a batch average to the whole)."""

    def forward(self, batch: Batch) -> Loss:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(batch)


class Encoder(nn.Module, ABC):
    """signal `(B, C, *size)` -> latents `(B, D, *grid)`."""

    strides: tuple[int, ...]
    """How far each stage downsamples every dimension; their product is the "f" of f4, f8, f16."""
    time_strides: tuple[int, ...] = ()
    """How far each stage downsamples the first dimension of clips, time; () where it does as the others."""
    is_per_frame: bool = False
    """Whether it takes each frame of a clip by itself; what decodes its latents does likewise."""

    @abstractmethod
    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents; most encoders heed no conditions."""

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Grid of the latents of a signal of this size.

        Raises:
            InputError: when the encoder cannot halve this size as often as it has strides.
        """


class Decoder(nn.Module, ABC):
    """latents `(B, D, *grid)` -> parameters of a likelihood `(B, P, *size)`."""

    num_classes: int = 0
    """Labels that it is told; 0 for one that heeds none."""

    @abstractmethod
    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]: ...


class Quantizer(nn.Module, ABC):
    """latents -> codes -> latents, with G codebooks of K codes a position."""

    num_codebooks: int
    num_codes: int
    dim: int
    """Channels of the latents: G times the dimension of one code."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b d *grid"]) -> Quantized:
        """Quantize; in training mode a codebook that learns from statistics also takes its step."""

    @abstractmethod
    def encode(self, latents: Float[Tensor, "b d *grid"]) -> Int64[Tensor, "b g *grid"]: ...

    @abstractmethod
    def decode(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *grid"]: ...


class Likelihood(ABC):
    """A distribution over signals, as a decoder parametrises it."""

    has_mean: bool = True
    """Whether `mean` is known; of an autoregressive one it is not."""

    @abstractmethod
    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln p of each element, nats."""

    @abstractmethod
    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw; a temperature below 1 keeps it nearer to what is most probable, 0 takes just that."""

    @abstractmethod
    def mean(self) -> Float[Tensor, "b c *size"]: ...

    def known_mean(self) -> Float[Tensor, "b c *size"] | None:
        """`mean`, or None where it is not known."""
        return self.mean() if self.has_mean else None

    def mean_or_draw(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """`mean`, or a draw where it is not known."""
        return self.mean() if self.has_mean else self.sample(generator, temperature)


class LikelihoodFamily(nn.Module, ABC):
    """A family of likelihoods; called with a decoder's output it gives the member."""

    parameters_per_channel: int
    """Decoder channels for each signal channel."""
    num_classes: int = 0
    """Labels that it is told; 0 for one that heeds none."""

    @abstractmethod
    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Likelihood:
        """The member; only a family that is itself a network heeds conditions."""


class SamplingKernel(ABC):
    """A whole sampling loop, compiled for one device, that goes on from a network's state."""

    @abstractmethod
    def draw(self, uniform: Float[np.ndarray, "s b"], temperature: float = 1.0) -> Int64[np.ndarray, "s b"]:
        """The next symbols of each item, each by inverting its cumulative distribution at one number.

        Args:
            uniform: in [0, 1), one for each symbol of each item.
            temperature: divides the logits; 0 takes the most probable symbol.
        """


class AutoregressiveNetwork(nn.Module, ABC):
    """Predicts each symbol from those before it and from conditions, at two speeds through the same layers.

    Symbols are ordered by position (row-major over the grid), and by codebook within a position, unless a
    network has an `order` of its own.
    """

    num_codebooks: int
    num_codes: int
    num_classes: int
    num_actions: int = 0
    """Actions that it is told of clips; 0 for a network that heeds none."""

    @abstractmethod
    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, "b g *grid k"]:
        """Logits of every symbol at once. Those of symbol i depend only on symbols before i."""

    @abstractmethod
    def start(self, batch_size: int, grid: Sequence[int], conditions: Conditions = ...) -> Any:
        """State before the first symbol, for `step`."""

    @abstractmethod
    def step(self, previous: Int64[Tensor, " b"] | None, state: Any) -> Float[Tensor, "b k"]:
        """Logits of the next symbol.

        Args:
            previous: the symbol that the last call's logits were for; None at the first call.
            state: what `start` gave; it is updated in place.
        """

    def order(self, grid: Sequence[int]) -> Int64[Tensor, " symbols"] | None:
        """Where, by position and codebook, the symbols lie that come first, second, ...; None: in order."""
        return None

    def skip(self, codes: Int64[Tensor, "b g *first"], state: Any) -> None:
        """Take the first stretch of the grid as given; the next `step` is then told the last of its symbols.

        Args:
            codes: as long as the grid but on its first axis, where they are its beginning.
            state: fresh; it is updated in place.
        """
        previous = None
        for symbol in codes.flatten(2).transpose(1, 2).flatten(1).unbind(1):
            self.step(previous, state)
            previous = symbol

    def kernel(self, state: Any) -> SamplingKernel | None:
        """A faster way to draw all that follows a fresh state, or None where there is none.

        It computes what `step` computes, up to the order of sums.
        """
        return None


class Prior(nn.Module, ABC):
    """A distribution over code grids."""

    name: str
    takes_labels: bool = False
    """Whether `log_prob` is to be told the labels of the data when the data is evaluated."""

    @abstractmethod
    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, " b"]:
        """ln p(codes | conditions) of each item, nats, summed over its positions and codebooks."""

    @abstractmethod
    def sample(
        self,
        num: int,
        conditions: Conditions = ...,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]: ...


@dataclass(frozen=True)
class Measured:
    """What one batch gives to evaluation.

    Attributes:
        bounds: on the items' log-probability, by the name of the prior (and of the bound, where a model has
            several).
        reconstruction: `(B, C, *size)`, in the signal's model range; None where it would have to be drawn.
        codes: int64 `(B, G, *grid)`, or None for a model without codes.
    """

    bounds: dict[str, Bound]
    reconstruction: Tensor | None
    codes: Tensor | None


class LatentVariableModel(Trainable):
    """signal -> latents -> likelihood of the signal. Trained with `loss`, compared by bounds on ln p(x)."""

    signal: SignalSpec
    encoder: Encoder
    decoder: Decoder
    family: LikelihoodFamily

    @property
    def told_classes(self) -> int:
        """Labels that p(x | z, label) is told, and that a bound on p(x) has to pay for; 0 for none."""
        return max(self.decoder.num_classes, self.family.num_classes)

    def cost_of_labels(self, conditions: Conditions) -> float | Float[Tensor, " b"]:
        """What a receiver must be told besides the codes: p(x) >= p(x | label) / number of labels, nats."""
        if not self.told_classes or conditions.labels is None:
            return 0.0
        return math.log(self.told_classes) * (conditions.labels >= 0)

    @property
    def stride(self) -> int:
        """Positions of a signal for each of its latents, along its first axis: time, where it has that."""
        return math.prod(self.encoder.time_strides or self.encoder.strides)

    @property
    @abstractmethod
    def title(self) -> str:
        """What tables call it, such as "VQ-VAE, robust codebook"."""

    @abstractmethod
    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | z) at the signal's most probable latents; a draw where it has no known mean."""

    @abstractmethod
    def measure(
        self,
        batch: Batch,
        priors: Sequence[Prior] = (),
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Measured:
        """Everything that is reported of a batch, in one pass.

        Args:
            batch: signals, and their conditions, which only priors that `takes_labels` are told.
            priors: over the model's codes; a model with continuous latents has a prior of its own.
            draws: from the posterior of each item, where it is a distribution.
            generator: of the draws.
        """


class Autoencoder(LatentVariableModel):
    """signal -> codes -> likelihood of the signal."""

    num_codebooks: int
    num_codes: int

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Grid of the codes of one signal."""

    @abstractmethod
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]: ...

    @abstractmethod
    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes, conditions), the whole distribution."""

    def by_codebook(self, counts: Int64[Tensor, "g k"]) -> Int64[Tensor, "c k"]:
        """How often each code of each codebook occurs: in a model where several of the G codes of a place are
        of one codebook, their sum."""
        return counts

    def likelihood_without_codes(
        self, num: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> Likelihood | None:
        """p(x | no codes) of `num` signals whose codes would have this grid; None if it was not learned."""
        return None

    def draw_codes(
        self,
        signal: Float[Tensor, "b c *size"],
        generator: torch.Generator | None = None,
        conditions: Conditions | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Codes as the posterior gives them, for a prior to learn from; a deterministic encoder's own."""
        return self.encode(signal, conditions)

    def decode(
        self,
        codes: Int64[Tensor, "b g *grid"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | codes), in the signal's model range; a draw where it has no known mean."""
        return self.likelihood(codes, conditions).mean_or_draw(generator, temperature)

    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """`decode(encode(signal))`."""
        return self.decode(self.encode(signal, conditions), conditions, generator)

    def measure(
        self,
        batch: Batch,
        priors: Sequence[Prior] = (),
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Measured:
        """The bound -ln p(x) <= -ln p(z) - ln p(x|z) at the signal's own codes z, for each prior.

        For a deterministic encoder the one term of the sum over z is the whole posterior, so this is exactly
        the evidence lower bound (van den Oord et al. 2017, section 3.2), and more draws would change nothing.
        """
        codes = self.encode(batch.data, batch.conditions)
        likelihood = self.likelihood(codes, batch.conditions)
        distortion = -summed(likelihood.log_prob(batch.data), batch.lengths)
        labels = self.cost_of_labels(batch.conditions)
        bounds = {}
        for prior in priors:
            if prior.takes_labels:  # it pays for the labels itself
                bounds[prior.name] = Bound(-prior.log_prob(codes, batch.conditions), distortion)
            else:
                rate = labels - prior.log_prob(codes, Conditions())
                bounds[prior.name] = Bound(rate, distortion, labels)
        return Measured(bounds, likelihood.known_mean(), codes)


def summed(log_prob: Float[Tensor, "b c *size"], lengths: Int64[Tensor, " b"] | None) -> Float[Tensor, " b"]:
    """The sum over each item, without its padding: what lies beyond its length on the first axis."""
    if lengths is not None:
        inside = torch.arange(log_prob.shape[2], device=log_prob.device) < lengths.unsqueeze(1)
        log_prob = log_prob * inside.view(len(log_prob), 1, -1, *(1,) * (log_prob.ndim - 3))
    return log_prob.flatten(1).sum(1)
