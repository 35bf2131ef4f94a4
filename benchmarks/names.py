"""Records by present names: those of models, work and peers that changed after results were recorded."""

from __future__ import annotations

from pathlib import Path

from smalti.studies.records import Record, read_records

FIELDS = ("model", "work", "peer")
RENAMED = {
    "faithful codebook": "gradient codebook",
    "robust codebook": "ema codebook",
    "real recordings through the levels of the signal, not the codes": (
        "real recordings in the model's signal representation, without codes"
    ),
    "the bare network, signals to codes, on tensors in memory": "encoder and code search, tensors in memory",
    "the bare encoder on tensors in memory": "encoder alone, tensors in memory",
    "its products at the rate of large matrices": "bound: rate of large matrix products",
    "its products at the rate of multiply-adds in registers": "bound: rate of multiply-adds in registers",
    "the same network with pythae's quantizer of moving averages": "same network with pythae's EMA quantizer",
    "plain PyTorch, written straight down": "plain PyTorch",
    "ours, in plain torch": "smalti, plain torch form",
    "wavenet_vocoder, as it is": "wavenet_vocoder, unmodified",
    "line after line": "one sequence at a time",
    "4 lines at once, weight norm folded, not drawing": (
        "4 sequences at once, weight norm folded, teacher-forced"
    ),
    "naive full forward, 2 frames of the same 16": "full forward per code, extrapolated from 2 frames",
    "naive full forward": "full forward per symbol",
    "straight through": "straight-through",
    "recipe image, start to finish": "recipe image, whole command",
    "1 codebooks of 512": "1 codebook of 512",
    "after 6 given ones, network of the recipe walks": "6 given frames, prior of the recipe walks",
    "quantizer in evaluation mode, whole": "quantizer forward in evaluation mode",
    "(forward, backward, averages)": "(forward, backward, moving averages)",
    "sample 1 line of": "sample 1 sequence of",
    "sample 4 lines of": "sample 4 sequences of",
}
"""Part of a former name -> its present form; the longer of two overlapping parts comes first."""


def with_present_names(record: Record) -> Record:
    """Return a copy of a record with the present names."""
    present = dict(record)
    for field in FIELDS:
        if isinstance(present.get(field), str):
            for old, new in RENAMED.items():
                present[field] = present[field].replace(old, new)
    return present


def records_of(path: Path) -> list[Record]:
    """Read the records of a file, with present names."""
    return [with_present_names(record) for record in read_records(path)]
