"""`smalti collect doom`: generate a Parquet data set of first-person frames with actions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
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
FEATURES: dict[str, Any] = {
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

    The test split is every tenth episode: different walks through the same map. Several scenarios have equal
    numbers of frames.

    Args:
        world: "doom".
        out: the folder, created only when all files are complete.
        num: total number of frames.
        scenario: name of a ViZDoom scenario; several with commas between them give the frames of each the
            name of its scenario as their class.
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
    names = scenario.split(",")
    if len(set(names)) < len(names):
        raise InputError(f"expected different scenarios, received {scenario}: leave out what is repeated")
    least = HELD_OUT * length * len(names)
    if length < 1 or num < least:
        raise InputError(
            f"expected at least {least} frames, for {HELD_OUT} episodes of {length} of each scenario, "
            f"received {num}: raise --num or lower --length"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: choose another folder")
    about = {"scenario": scenario, "seed": seed, "size": size, "length": length, "tics": TICS}
    with ExitStack() as started, atomic_directory(out) as temporary:
        worlds = {name: started.enter_context(Doom(name, size, length, seed)) for name in names}
        _write(worlds, num, temporary, about, quiet)
    note(f"{out} holds {num:,} frames. Next: smalti train frames --data {out} --out runs/frames", quiet)
    return out


def _write(worlds: dict[str, Doom], num: int, folder: Path, about: dict[str, Any], quiet: bool) -> None:
    fields, features = SCHEMA, FEATURES
    if len(worlds) > 1:
        fields = SCHEMA.append(pa.field("label", pa.int64()))
        features = {**FEATURES, "label": {"_type": "ClassLabel", "names": list(worlds)}}
    schema = fields.with_metadata(
        {
            "huggingface": json.dumps({"info": {"features": features}}),
            "smalti": json.dumps({"world": "doom", **about, "vizdoom": version("vizdoom")}),
        }
    )
    with (
        counting("Rendering", quiet) as count,
        pq.ParquetWriter(folder / "train-00000-of-00001.parquet", schema) as train,
        pq.ParquetWriter(folder / "test-00000-of-00001.parquet", schema) as test,
    ):
        done, before = 0, 0
        for label, doom in enumerate(worlds.values()):
            episodes = 0
            for episode in doom.episodes(num * (label + 1) // len(worlds) - num * label // len(worlds)):
                is_held_out = episode.number % HELD_OUT == HELD_OUT - 1
                rows = [{**row, "label": label} for row in _rows(episode, before + episode.number)]
                (test if is_held_out else train).write_table(pa.Table.from_pylist(rows, schema=schema))
                done += len(episode.actions)
                episodes += 1
                count(done, num)
            before += episodes


def _rows(episode: Episode, number: int) -> Iterator[dict[str, object]]:
    """The columns of each frame, but its label; episodes are numbered across scenarios."""
    for frame, (picture, action) in enumerate(zip(episode.frames, episode.actions, strict=True)):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        image = {"bytes": content.getvalue(), "path": f"episode{number:05d}_frame{frame:04d}.png"}
        yield {"image": image, "action": action, "episode": number, "frame": frame}
