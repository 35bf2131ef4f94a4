"""Folders that commands write many files into, so that a stopped command can be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, final

from smalti.app.names import OutputNames
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.data.sources.walk import LEDGER

COMPARISON = "comparison.png"
"""File name of the picture with originals above reconstructions."""


@final
class OutputFolder:
    """The output folder of one command, which keeps the files that an earlier start of it completed.

    Files appear under their names only when they are complete. The ledger lists the commands that have begun
    to write, so a repeated command recognises its own files, and never replaces those of anybody else.

    Args:
        path: the folder; it need not exist.
        command: name of the command.
        settings: everything that its files depend on, as plain JSON values: model, input, seed and so on.
    """

    def __init__(self, path: Path, command: str, **settings: Any) -> None:
        self.path = path
        self._entry: dict[str, Any] = json.loads(json.dumps({"command": command, **settings}))
        self._is_begun = False

    @property
    def is_begun(self) -> bool:
        """True if the same command has written into the folder before."""
        self._is_begun = self._is_begun or self._entry in self._entries()
        return self._is_begun

    def check(self, targets: Iterable[Path]) -> None:
        """Check that no target exists, unless an earlier start of the same command wrote it.

        Raises:
            InputError: if one does.
        """
        if self.is_begun:
            return
        for target in targets:
            if target.exists():
                raise InputError(f"{target} exists already: choose another --out")

    def save(self, target: Path, write: Callable[[Path], object]) -> None:
        """Write a file by `write(temporary path)`, unless it exists.

        Raises:
            InputError: if the disk is full or not writable.
        """
        if target.exists():
            return
        self.begin()
        # Not synced: thousands of small files take long, and the command can write them again.
        with atomic_file(target, durable=False) as temporary:
            write(temporary)

    def begin(self) -> None:
        """Register the command in the ledger, before its first file."""
        if not self.is_begun:
            with atomic_file(self.path / LEDGER) as temporary:
                temporary.write_text(json.dumps([*self._entries(), self._entry], indent=2) + "\n")

    def _entries(self) -> list[Any]:
        try:
            entries = json.loads((self.path / LEDGER).read_text())
        except (OSError, ValueError):
            return []
        return entries if isinstance(entries, list) else []


def output_paths(out: Path, names: Iterable[str], ending: str) -> list[Path]:
    """Return a distinct file path below `out` for each name."""
    names = list(names)
    output = OutputNames()
    chosen: dict[str, list[str]] = {}
    # Files that already have the ending keep their names: a.avif beside a.png becomes a.avif.png.
    for name in sorted(names, key=lambda name: name != COMPARISON and not name.lower().endswith(ending)):
        target = output.choose(name, ".png" if name == COMPARISON else ending)
        chosen.setdefault(name, []).append(target)
    return [out / chosen[name].pop(0) for name in names]
