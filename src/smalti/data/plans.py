"""Make the plan of a sharded encoding, stored once for all processes, and open its input.

A plan is the directory `plan` in the output folder. `plan.json` holds a `Plan`. If the items are the files of
one folder, `files.arrow` lists them and `folders.arrow` their folders, so that no process lists them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.data.manifest import DIRECTORY, SETTINGS, Plan, read_plan
from smalti.data.sources.base import Files, Source
from smalti.data.sources.local import LocalFiles, state_of
from smalti.data.sources.planned import (
    PlannedSource,
    digest_of,
    read_listing,
    write_listing,
)
from smalti.data.sources.remote import RemoteFiles, is_remote
from smalti.data.sources.walk import walk

FILES, FOLDERS = "files.arrow", "folders.arrow"


@final
@dataclass(frozen=True)
class Input:
    """The data of a sharded encoding.

    Attributes:
        address: its path, which need not exist, or an address such as `s3://bucket/folder`.
        split: its split.
        open: opens it, which may mean to list a folder of millions of files.
    """

    address: str
    split: Callable[[Source], str]
    open: Callable[[], Source]

    @property
    def path(self) -> Path:
        """Its local path."""
        return Path(self.address).expanduser()

    def files(self, class_depth: int | None) -> Files:
        """The place of its files, without listing them."""
        if is_remote(self.address):
            return RemoteFiles.at(self.address, (), class_depth)
        return LocalFiles(self.path.parent if self.path.is_file() else self.path, (), class_depth)


def make_plan(
    folder: Path, data: Input, model: str, num_shards: int, size: Literal["model", "native"] = "model"
) -> Plan:
    """Make and store the plan of an output folder, unless another process does; return the stored one.

    Args:
        folder: the output folder.
        data: the input.
        model: fingerprint of the tokenizer.
        num_shards: number of files.
        size: of the items.

    Raises:
        InputError: if there are more shards than items.
    """
    target = folder / DIRECTORY
    with suppress(_PlannedMeanwhile), atomic_directory(target) as temporary:
        if target.is_dir():
            raise _PlannedMeanwhile
        source = data.open()
        split = data.split(source)
        num_items = source.count(split)
        if num_shards > num_items:
            raise InputError(
                f"expected at most one shard per item, received {num_shards} shards for {num_items} items of "
                f"{source.description}: choose a smaller --shards"
            )
        plan = Plan(
            model=model,
            source=source.description,
            split=split,
            num_items=num_items,
            num_shards=num_shards,
            size=size,
            **_described(source, split, data.path, temporary),
        )
        (temporary / SETTINGS).write_text(json.dumps(plan.model_dump(), indent=2) + "\n")
    return read_plan(folder)


class _PlannedMeanwhile(Exception):
    """Another process stored the plan while this one waited for the directory."""


def _described(source: Source, split: str, path: Path, directory: Path) -> dict[str, Any]:
    """Fields of the plan that describe the input; write the listings of files and folders."""
    files = source.files(split)
    if files is None:
        return {"input": input_digest(path, source)}
    write_listing(directory / FOLDERS, ((name, (0, time)) for name, time in sorted(files.folders.items())))
    digest = write_listing(directory / FILES, files.entries())
    return {"input": digest, "is_listed": True, "class_depth": files.class_depth}


def planned_input(folder: Path, plan: Plan, data: Input) -> Source:
    """Open the input of a plan; list it again only if a folder of it has changed.

    Args:
        folder: the output folder.
        plan: its plan.
        data: the input.

    Raises:
        InputError: if the input has changed since the plan was made.
    """
    if not plan.is_listed:
        source = data.open()
        if input_digest(data.path, source) != plan.input or _count(source, plan.split) != plan.num_items:
            raise _changed(plan, data.address)
        return source
    place = data.files(plan.class_depth)
    times = ((name, time) for name, (_, time) in read_listing(folder / DIRECTORY / FOLDERS))
    if not place.has_same_folders(times):
        source = data.open()
        files = source.files(plan.split) if plan.split in source.splits else None
        if files is None or digest_of(files.entries()) != plan.input:
            raise _changed(plan, data.address)
    return PlannedSource(folder / DIRECTORY / FILES, place, plan.split, plan.num_items, plan.source)


def input_digest(path: Path, source: Source) -> str:
    """Digest of the names, sizes and times of the files of an input, or of its description without files."""
    if path.is_file():
        return digest_of([(path.name, state_of(path))])
    if path.is_dir():
        return digest_of((name, state_of(path / name)) for name in sorted(walk(path).files))
    return hashlib.sha256(source.description.encode()).hexdigest()


def _count(source: Source, split: str) -> int:
    return source.count(split) if split in source.splits else 0


def _changed(plan: Plan, address: str) -> InputError:
    return InputError(
        f"expected the input of the plan, {plan.source}, but {address} has changed since: restore it, or "
        "choose another --out"
    )
