"""Log-mel spectrograms of sounds that arrive in blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.streaming import SignalStream
from smalti.modalities.audio.waveforms import waveforms
from smalti.nn.spectral import BLOCK, LogMel


def check_length(length: int, hop: int) -> None:
    """Refuse a sound that is shorter than one frame.

    Raises:
        InputError: if it is.
    """
    if length < hop:
        raise InputError(
            f"expected sounds of at least one frame ({hop} samples), received {length} samples: pad them "
            "with zeros"
        )


@final
class LogMelStream(SignalStream):
    """Frames of a spectrogram as soon as all samples of their windows are known.

    Args:
        log_mel: the transform.
        convert: maps log-mel magnitudes, in nats, to the model's range, each by itself.
    """

    def __init__(
        self, log_mel: LogMel, convert: Callable[[Float[Tensor, "1 m n"]], Float32[Tensor, "1 m n"]]
    ) -> None:
        self._log_mel, self._convert = log_mel, convert
        self._hop, self._n_fft, self._lead = log_mel.hop, log_mel.n_fft, log_mel.fourier.lead
        self._samples = torch.zeros(1, 1, 0)
        self._begin = self._done = 0
        """Sample at which those that are kept begin, and number of frames that were returned."""

    def push(self, block: Any) -> Float32[Tensor, "1 m _"]:
        """Add samples; return the frames whose windows they complete."""
        sounds = waveforms(block, _refused)
        if len(sounds) != 1:
            raise InputError(f"expected a block of one sound, received {len(sounds)}: open a stream for each")
        self._samples = torch.cat([self._samples, sounds[0]], -1)
        # The first windows are reflected at the beginning of the signal.
        is_begun = self._known > max(self._lead, self._n_fft - self._lead)
        complete = (self._known + self._lead - self._n_fft) // self._hop + 1 if is_begun else 0
        return self._until(max(self._done, min(complete, self._known // self._hop)))

    def flush(self) -> Float32[Tensor, "1 m _"]:
        """Return the remaining frames, whose windows are reflected at the end of the signal."""
        check_length(self._known, self._hop)
        return self._until(self._known // self._hop)

    def look_ahead(self, after: int) -> int:
        """Samples of the windows of so many frames after a code's own, beyond the span of the code."""
        return (after - 1) * self._hop + self._n_fft - self._lead

    @property
    def _known(self) -> int:
        return self._begin + self._samples.shape[-1]

    def _until(self, frames: int) -> Float32[Tensor, "1 m _"]:
        """Compute the frames up to this one, and drop the samples that no other block of frames needs."""
        blocks = range(self._done // BLOCK, -(-frames // BLOCK)) if frames > self._done else ()
        made = [self._log_mel.block(self._samples, number, frames, self._begin) for number in blocks]
        nothing = self._samples.new_zeros(1, self._log_mel.num_mels, 0)
        whole = torch.cat([nothing, *made], -1)
        new = self._convert(whole[..., whole.shape[-1] - (frames - self._done) :])
        self._done = frames
        # One sample more, which the reflection at the end may need.
        unneeded = max(0, frames // BLOCK * BLOCK * self._hop - self._lead - 1)
        self._samples = self._samples[..., max(0, unneeded - self._begin) :].clone()
        self._begin = max(self._begin, unneeded)
        return new


def _refused(content: Path | bytes) -> np.ndarray:
    raise InputError(
        f"expected a block of samples as a tensor or an array, received {type(content).__name__}: pass files "
        "to encode"
    )
