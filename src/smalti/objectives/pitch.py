"""Distance of predicted pitch from that of the signal."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smalti.core.signals import SignalSpec
from smalti.nn.pitch import yin
from smalti.objectives.base import TERMS, Term, TermConfig, check_waveforms

LOW_HZ, HIGH_HZ = 60.0, 400.0
NATS_PER_OCTAVE = 10.0


@final
class Pitch(Term):
    """Trains the pitch that a decoder predicts, such as a `HarmonicDecoder`, on that of the signal.

        loss = mean of -ln p(voiced or not) + 10 |log2 F0' - log2 F0| in voiced frames

    F0 is estimated by YIN between 60 and 400 Hz, at the centre of each frame. Frames near the ends, whose
    estimate would depend on what lies beyond, do not count.

    Args:
        sample_rate_hz: sample rate of the waveforms.
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
    """

    reads = "pitch"

    def __init__(self, sample_rate_hz: int, weight: float = 1.0, start: int = 0) -> None:
        super().__init__(weight, start)
        self.sample_rate_hz = sample_rate_hz

    def forward(
        self, reconstruction: Float[Tensor, "b 2 n"], signal: Float[Tensor, "b 1 t"]
    ) -> Float[Tensor, ""]:
        """Mean over the frames.

        Args:
            reconstruction: the predictions: log2 of F0 in Hz, and the log-odds that a frame is voiced.
            signal: waveforms; the number of frames divides their length.
        """
        (num, length), rate = (reconstruction.shape[2], signal.shape[2]), self.sample_rate_hz
        hop, reach = length // num, rate / LOW_HZ
        centres = torch.arange(num, device=signal.device) * hop + hop // 2
        inside = (centres >= reach) & (centres < length - reach)
        if not inside.any():
            return 0.0 * reconstruction.sum()
        f0 = yin(signal[:, 0].float(), rate, centres[inside], LOW_HZ, min(HIGH_HZ, rate / 4))
        octaves, log_odds = reconstruction.float()[..., inside].unbind(1)
        voiced = f0.isfinite()
        errors = (octaves - f0.nan_to_num(1.0).log2()).abs() * voiced
        decision = F.binary_cross_entropy_with_logits(log_odds, voiced.to(log_odds))
        return decision + NATS_PER_OCTAVE * errors.mean()


@TERMS.register
class PitchConfig(TermConfig):
    """Settings of a `Pitch`."""

    kind: Literal["pitch"] = "pitch"

    def build(self, signal: SignalSpec) -> Pitch:
        """Build the term."""
        check_waveforms(signal, "the term pitch")
        assert signal.sample_rate_hz is not None
        return Pitch(signal.sample_rate_hz, self.weight, self.start)
