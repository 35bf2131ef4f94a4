"""The manifest of a sharded encoding: one line of JSON per shard, in a file of its own.

A line is written after the shard's file of codes, so a shard with a line is complete. Processes on several
machines never write to the same file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import NonNegativeInt, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json

MANIFEST = "manifest"


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


def read_record(folder: Path, shard: int) -> ShardRecord | None:
    """Read the line of a shard; None if the shard is not complete.

    Raises:
        InputError: if the line is damaged.
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
    file = folder / record.file
    return record if file.is_file() and file.stat().st_size == record.size else None


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
