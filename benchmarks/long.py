"""Peak memory of `smalti encode`, `decode` and `reconstruct` for long recordings and clips.

A minute of tones and noise, and the same minute 120 times in one 16-bit WAV file of 16 kHz, with a small
model of samples; encode also with the recipe `digits-spectral` at that rate. A minute of moving shapes, and
the same minute ten times in one MP4 file of 480p at 2 frames per second, with a small model of frames. The
models are not trained, which changes nothing about their memory. Each command runs in its own process, with
all imports.
Run as `python benchmarks/long.py`; takes about 20 minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from record import record
from resident import resident_kib
from timing import Time

from smalti.app.recipes import speech
from smalti.core.modality import ModalityConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.video.files import write_clip
from smalti.modalities.video.modality import VideoConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from smalti.trained import TrainedModel
from smalti.training.loop import TrainingConfig

RATE_HZ = 16_000
HEIGHT, WIDTH, FRAME_RATE_HZ = 480, 854, 2
SHARE = 1 / 1.2
"""Target: the long file takes at most 20 % more than a minute."""


def write_sound(folder: Path, minutes: int) -> None:
    """Write tones in noise, minute by minute."""
    rng = np.random.default_rng(0)
    at = np.arange(60 * RATE_HZ) / RATE_HZ
    wave = 0.2 * np.sin(2 * np.pi * 220 * at * (1 + 0.1 * np.sin(at))) + 0.05 * rng.standard_normal(len(at))
    samples = (wave * 32767).astype(np.int16)
    with soundfile.SoundFile(folder / "item.wav", "w", RATE_HZ, 1, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(samples)


def write_video(folder: Path, minutes: int) -> None:
    """Write a bright square that moves over a pattern, minute by minute."""
    down, right = np.mgrid[:HEIGHT, :WIDTH]

    def frames() -> Iterator[np.ndarray]:
        for index in range(minutes * 60 * FRAME_RATE_HZ):
            frame = np.stack([down // 2 % 256, right // 4 % 256, (down + right) // 8 % 256], 2).astype(
                np.uint8
            )
            left = 5 * (index % (60 * FRAME_RATE_HZ))
            frame[200:260, left : left + 60] = (240, 200, 40)
            yield frame

    write_clip(frames(), folder / "item.mp4", FRAME_RATE_HZ)


def small(data: ModalityConfig, strides: tuple[int, ...], per_frame: bool) -> Recipe:
    """A recipe of a small convolutional model."""
    width: dict[str, Any] = {"channels": 16, "residual_channels": 8, "residual_blocks": 1}
    return Recipe(
        name="small",
        data=data,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=strides, per_frame=per_frame),
            quantizer=VectorQuantizerConfig(num_codes=64, code_dim=8),
            decoder=ConvDecoderConfig(**width),
            likelihood=GaussianConfig(),
        ),
        training=TrainingConfig(),
        prior=speech.digits().prior,
    )


def mels() -> Recipe:
    """The recipe `digits-spectral` at 16 kHz."""
    recipe = speech.digits_spectral()
    return recipe.changed(
        {"data": recipe.data.changed({"sample_rate_hz": RATE_HZ, "hop": 160, "window": 400})}
    )


SOUND = ("sound of 16 kHz in one WAV file", write_sound, (1, 120))
VIDEO = ("480p in one MP4 file of 2 frames per second", write_video, (1, 10))


@dataclass(frozen=True)
class Case:
    """A model, its data, and the commands to measure."""

    model: str
    recipe: Recipe
    data: tuple
    commands: tuple[str, ...]


CASES = (
    Case("recipe digits-spectral", mels(), SOUND, ("encode",)),
    Case(
        "16 channels of samples, 250 codes per second",
        small(AudioConfig(sample_rate_hz=RATE_HZ, length=8192), (4, 4, 4), False),
        SOUND,
        ("encode", "decode", "reconstruct"),
    ),
    Case(
        "16 channels of single frames",
        small(VideoConfig(size=(64, 64), frames=4, frame_rate_hz=FRAME_RATE_HZ), (2, 2, 2, 2), True),
        VIDEO,
        ("encode", "decode", "reconstruct"),
    ),
)


def measure(command: str, model: Path, folder: Path) -> None:
    """Print the peak memory of a process that runs a command on the file of a folder, in MiB."""
    from smalti.app.commands import decode, encode, reconstruct

    codes, data = folder / "codes.parquet", folder / "data"
    match command:
        case "encode":
            encode.encode(str(model), str(data), codes, quiet=True)
        case "decode":
            decode.decode(str(model), codes, folder / "decoded", quiet=True)
        case _:
            reconstruct.reconstruct(str(model), [data], folder / "again", quiet=True)
    print(resident_kib("VmHWM") / 1024)


def main(
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    measured: Annotated[list[str] | None, typer.Option("--measure", hidden=True)] = None,
) -> None:
    """Measure every command on both files of each case."""
    if measured:
        command, model, folder = measured
        measure(command, Path(model), Path(folder))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for case in CASES:
        kind, write, (short, long) = case.data
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            untrained = case.recipe.model.build(case.recipe.data.build().spec, {})
            TrainedModel(root / "model", case.recipe, untrained.eval(), (), None, {}, {}).save(root / "model")
            for minutes in (short, long):
                (root / str(minutes) / "data").mkdir(parents=True)
                write(root / str(minutes) / "data", minutes)
            for command in case.commands:
                peaks = {}
                for minutes in (short, long):
                    arguments = (command, str(root / "model"), str(root / str(minutes)))
                    given = [part for each in arguments for part in ("--measure", each)]
                    ran = subprocess.run(
                        [sys.executable, __file__, *given],
                        check=True,
                        env=environment,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    peaks[minutes] = Time(float(ran.stdout.splitlines()[-1]), None)
                record(
                    "long",
                    work=f"peak memory of smalti {command}, {long} minutes of {kind}, {case.model}",
                    peer=f"the same, {short} minute",
                    threads=threads,
                    ours=peaks[long],
                    theirs=peaks[short],
                    unit="MiB",
                    benchmark=f"{command}-long",
                    target=round(SHARE, 2),
                )


if __name__ == "__main__":
    typer.run(main)
