"""`smalti encode`: encode a source into one Parquet table, or into one compact file per item."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from smalti.app.console import counting, note
from smalti.app.data import open_data, pick_split, report_skipped
from smalti.app.files import codes_info
from smalti.app.names import OutputNames
from smalti.app.runs import check_model, model_of
from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.data.codes import CodesBatch, write_codes
from smalti.data.packed import ENDING, PackedInfo, Units, bits_of, write_packed
from smalti.encoding import EncodedItem, same_shape
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RunDirectory

TABLE = ".parquet"


def encode(run: str, data: str, out: Path, split: str | None = None, quiet: bool = False) -> int:
    """Encode every item of a source and return the number of items.

    Unreadable files are skipped and reported.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: a .parquet file for a table of all codes, a .smc file for the compact codes of a single item,
            or a directory for one compact file per item.
        split: split of the source; None selects `all` if it exists, else `train`.
        quiet: hide progress.

    Raises:
        InputError: for a user error, or when no item can be read.
    """
    tokenizer = load(run)
    source = open_data(data, tokenizer.modality)
    check_model(RunDirectory(tokenizer.directory), model_of(source))
    if tokenizer.device.type == "cpu" and not tokenizer.modality.is_ragged:
        keep_freed_memory()  # every batch needs the same buffers
    name = pick_split(source, split, "all", "train")
    skipped: list[dict[str, str]] = []
    for text in source.notes(name):
        note(text, quiet)
    with counting("Encoding", quiet) as count:
        encoded = tokenizer.encode_items(source, name, skipped=skipped, progress=count)
        if out.suffix == TABLE:
            written = write_codes(out, codes_info(tokenizer), _batches(tokenizer, encoded))
            summary = f"{_shape(tokenizer)} codes each, out of {tokenizer.autoencoder.num_codes}"
        else:
            written, summary = _write_packed(tokenizer, encoded, source.count(name), out)
    report_skipped(skipped)
    note(f"{written} items of the split {name} are in {out}: {summary}.", quiet)
    return written


def _batches(tokenizer: Tokenizer, encoded: Iterator[EncodedItem]) -> Iterator[CodesBatch]:
    """Yield table rows in batches; items of equal shape are encoded together."""
    for items in same_shape(encoded):
        labels = [tokenizer.shown_class(item.label) for item in items]
        yield [item.name for item in items], torch.stack([item.codes for item in items]).numpy(), labels


def _write_packed(
    tokenizer: Tokenizer, encoded: Iterator[EncodedItem], total: int, out: Path
) -> tuple[int, str]:
    """Write one compact file per item; return the number of items and a summary of their size."""
    if out.suffix == ENDING and total != 1:
        raise InputError(
            f"expected one item for the single file {out}, received {total}: set --out to a directory, or to "
            f"a {TABLE} file for a table of all codes"
        )
    output, num = OutputNames(), 0
    bits, seconds, size = 0, 0.0, 0
    fingerprint = tokenizer.fingerprint
    for item in encoded:
        info = _packed_info(tokenizer, fingerprint, item)
        if out.suffix == ENDING:
            target = out
        else:
            target = out / output.choose(item.name, ENDING)
        if target.exists():
            raise InputError(f"{target} exists already: choose another --out")
        target.parent.mkdir(parents=True, exist_ok=True)
        size += write_packed(target, item.codes.numpy(), info)
        bits += bits_of(info)
        seconds += info.units.seconds if info.units else 0
        num += 1
    if not bits:
        raise InputError(f"expected codes to write to {out}, received none: check --data")
    rate = f", {bits / seconds:.1f} bit/s" if seconds else f", {bits / num:.0f} bits each"
    return num, f"{bits} bits of codes{rate}, {size} bytes with headers"


def _packed_info(tokenizer: Tokenizer, fingerprint: str, item: EncodedItem) -> PackedInfo:
    seconds = tokenizer.modality.seconds(item.length)
    return PackedInfo(
        num_codes=tokenizer.autoencoder.num_codes,
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        grid=tuple(item.codes.shape[1:]),
        model=fingerprint,
        name=item.name,
        label=tokenizer.shown_class(item.label),
        units=None if seconds is None else Units(seconds=seconds),
        length=item.length if tokenizer.modality.is_ragged else None,
    )


def _shape(tokenizer: Tokenizer) -> str:
    return " x ".join("n" if n is None else str(n) for n in tokenizer.stored_code_shape)
