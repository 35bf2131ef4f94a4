"""Speech corpora: speakers, labels and splits from file paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.listing import ignored
from smalti.data.sources.splits import Entry, by_split, sizes_of, split_name

ACCEPTED_SHARE = 0.9
"""Minimum share of a folder's files that must match a layout for the layout to be recognised."""


def _split_group(match: re.Match[str]) -> str | None:
    """Return the value of the pattern's group `split`, or None."""
    return match.groupdict().get("split")


def _split_of_digits(match: re.Match[str]) -> str:
    """Return "test" for takes 0 to 4, else "train" (README of the Free Spoken Digit Dataset, "Usage")."""
    return "test" if int(match["take"]) < 5 else "train"


@dataclass(frozen=True)
class Layout:
    """Naming scheme of the files of a corpus.

    Attributes:
        title: name of the corpus.
        pattern: searched for in the path of a file; its group `speaker` (or `label`) is the speaker. A file
            that matches a group `copy` duplicates another recording and is left out.
        split_of: returns the split of a match, or None if the path does not state one.
    """

    title: str
    pattern: re.Pattern[str]
    split_of: Callable[[re.Match[str]], str | None] = _split_group


LAYOUTS = (
    Layout(
        "LibriSpeech",
        re.compile(
            r"(?:^|/)(?:(?P<split>train|dev|test)-(?:clean|other)(?:-\d+)?/)?"
            r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P=speaker)[-_](?P=chapter)[-_][\d_]+\.(?:flac|wav)$"
        ),
    ),
    Layout(
        "VCTK",
        re.compile(r"(?:^|/)(?P<speaker>[ps]\d+)/(?P=speaker)_\d+(?:_mic1|(?P<copy>_mic2))?\.(?:wav|flac)$"),
    ),
    Layout(
        "Free Spoken Digit Dataset",
        re.compile(r"(?:^|/)\d_(?P<speaker>[A-Za-z]+)_(?P<take>\d+)\.(?:wav|flac)$"),
        _split_of_digits,
    ),
)
"""LibriSpeech (and LibriTTS), VCTK (first microphone only), and the Free Spoken Digit Dataset."""


@final
class SpeechSource(Source):
    """The files below a folder, with speaker (or label) and optionally split taken from their paths.

    Args:
        path: a folder, or one file.
        extensions: extensions of the wanted files, such as ".wav", in any case.
        pattern: a regular expression with a group `speaker` (or `label`) and optionally a group `split`,
            searched for in each path relative to the folder ("/" separates its components); None recognises
            the layout of a known corpus. If the pattern states no split, the top-level folder does, where
            `FolderSource` would take it for a split.

    Raises:
        InputError: if there are no wanted files, the pattern is not a valid one, or no file matches it.
    """

    def __init__(self, path: Path, extensions: Sequence[str], pattern: str | None = None) -> None:
        folder = FolderSource(path, extensions)
        layout = Layout("folder", _compiled(pattern)) if pattern else _layout(folder)
        if layout is None:
            raise InputError(
                f"expected the files of {', '.join(known.title for known in LAYOUTS)} below {path}, found "
                "others: set data.pattern to match the speaker, such as (?P<speaker>[^/]+)/"
            )
        entries, unlike, copies = _matched(folder, layout)
        if not entries:
            raise InputError(
                f"expected files below {path} whose paths match {layout.pattern.pattern}, found only others, "
                f"such as {(unlike or copies)[0]}: correct the pattern"
            )
        self._items, unsplit = by_split(entries)
        self.splits = ordered_splits(self._items)
        self._notes = [
            *(note for split in folder.splits for note in folder.notes(split)),
            *ignored(unlike, "file", "whose path does not match"),
            *ignored(copies, "file", "of a second microphone"),
            *ignored(unsplit, "file", "whose path states no split"),
        ]
        how = f" by the pattern {pattern}" if pattern else ""
        self.description = f"{layout.title} {path}{how} ({sizes_of(self._items, self.splits)})"

    @staticmethod
    def accepts(path: Path, extensions: Sequence[str]) -> bool:
        """Return True for a folder in which at least 90 % of the files match the layout of one corpus."""
        if not path.is_dir():
            return False
        try:
            return _layout(FolderSource(path, extensions)) is not None
        except InputError:
            return False

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._items[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        yield from self._items[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        # Notes that belong to no split are listed once, with the first split.
        return list(self._notes) if split == self.splits[0] else []


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"expected a regular expression, got {pattern}: {error}; correct it") from error
    if not {"speaker", "label"} & set(compiled.groupindex):
        raise InputError(
            f"expected a pattern with a group (?P<speaker>...) or (?P<label>...), got {pattern}: name the "
            "group that matches the speaker"
        )
    return compiled


def _layout(folder: FolderSource) -> Layout | None:
    """Return the layout that most files match, or None if fewer than `ACCEPTED_SHARE` of them do."""
    names = [item.name for split in folder.splits for item in folder.items(split)]
    matching = {layout.title: sum(bool(layout.pattern.search(name)) for name in names) for layout in LAYOUTS}
    best = max(LAYOUTS, key=lambda layout: matching[layout.title])
    return best if matching[best.title] >= ACCEPTED_SHARE * len(names) else None


def _matched(folder: FolderSource, layout: Layout) -> tuple[list[Entry], list[str], list[str]]:
    """Return the matching items with their splits, the files that do not match, and the copies."""
    entries: list[Entry] = []
    unlike: list[str] = []
    copies: list[str] = []
    for above, item in ((split, item) for split in folder.splits for item in folder.items(split)):
        match = layout.pattern.search(item.name)
        groups = match.groupdict() if match else {}
        if match is None:
            unlike.append(item.name)
        elif groups.get("copy"):
            copies.append(item.name)
        else:
            stated = layout.split_of(match) or (None if above == "all" else above)
            label = groups.get("speaker") or groups.get("label")
            entries.append((split_name(stated), Item(item.name, item.content, label)))
    return entries, unlike, copies
