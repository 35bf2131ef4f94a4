"""What the modalities of sounds share: how a sound is read, what a user may pass as one, how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from PIL import Image
from pydantic import Field
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import ModalityConfig
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.sounds import read_sound
from smalti.nn.spectral import FLOOR

RANGE_TOLERANCE = 1e-4
"""How far a float signal may leave [-1, 1], so that rounding is not taken for a wrong range."""

TRIM_BELOW = 10 ** (-40 / 20)
"""Share of the peak under which a sample is silence: -40 dB."""
TRIM_KEEPS_S = 0.05

SHOWN = 8
"""Sounds in a preview: more would be too small to see."""
SHOWN_NATS = 80 / 20 * np.log(10)
"""Range of the colours under the loudest point: 80 dB."""
TICKS_HZ = (250, 1000, 4000, 16000, 64000)


class SoundConfig(ModalityConfig):
    """What every modality of sounds is told.

    Attributes:
        sample_rate_hz: to which sounds are resampled.
        trim: cut silence at both ends: what comes before the first sample, and after the last, that is
            louder than 40 dB under the peak, but for 50 ms.
        pattern: how file names tell speakers and splits: a regular expression that is searched for in each
            path below the data folder, with a group `speaker` (or `label`) and optionally a group `split`,
            such as `(?P<split>train|test)/(?P<speaker>[^/]+)/`. None for the layouts of known corpora, or
            else for folders as classes. It says what the data is and changes no sound.
    """

    sample_rate_hz: int = Field(default=16000, ge=1000, le=192000)
    trim: bool = False
    pattern: str | None = None

    def read(self, content: Path | bytes | np.ndarray) -> Float32[np.ndarray, " t"]:
        """One sound, as `read_sound` reads it, trimmed where that is wished.

        Raises:
            UnreadableItem: with the reason, when there is no such sound in it.
        """
        samples = read_sound(content, self.sample_rate_hz)
        return trim_silence(samples, self.sample_rate_hz) if self.trim else samples

    def reading(self) -> dict[str, Any]:
        """How `read` reads, as a part of a modality's protocol."""
        return {
            "sample_rate_hz": self.sample_rate_hz,
            "channels": "mean",
            "resampling": "soxr HQ",
            "trim": "below -40 dB of the peak, 50 ms kept" if self.trim else "none",
        }


def trim_silence(samples: Float32[np.ndarray, " t"], sample_rate_hz: int) -> Float32[np.ndarray, " u"]:
    """The samples from the first to the last that is louder than 40 dB under the peak, and 50 ms around."""
    magnitudes = np.abs(samples)
    loud = np.flatnonzero(magnitudes > TRIM_BELOW * magnitudes.max(initial=0))
    if not loud.size:
        return samples
    kept = round(TRIM_KEEPS_S * sample_rate_hz)
    return samples[max(0, loud[0] - kept) : loud[-1] + 1 + kept]


def waveforms(
    sounds: Any, read: Callable[[Path | bytes], Float32[np.ndarray, " t"]]
) -> list[Float32[Tensor, "1 1 _"]]:
    """What a user passes as sounds, on the host, one by one since their lengths differ.

    Args:
        sounds: a file or its bytes; linear amplitude in [-1, 1] at the modality's sample rate, a float
            tensor or array `(T,)`, `(1, T)` or `(B, 1, T)`; or a list of these.
        read: reads the files.

    Raises:
        InputError: for another type, shape or range, no samples, or a file that is no sound.
    """
    match sounds:
        case Tensor():
            return _checked(sounds.detach().cpu())
        case np.ndarray():
            return _checked(_tensor(sounds))
        case str() | Path() | bytes():
            return [torch.from_numpy(_read(sounds, read))[None, None]]
        case list() | tuple():
            if not sounds:
                raise InputError("expected at least one sound, received an empty list")
            return [one for sound in sounds for one in waveforms(sound, read)]
    raise InputError(
        f"expected sounds as files, float tensors or arrays, or a list of these, "
        f"received {type(sounds).__name__}"
    )


def separate(row: Any, channels: int) -> list[Shaped[Tensor, "c _"]]:
    """Signals one by one, `(C, T)`, on the host.

    Args:
        row: a batch `(B, C, T)`, or a list of `(C, T)` or `(1, C, T)`; tensors or arrays.
        channels: C.

    Raises:
        InputError: for another shape.
    """
    batches = [row] if isinstance(row, (Tensor, np.ndarray)) else list(row)
    tensors = [_tensor(one) if isinstance(one, np.ndarray) else one.detach().cpu() for one in batches]
    for one in tensors:
        if one.ndim not in (2, 3) or one.shape[-2] != channels or not one.shape[-1]:
            raise InputError(
                f"expected signals ({channels}, T) or (B, {channels}, T), received the shape "
                f"{tuple(one.shape)}"
            )
    return [signal for one in tensors for signal in one.reshape(-1, *one.shape[-2:])]


def only(signal: Tensor | np.ndarray, channels: int) -> Shaped[Tensor, "c _"]:
    """The one signal of `(C, T)` or `(1, C, T)`.

    Raises:
        InputError: when it is not one sound.
    """
    signals = separate(signal, channels)
    if len(signals) != 1:
        raise InputError(f"expected one sound, received {len(signals)}: save them one by one, or use preview")
    return signals[0]


def spectrogram_figure(
    rows: Sequence[Sequence[Float[Tensor, "m _"]]],
    frame_s: float,
    centres_hz: Float[Tensor, " m"],
    limits: tuple[float, float] | None = None,
) -> Image.Image:
    """Spectrograms, a column for each sound, those of the other rows under `rows[0]` and on its time axis.

    Args:
        rows: each as many spectrograms as the others; the first eight are shown.
        frame_s: seconds from frame to frame.
        centres_hz: frequency of each mel channel.
        limits: values of the darkest and the brightest colour; None, for `LogMel`'s nats, takes the 80 dB
            under each column's peak.

    Raises:
        InputError: when there is nothing to show, or the rows differ in number.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise InputError(f"expected rows of equally many sounds, received {[len(row) for row in rows]}")
    columns = list(zip(*rows, strict=True))[:SHOWN]
    figure = Figure(figsize=(0.8 + 2.2 * len(columns), 0.6 + 1.5 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), sharex="col", sharey=True, squeeze=False)
    for axes, column in zip(grid.T, columns, strict=True):
        _draw_column(axes, column, frame_s, limits)
    ticks = [hz for hz in TICKS_HZ if centres_hz[0] <= hz <= centres_hz[-1]]
    places = np.interp(ticks, centres_hz.numpy(), np.arange(len(centres_hz)))
    for axes in grid[:, 0]:
        axes.set_yticks(places, [f"{hz / 1000:g}" for hz in ticks])
        axes.set_ylabel("kHz", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("seconds", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_column(
    axes: Iterable[Any], column: Sequence[Tensor], frame_s: float, limits: tuple[float, float] | None
) -> None:
    """Spectrograms of one sound, one under the other, in the same colours."""
    peak = max(float(one.max()) for one in column)
    # Silence is to be dark, though it is the loudest that there is.
    floor = np.log(FLOOR)
    low, high = limits or (max(peak - SHOWN_NATS, floor), max(peak, floor + 1))
    for axis, one in zip(axes, column, strict=True):
        channels, frames = one.shape
        extent = (0.0, frames * frame_s, -0.5, channels - 0.5)
        axis.imshow(
            one.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        axis.tick_params(labelsize=7)
        # What a shorter sound lacks is seen to be missing, and is not taken for silence.
        axis.set_facecolor("white")
        # Of the whole column, whose time axis is shared.
        axis.set_xlim(0, max(one.shape[1] for one in column) * frame_s)


def _read(sound: str | Path | bytes, read: Callable[[Path | bytes], np.ndarray]) -> np.ndarray:
    """`read`, for a user who passed this one sound."""
    try:
        return read(Path(sound) if isinstance(sound, str) else sound)
    except UnreadableItem as error:
        name = str(sound) if isinstance(sound, (str, Path)) else "what was passed"
        raise InputError(f"{name} cannot be read as a sound: {error}; check the file") from error


def _checked(signal: Tensor) -> list[Float32[Tensor, "1 1 _"]]:
    shape = tuple(signal.shape)
    if signal.ndim not in (1, 2, 3) or (signal.ndim > 1 and shape[-2] != 1) or 0 in shape:
        raise InputError(
            f"expected sounds of shape (T,), (1, T) or (B, 1, T) with samples in them, received {shape}: "
            "take the mean over the channels of a stereo sound, and put time last"
        )
    if not signal.is_floating_point():
        raise InputError(
            f"expected floats in [-1, 1], received {signal.dtype}: divide 16-bit samples by 32768"
        )
    signal = signal.to(torch.float32).reshape(-1, 1, shape[-1])
    low, high = (bound.item() for bound in signal.aminmax())
    # Written so that NaN fails too.
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(
            f"expected floats in [-1, 1], received values from {low:g} to {high:g}: divide by the peak, or "
            "16-bit samples by 32768"
        )
    return list(signal.clamp(-1, 1).split(1))


def _tensor(array: np.ndarray) -> Tensor:
    """The array as torch can take it without a warning: writable and without negative strides."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected an array of floats, received {array.dtype}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))
