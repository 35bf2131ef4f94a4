"""Shared code of the sound modalities: settings, validation of user input, and spectrogram plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from PIL import Image
from pydantic import Field
from torch import Tensor

from smalti.core.arguments import check_count
from smalti.core.errors import InputError
from smalti.core.modality import ModalityConfig
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.sounds import read_sound, resampled, sound_blocks
from smalti.nn.spectral import FLOOR

RANGE_TOLERANCE = 1e-4
"""Tolerated excess over [-1, 1], for rounding errors."""

TRIM_BELOW = 10 ** (-40 / 20)
"""Share of the peak below which a sample is silence: -40 dB."""
TRIM_KEEPS_S = 0.05

SHOWN = 8
"""Maximum number of sounds in a preview; more would be too small to see."""
SHOWN_NATS = 80 / 20 * np.log(10)
"""Range of the colours below the loudest point: 80 dB, in nats."""
TICKS_HZ = (250, 1000, 4000, 16000, 64000)


class SoundConfig(ModalityConfig):
    """Settings that all sound modalities share.

    Attributes:
        sample_rate_hz: sample rate that sounds are resampled to.
        trim: remove silence at both ends: everything more than 50 ms before the first, or after the last,
            sample above -40 dB of the peak.
        pattern: regular expression that extracts speakers and splits from file names. It is searched for in
            each path relative to the data folder and has a group `speaker` (or `label`) and optionally a
            group `split`, such as `(?P<split>train|test)/(?P<speaker>[^/]+)/`. None recognises the layouts of
            known corpora, else takes folders as classes. It does not affect the sounds themselves.
    """

    sample_rate_hz: int = Field(default=16000, ge=1000, le=192000)
    trim: bool = False
    pattern: str | None = None

    def read(self, content: Path | bytes | np.ndarray) -> Float32[np.ndarray, " t"]:
        """Read one sound with `read_sound`, and trim it if `trim` is set.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read.
        """
        samples = read_sound(content, self.sample_rate_hz)
        return trim_silence(samples, self.sample_rate_hz) if self.trim else samples

    def blocks(self, content: Any) -> Iterator[Float32[np.ndarray, " t"]] | None:
        """Read a long file block by block; None for any other content.

        Trimming needs the whole sound.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read; the iterator raises it, too.
        """
        if self.trim or not isinstance(content, Path):
            return None
        return sound_blocks(content, self.sample_rate_hz)

    def reading(self) -> dict[str, Any]:
        """Return the settings of `read` for a modality's protocol."""
        return {
            "sample_rate_hz": self.sample_rate_hz,
            "channels": "mean",
            "resampling": "soxr HQ",
            "trim": "below -40 dB of the peak, 50 ms kept" if self.trim else "none",
        }


def trim_silence(samples: Float32[np.ndarray, " t"], sample_rate_hz: int) -> Float32[np.ndarray, " u"]:
    """Remove silence, below -40 dB of the peak, at both ends of a sound, except for 50 ms."""
    magnitudes = np.abs(samples)
    loud = np.flatnonzero(magnitudes > TRIM_BELOW * magnitudes.max(initial=0))
    if not loud.size:
        return samples
    kept = round(TRIM_KEEPS_S * sample_rate_hz)
    return samples[max(0, loud[0] - kept) : loud[-1] + 1 + kept]


def waveforms(
    sounds: Any, read: Callable[[Path | bytes], Float32[np.ndarray, " t"]]
) -> list[Float32[Tensor, "1 1 _"]]:
    """Validate sounds from the user and return their waveforms, one CPU tensor per sound.

    Args:
        sounds: a file or its bytes; linear amplitude in [-1, 1] at the modality's sample rate, as a float
            tensor or array `(T,)`, `(1, T)` or `(B, 1, T)`; or a list of these.
        read: reads a file or its bytes.

    Raises:
        InputError: for another type, shape or range, for no samples, or for an unreadable file.
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


def at_rate(sounds: Any, sample_rate_hz: int, target_hz: int) -> Any:
    """Resample the tensors and arrays among sounds from the user; files state their own rate.

    Args:
        sounds: as for `waveforms`.
        sample_rate_hz: sample rate of tensors and arrays.
        target_hz: the modality's sample rate.

    Returns:
        The sounds as a list, files unchanged.

    Raises:
        InputError: for a rate or an array out of range, or a sound without a sample at the new rate.
    """
    sample_rate_hz = check_count("sample_rate", sample_rate_hz)
    match sounds:
        case Tensor() | np.ndarray():
            checked = _checked(sounds.detach().cpu() if isinstance(sounds, Tensor) else _tensor(sounds))
            try:
                return [
                    torch.from_numpy(resampled(one.numpy().reshape(-1), sample_rate_hz, target_hz))
                    for one in checked
                ]
            except UnreadableItem as error:
                raise InputError(f"expected longer sounds, received one that is {error}") from None
        case list() | tuple():
            return [part for one in sounds for part in at_rate(one, sample_rate_hz, target_hz)]
    return [sounds]


def separate(row: Any, channels: int) -> list[Shaped[Tensor, "c _"]]:
    """Split a batch into signals `(C, T)` on the CPU.

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
    """Return the single signal in `(C, T)` or `(1, C, T)`, as `(C, T)`.

    Raises:
        InputError: if there is more than one signal.
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
    """Plot spectrograms: one row per element of `rows`, one column per sound, with a shared time axis.

    Args:
        rows: rows of equally many spectrograms; the first eight columns are shown.
        frame_s: seconds between successive frames.
        centres_hz: centre frequency of each mel channel.
        limits: values of the darkest and the brightest colour; None, for spectrograms in `LogMel`'s nats,
            shows the 80 dB below each column's peak.

    Raises:
        InputError: if the rows are empty or differ in length.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"expected rows with the same number of sounds, at least one, received {[*map(len, rows)]}"
        )
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
    """Draw the spectrograms of one sound below each other, with the same colour range."""
    peak = max(float(one.max()) for one in column)
    # Keep a column of pure silence dark.
    floor = np.log(FLOOR)
    low, high = limits or (max(peak - SHOWN_NATS, floor), max(peak, floor + 1))
    for axis, one in zip(axes, column, strict=True):
        channels, frames = one.shape
        extent = (0.0, frames * frame_s, -0.5, channels - 0.5)
        axis.imshow(
            one.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        axis.tick_params(labelsize=7)
        # White beyond the end of a shorter sound, so that it does not look like silence.
        axis.set_facecolor("white")
        # The limit of the whole column, whose time axis is shared.
        axis.set_xlim(0, max(one.shape[1] for one in column) * frame_s)


def _read(sound: str | Path | bytes, read: Callable[[Path | bytes], np.ndarray]) -> np.ndarray:
    """Read one sound that the user passed; convert `UnreadableItem` to `InputError`."""
    try:
        return read(Path(sound) if isinstance(sound, str) else sound)
    except UnreadableItem as error:
        name = str(sound) if isinstance(sound, (str, Path)) else "the input"
        raise InputError(f"{name} cannot be read as a sound: {error}; check the file") from error


def _checked(signal: Tensor) -> list[Float32[Tensor, "1 1 _"]]:
    shape = tuple(signal.shape)
    if signal.ndim not in (1, 2, 3) or (signal.ndim > 1 and shape[-2] != 1) or 0 in shape:
        raise InputError(
            f"expected non-empty sounds of shape (T,), (1, T) or (B, 1, T), received {shape}: "
            "average the channels of a stereo sound, and put time last"
        )
    if not signal.is_floating_point():
        raise InputError(
            f"expected floats in [-1, 1], received {signal.dtype}: divide 16-bit samples by 32768"
        )
    signal = signal.to(torch.float32).reshape(-1, 1, shape[-1])
    low, high = (bound.item() for bound in signal.aminmax())
    # This form of the condition refuses NaN too.
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(
            f"expected floats in [-1, 1], received values from {low:g} to {high:g}: divide by the peak, or "
            "16-bit samples by 32768"
        )
    return list(signal.clamp(-1, 1).split(1))


def _tensor(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor, copying it if it is read-only or has negative strides."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected an array of floats, received {array.dtype}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))
