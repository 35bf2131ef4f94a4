"""Peak memory of `smalti encode` for two hours of sound, compared with one minute.

A minute of tones and noise, and the same minute 120 times in one 16-bit WAV file of 16 kHz, encoded with the
recipe `digits-spectral` at that rate after two steps of training. Each is measured in its own process, with
all imports. Run as `python benchmarks/long.py`; takes about a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from record import record
from resident import resident_kib
from timing import Time

MINUTES = (1, 120)
RATE_HZ = 16_000
SETTINGS = (
    f"data.sample_rate_hz={RATE_HZ}",
    "data.hop=160",
    "data.window=400",
    "training.steps=2",
    "training.batch_size=2",
    "training.validate_every=0",
)
SHARE = 1 / 1.2
"""Target: two hours take at most 20 % more than a minute."""


def write_sound(path: Path, minutes: int) -> None:
    """Write tones in noise, minute by minute."""
    rng = np.random.default_rng(0)
    at = np.arange(60 * RATE_HZ) / RATE_HZ
    wave = 0.2 * np.sin(2 * np.pi * 220 * at * (1 + 0.1 * np.sin(at))) + 0.05 * rng.standard_normal(len(at))
    samples = (wave * 32767).astype(np.int16)
    path.parent.mkdir(parents=True)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(samples)


def measure(model: Path, data: Path) -> None:
    """Print the peak memory of a process that encodes a folder, in MiB."""
    from smalti.app.commands.encode import encode

    encode(str(model), str(data), data / "codes.parquet", quiet=True)
    print(resident_kib("VmHWM") / 1024)


def main(
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    measured: Annotated[list[Path] | None, typer.Option("--measure", hidden=True)] = None,
) -> None:
    """Train for two steps, and encode both files."""
    if measured:
        measure(*measured)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        folders = {minutes: root / f"{minutes}" for minutes in MINUTES}
        for minutes, folder in folders.items():
            write_sound(folder / "speaker" / "sound.wav", minutes)
        model = root / "model"
        for name in ("a", "b"):
            write_sound(root / "train" / name / "sound.wav", 1)
        train = ("train", "digits-spectral", "--data", str(root / "train"), "--out", str(model))
        command = [sys.executable, "-m", "smalti", *train, *SETTINGS, "--quiet"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        peaks = {}
        for minutes, folder in folders.items():
            command = [sys.executable, __file__, "--measure", str(model), "--measure", str(folder)]
            ran = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            peaks[minutes] = Time(float(ran.stdout.splitlines()[-1]), None)
    short, long = MINUTES
    record(
        "long",
        work=f"peak memory of smalti encode, {long // 60} hours of sound of {RATE_HZ // 1000} kHz in one WAV "
        "file, recipe digits-spectral",
        peer=f"the same, {short} minute",
        threads=threads,
        ours=peaks[long],
        theirs=peaks[short],
        unit="MiB",
        benchmark="encode-long",
        target=round(SHARE, 2),
    )


if __name__ == "__main__":
    typer.run(main)
