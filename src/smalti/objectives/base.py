"""Terms of an objective: weighted losses of a reconstruction beside the likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.registry import Registry
from smalti.core.signals import SignalSpec


class Term(nn.Module, ABC):
    """A loss of reconstructions `(B, C, *size)` of signals, differentiable in the reconstruction.

    A `PredictionTerm` is one of something else that the decoder predicts.

    Args:
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.

    Raises:
        InputError: if the weight is not positive, or the start is negative.
    """

    def __init__(self, weight: float = 1.0, start: int = 0) -> None:
        super().__init__()
        if not (weight > 0 and start >= 0):
            raise InputError(
                f"expected a weight above 0 and a start of at least 0, received {weight} and {start}: leave "
                "out a term that has no weight"
            )
        self.weight, self.start = weight, start

    @abstractmethod
    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Compute the loss, a mean over items.

        Args:
            reconstruction: in the model's range.
            signal: the original. Where it is padding or missing, the two are equal.
        """


class PredictionTerm(Term):
    """A loss of what a decoder predicts beside its output, see `Decoder.predictions`.

    No reconstruction depends on it, so a discriminator has no share in its gradient.

    Args:
        weight: factor of the term in the objective.
        start: 0; ranks expect a gradient of all parameters in every step.
        through_codes: whether the codes learn to keep what is predicted; else the decoder alone learns to
            predict it from codes that it does not change.

    Raises:
        InputError: if the weight is not positive, or the start is not 0.
    """

    reads: str
    """Name of the prediction."""

    def __init__(self, weight: float = 1.0, start: int = 0, through_codes: bool = True) -> None:
        super().__init__(weight, start)
        self.through_codes = through_codes
        if start:
            raise InputError(
                f"expected the start 0 for a term that trains predictions of the decoder, received {start}: "
                "leave it out"
            )

    @abstractmethod
    def forward(
        self, reconstruction: Tensor, signal: Float[Tensor, "b c *size"], observed: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Compute the loss, a mean over items.

        Args:
            reconstruction: the prediction.
            signal: in the model's range.
            observed: bool, of the signal's shape: where it is neither padding nor missing; None for all.
        """


class TermConfig(Configuration):
    """Settings of a term; each subclass has a `kind: Literal[...]`.

    Attributes:
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
    """

    weight: float = Field(default=1.0, gt=0)
    start: int = Field(default=0, ge=0)

    @abstractmethod
    def build(self, signal: SignalSpec) -> Term:
        """Build the term for signals with these channels, axes and domain.

        Raises:
            InputError: if it cannot compare such signals.
        """


COMPANDED = 256
"""Levels of mu-law waveforms, whose spectra are not those of the sound."""

TERMS = Registry("objective term", TermConfig, "smalti.objectives")
"""Kinds of terms."""

AnyTerm = Annotated[TermConfig, TERMS]


def check_pictures(signal: SignalSpec, name: str) -> None:
    """Check that signals are pictures or clips with one or three channels in [-1, 1].

    Args:
        signal: of the model.
        name: of what compares them, for the message.

    Raises:
        InputError: if they are not.
    """
    if not signal.has_pictures or signal.ndim > 3 or signal.channels not in (1, 3) or signal.is_continuous:
        raise InputError(
            f"expected pictures or clips of exact levels with 1 or 3 channels for {name}, received "
            f"{_described(signal)}: leave it out"
        )


def check_waveforms(signal: SignalSpec, name: str) -> None:
    """Check that signals are waveforms of one channel.

    Args:
        signal: of the model.
        name: of what compares them, for the message.

    Raises:
        InputError: if they are not.
    """
    if signal.axes != ("time",) or signal.channels != 1 or not signal.sample_rate_hz:
        raise InputError(
            f"expected waveforms with one channel and a sample rate for {name}, received "
            f"{_described(signal)}: leave it out, or use data.kind=audio"
        )
    if signal.levels <= COMPANDED:
        raise InputError(
            f"expected linear waveforms for {name}, received {signal.levels} levels, as mu-law encoding has: "
            "set data.encoding=linear"
        )


def _described(signal: SignalSpec) -> str:
    """Properties of signals, for messages."""
    domain = "continuous values" if signal.is_continuous else f"{signal.levels} levels"
    rate = f" at {signal.sample_rate_hz} Hz" if signal.sample_rate_hz else ""
    return f"signals with {signal.channels} channels, the axes {', '.join(signal.axes)} and {domain}{rate}"


def pictures(signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "n c h w"]:
    """Return pictures as they are, and the frames of clips as pictures."""
    return signal.movedim(2, 1).flatten(0, 1) if signal.ndim == 5 else signal


def colour(signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "n 3 h w"]:
    """Return pictures, or the frames of clips, with three channels; one channel counts as grey."""
    each = pictures(signal)
    return each.expand(-1, 3, -1, -1) if each.shape[1] == 1 else each
