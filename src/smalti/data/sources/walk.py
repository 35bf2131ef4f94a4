"""Walk a folder of data: the files to read, and what is left out.

Left out without a word: hidden entries and the files that operating systems leave behind. Left out and
reported: runs of smalti, folders that its commands have written into, and entries that are neither files nor
folders.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LITTER = frozenset(
    {
        "__macosx",
        "$recycle.bin",
        "#recycle",
        "@eadir",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
"""Files and folders of operating systems and storage devices, in lower case."""

LEDGER = ".smalti.json"
"""File in a folder that commands such as `decode` have written into."""

CONFIG_BYTES = 1 << 20
"""Size limit of the config.json of a run; larger ones are not read."""


@dataclass
class Found:
    """Contents of a folder, as relative POSIX paths.

    Attributes:
        files: files, and folders that are one item.
        folders: time of the last change of each folder that was listed, the root (".") among them, in
            nanoseconds.
        broken: entries that the operating system cannot open: dangling links, links to themselves.
        closed: folders that cannot be listed.
        runs: folders that hold a run, or its decoded data.
        outputs: folders that commands have written into.
        special: pipes, sockets and devices, which may never end.
    """

    files: list[str] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)


def walk(root: Path, is_item: Callable[[str], bool] = lambda name: False) -> Found:
    """List the files below a folder, in no particular order.

    Links are followed; a loop of folders ends where it begins again.

    Args:
        root: the folder.
        is_item: returns True for the name of a folder that is one item and is not entered.
    """
    found = Found()
    # A list of folders to enter rather than recursion: a tree may be deeper than Python's stack.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        folder = root / prefix
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.closed.append(prefix.rstrip("/") or ".")
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        # The folder that the user named is read even if a command has written it.
        names = {entry.name for entry in entries} if prefix else set()
        if LEDGER in names:
            found.outputs.append(prefix.rstrip("/"))
            continue
        if {"config.json", "index.json"} & names and is_run(folder):
            found.runs.append(prefix.rstrip("/"))
            continue
        found.folders[prefix.rstrip("/") or "."] = status.st_mtime_ns
        for entry in entries:
            if is_hidden(entry.name):
                continue
            name = prefix + entry.name
            # Most entries are plain files, for which no further call to the file system is needed.
            kind = "file" if entry.is_file(follow_symlinks=False) else kind_of(entry.path)
            if kind == "folder" and not is_item(entry.name):
                waiting.append((f"{name}/", above | {identity}))
            elif kind in ("file", "folder"):
                found.files.append(name)
            else:
                (found.broken if kind == "broken" else found.special).append(name)
    return found


def is_hidden(name: str) -> bool:
    """Return True for a name that is left out: hidden, or of the operating system."""
    return name.startswith(".") or name.lower() in LITTER


def is_run(folder: Path) -> bool:
    """Return True if a folder holds a run or a saved model of smalti, or data that smalti has decoded."""
    if (folder / "index.json").is_file() and (folder / "signals.bin").is_file():
        return True
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "kind" in config and ("smalti" in config or "recipe" in config)


def kind_of(path: str | Path) -> Literal["file", "folder", "special", "broken"]:
    """Return what a path leads to, with links followed."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return "broken"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "special"
