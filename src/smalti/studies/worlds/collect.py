"""`smalti collect doom`: generate a Parquet data set of first-person frames with actions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smalti.app.console import counting, note
from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.studies.worlds.doom import ACTIONS, TICS, Doom, Episode

HELD_OUT = 10
"""Every tenth episode belongs to the test split."""
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("action", pa.int64()),
        ("episode", pa.int64()),
        ("frame", pa.int64()),
    ]
)
FEATURES = {
    "image": {"_type": "Image"},
    "action": {"_type": "ClassLabel", "names": list(ACTIONS)},
    "episode": {"_type": "Value", "dtype": "int64"},
    "frame": {"_type": "Value", "dtype": "int64"},
}
"""Feature types of the columns for the `datasets` library."""


def collect(
    world: str,
    out: Path,
    num: int,
    scenario: str = "my_way_home",
    size: int = 84,
    length: int = 100,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write the splits `train` and `test`: PNG frames in Parquet, one row group per episode.

    The test split is every tenth episode: different walks through the same map.

    Args:
        world: "doom".
        out: the folder, created only when all files are complete.
        num: total number of frames.
        scenario: name of a ViZDoom scenario.
        size: side of a frame, pixels.
        length: frames per episode.
        seed: equal seeds give equal files.
        quiet: hide progress.

    Raises:
        InputError: for a user error, or when ViZDoom is not installed.
    """
    if world != "doom":
        raise InputError(
            f"expected doom or speech, received {world!r}: run smalti collect doom or smalti collect speech"
        )
    least = HELD_OUT * length
    if length < 1 or num < least:
        raise InputError(
            f"expected at least {least} frames, for {HELD_OUT} episodes of {length}, "
            f"received {num}: raise --num or lower --length"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: choose another folder")
    with Doom(scenario, size, length, seed) as doom, atomic_directory(out) as temporary:
        about = {"scenario": scenario, "seed": seed, "size": size, "length": length, "tics": TICS}
        _write(doom, num, temporary, about, quiet)
    note(f"{out} holds {num:,} frames. Next: smalti train frames --data {out} --out runs/frames", quiet)
    return out


def _write(doom: Doom, num: int, folder: Path, about: dict[str, Any], quiet: bool) -> None:
    schema = SCHEMA.with_metadata(
        {
            "huggingface": json.dumps({"info": {"features": FEATURES}}),
            "smalti": json.dumps({"world": "doom", **about, "vizdoom": version("vizdoom")}),
        }
    )
    with (
        counting("Rendering", quiet) as count,
        pq.ParquetWriter(folder / "train-00000-of-00001.parquet", schema) as train,
        pq.ParquetWriter(folder / "test-00000-of-00001.parquet", schema) as test,
    ):
        done = 0
        for episode in doom.episodes(num):
            is_held_out = episode.number % HELD_OUT == HELD_OUT - 1
            table = pa.Table.from_pylist(list(_rows(episode)), schema=schema)
            (test if is_held_out else train).write_table(table)
            done += len(episode.actions)
            count(done, num)


def _rows(episode: Episode) -> Iterator[dict[str, object]]:
    for frame, (picture, action) in enumerate(zip(episode.frames, episode.actions, strict=True)):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        name = f"episode{episode.number:05d}_frame{frame:04d}.png"
        image = {"bytes": content.getvalue(), "path": name}
        yield {"image": image, "action": action, "episode": episode.number, "frame": frame}
