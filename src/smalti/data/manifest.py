"""The plan and the manifest of a sharded encoding: what each file of codes shall hold, and what it holds.

The manifest has one line of JSON per shard, in a file of its own. A line is written after the shard's file of
codes, so a shard with a line is complete. Processes on several machines never write to the same file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, final

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json

DIRECTORY, SETTINGS = "plan", "plan.json"
MANIFEST = "manifest"
FORMAT = 1


@final
class Plan(Configuration):
    """Settings of a sharded encoding.

    Attributes:
        model: fingerprint of the tokenizer.
        source: description of the input.
        split: split of the input.
        num_items: items of the split, unreadable ones included.
        num_shards: files of codes.
        input: digest of the input: the names, sizes and times of its files, or the description of an input
            without files.
        is_listed: whether the plan lists the input's files.
        class_depth: as in `Files`, of a listed input.
        size: "native" for items at their own height and width, "model" for those of the model.
        format: version of the layout.
    """

    model: str
    source: str
    split: str
    num_items: NonNegativeInt
    num_shards: PositiveInt
    input: str
    is_listed: bool = False
    class_depth: NonNegativeInt | None = None
    size: Literal["model", "native"] = "model"
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT

    def bounds(self, shard: int) -> tuple[int, int]:
        """Index of the first item of a shard, and of the first one after it."""
        return (
            shard * self.num_items // self.num_shards,
            (shard + 1) * self.num_items // self.num_shards,
        )

    def file(self, shard: int) -> str:
        """Name of a shard's file of codes, in the pattern of the Hugging Face Hub."""
        return f"{self.split}-{shard:05d}-of-{self.num_shards:05d}.parquet"


class Skipped(Configuration):
    """An item that could not be read."""

    name: str
    reason: str


class ShardRecord(Configuration):
    """Line of one shard.

    Attributes:
        shard: its number, from 0.
        file: name of its file of codes.
        begin: index of its first item in the plan.
        end: index after its last item.
        model: fingerprint of the tokenizer.
        input: digest of the names, classes and contents of its items.
        num_items: rows of the file.
        num_codes: codes in the file.
        skipped: items that could not be read.
        size: bytes of the file.
        sha256: of the file.
    """

    shard: NonNegativeInt
    file: str
    begin: NonNegativeInt
    end: NonNegativeInt
    model: str
    input: str
    num_items: NonNegativeInt
    num_codes: NonNegativeInt
    skipped: tuple[Skipped, ...]
    size: NonNegativeInt
    sha256: str


def record_path(folder: Path, shard: int) -> Path:
    """Path of a shard's line."""
    return folder / MANIFEST / f"{shard:05d}.json"


def write_record(folder: Path, record: ShardRecord) -> None:
    """Write the line of a shard."""
    with atomic_file(record_path(folder, record.shard)) as temporary:
        temporary.write_text(record.model_dump_json() + "\n")


def has_plan(folder: Path) -> bool:
    """Return True if a folder has a plan."""
    return (folder / DIRECTORY / SETTINGS).is_file()


def read_plan(folder: Path) -> Plan:
    """Read the plan of an output folder.

    Raises:
        InputError: if there is none, or it is damaged or of a newer version.
    """
    path = folder / DIRECTORY / SETTINGS
    try:
        return Plan.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise InputError(
            f"expected the output of smalti encode --shards, found no {path}: check the path"
        ) from error
    except (ValueError, ValidationError) as error:
        raise InputError(
            f"expected a plan of this version of smalti in {path}, received another file: choose another "
            "--out, or run pip install -U smalti"
        ) from error


def read_record(folder: Path, plan: Plan, shard: int) -> ShardRecord | None:
    """Read the line of a shard; None if the shard is not complete.

    Raises:
        InputError: if the line is damaged, or is not that of the plan.
    """
    path = record_path(folder, shard)
    try:
        record = ShardRecord.model_validate(parse_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise InputError(
            f"expected the manifest of a shard in {path}, which is damaged: remove it, and run the same "
            "command again"
        ) from error
    begin, end = plan.bounds(shard)
    found = (record.shard, record.file, record.begin, record.end, record.model)
    num_items = record.num_items + len(record.skipped)
    if found != (shard, plan.file(shard), begin, end, plan.model) or num_items != end - begin:
        raise InputError(
            f"expected the manifest of shard {shard} of the plan in {path}, which is that of another: remove "
            "it, and run the same command again"
        )
    file = folder / record.file
    return record if file.is_file() and file.stat().st_size == record.size else None


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
