"""`smalti collect speech`: generate a folder of synthetic speech with phone alignments."""

from __future__ import annotations

from pathlib import Path

from smalti.app.console import note
from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.studies.speech.espeak import SyntheticSpeechSource

SPEAKERS = 8


def collect_speech(directory: Path, num: int, quiet: bool = False) -> None:
    """Write synthetic speech of eight speakers, two of them held out as `test`, with phone alignments.

    Args:
        directory: a new or empty folder.
        num: total number of utterances, rounded down to a multiple of the number of speakers.
        quiet: hide progress.

    Raises:
        InputError: when the directory is not empty, espeak-ng is missing, or `num` is less than the number of
            speakers.
    """
    each = num // SPEAKERS
    source = SyntheticSpeechSource(SPEAKERS, each)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists already: choose another folder for the speech")
    lines: list[str] = []
    with atomic_directory(directory) as temporary:
        for split in source.splits:
            source.write(temporary / split, split)
            (temporary / split / "utts.tsv").unlink()
            table = temporary / split / "phones.tsv"
            header, *rows = table.read_text().splitlines()
            lines += rows if lines else [header, *rows]
            table.unlink()
        (temporary / "phones.tsv").write_text("\n".join(lines) + "\n")
    note(
        f"{directory} holds {each * SPEAKERS:,} utterances, and their alignments in phones.tsv. "
        f"Next: smalti train digits-spectral --data {directory} --out runs/{directory.name}",
        quiet,
    )
