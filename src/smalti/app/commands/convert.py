"""`smalti convert`: convert a recording to the voice of another speaker."""

from __future__ import annotations

from pathlib import Path

from smalti.app.console import counting, note
from smalti.app.files import signal_of
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.data.sources import UnreadableItem
from smalti.modalities.audio.sounds import WRITTEN
from smalti.tokenizer import Tokenizer


def convert(
    run: str,
    file: Path,
    speaker: str,
    out: Path,
    quiet: bool = False,
    seed: int = 0,
    temperature: float = 1.0,
) -> Path:
    """Encode a recording, and decode it with another speaker's label (van den Oord et al. 2017, section 4.3).

    Args:
        run: a run's directory, or a name on the Hub.
        file: the recording.
        speaker: one of the run's classes.
        out: output file; its extension selects WAV or FLAC.
        quiet: hide progress.
        seed: seed of the decoder's sampling.
        temperature: sampling temperature of the decoder.

    Raises:
        InputError: for a run that is not over audio, an unknown speaker, an unreadable input or an existing
            output file.
    """
    tokenizer = Tokenizer.from_pretrained(run, load_priors=False)
    if tokenizer.modality.sample_rate_hz is None or not tokenizer.classes:
        raise InputError(
            f"expected a run over audio with speakers, received {run} over {tokenizer.modality.plural_name} "
            f"with {len(tokenizer.classes)} classes: train on data with speakers, given by folders or "
            "data.pattern"
        )
    tokenizer.label(speaker)
    if out.suffix.lower() not in WRITTEN:
        raise InputError(f"expected --out to end in {' or '.join(WRITTEN)}, received {out}: rename it")
    if out.exists():
        raise InputError(f"{out} exists already: choose another --out")
    if not file.is_file():
        raise InputError(f"expected a recording, found no file at {file}: check the path")
    try:
        signal = signal_of(tokenizer.modality, file)
    except UnreadableItem as error:
        raise InputError(f"{file} cannot be read as a recording: {error}; check the file") from error
    with counting("Converting", quiet) as count:
        converted = tokenizer.through_codes(signal, speaker, seed, temperature)
        count(1, 1)
    with atomic_file(out) as temporary:
        tokenizer.modality.save(converted, temporary)
    note(f"{file.name} in the voice of {speaker} is in {out}.", quiet)
    return out
