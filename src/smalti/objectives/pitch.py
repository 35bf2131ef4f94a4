"""Distance of predicted pitch from that of the signal."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.nn.pitch import yin
from smalti.objectives.base import TERMS, PredictionTerm, TermConfig, check_waveforms

LOW_HZ, HIGH_HZ = 60.0, 400.0
NATS_PER_OCTAVE = 10.0


@final
class Pitch(PredictionTerm):
    """Trains the pitch that a decoder predicts, such as a `HarmonicDecoder`, on that of the signal.

        loss = mean over frames of -ln p(voiced or not) + 10 |log2 F0' - log2 F0| where voiced

    F0 is estimated by YIN between 60 and 400 Hz, at the centre of each frame. Frames do not count whose
    estimate would depend on padding, or on what lies beyond the ends; without any others the loss is 0.

    Args:
        sample_rate_hz: sample rate of the waveforms, at least 1600 Hz.
        weight: factor of the term in the objective.
        start: 0.
        through_codes: whether the codes learn to keep the pitch; not for voice conversion, where the decoder
            predicts that of the wanted speaker.

    Raises:
        InputError: if the sample rate is too low for F0 of 400 Hz, or another argument out of range.
    """

    reads = "pitch"

    def __init__(
        self, sample_rate_hz: int, weight: float = 1.0, start: int = 0, through_codes: bool = True
    ) -> None:
        super().__init__(weight, start, through_codes)
        if sample_rate_hz < 4 * HIGH_HZ:
            raise InputError(
                f"expected a sample rate of at least {4 * HIGH_HZ:g} Hz for the term pitch, received "
                f"{sample_rate_hz}: raise data.sample_rate_hz, or leave out the term"
            )
        self.sample_rate_hz = sample_rate_hz

    def forward(
        self,
        reconstruction: Float[Tensor, "b 2 n"],
        signal: Float[Tensor, "b 1 t"],
        observed: Bool[Tensor, "b 1 t"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the frames of an item, and over items.

        Args:
            reconstruction: the predictions: log2 of F0 in Hz, and the log-odds that a frame is voiced. The
                number N of frames divides the length of the signal.
            signal: waveforms.
            observed: False at padding; None without any.
        """
        (num, length), rate = (reconstruction.shape[2], signal.shape[2]), self.sample_rate_hz
        hop, reach = length // num, math.ceil(rate / LOW_HZ) + 1
        centres = torch.arange(num, device=signal.device) * hop + hop // 2
        inside = (centres >= reach) & (centres < length - reach)
        centres = centres[inside]
        f0 = yin(signal[:, 0].float(), rate, centres, LOW_HZ, HIGH_HZ)
        octaves, log_odds = reconstruction.float()[..., inside].unbind(1)
        voiced = f0.isfinite()
        errors = (octaves - f0.nan_to_num(1.0).log2()).abs() * voiced
        decisions = F.binary_cross_entropy_with_logits(log_odds, voiced.to(log_odds), reduction="none")
        counted = torch.ones_like(voiced)
        if observed is not None:
            missing = F.pad((~observed[:, 0]).int().cumsum(1), (1, 0))
            counted = missing[:, centres + reach] == missing[:, centres - reach]
        losses = (decisions + NATS_PER_OCTAVE * errors) * counted
        return (losses.sum(1) / counted.sum(1).clamp_min(1)).mean()


@TERMS.register
class PitchConfig(TermConfig):
    """Settings of a `Pitch`.

    Attributes:
        through_codes: whether the codes learn to keep the pitch; not for voice conversion.
    """

    kind: Literal["pitch"] = "pitch"
    through_codes: bool = True

    def build(self, signal: SignalSpec) -> Pitch:
        """Build the term."""
        check_waveforms(signal, "the term pitch")
        assert signal.sample_rate_hz is not None
        return Pitch(signal.sample_rate_hz, self.weight, self.start, self.through_codes)
