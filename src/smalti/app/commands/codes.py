"""`smalti encode`, `decode` and `reconstruct`: data to codes and back to files.

Codes go into one Parquet file for a corpus, or into a compact file for each item.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from smalti.app.console import counting, note
from smalti.app.data import open_data, pick_split, report_skipped
from smalti.app.runs import check_model, model_of
from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.data.codes import CodesBatch, CodesInfo, check_codes, read_codes, write_codes
from smalti.data.ingest import decode_ahead, readable
from smalti.data.packed import ENDING, PackedInfo, Units, bits_of, read_packed, write_packed
from smalti.data.sources import Source, UnreadableItem
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RunDirectory

BATCH = 64
COMPARISON = "comparison.png"
TABLE = ".parquet"


@dataclass(frozen=True)
class _Encoded:
    """Items of one shape: their names, codes `(B, G, *grid)`, class names, and lengths in time."""

    names: list[str]
    codes: Tensor
    labels: list[str | None]
    lengths: list[int]


def encode(run: str, data: str, out: Path, split: str | None = None, quiet: bool = False) -> int:
    """Encode every item of a source; gives their number.

    Unreadable files are skipped and named.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: a file that ends in .parquet, for a table of all codes; one that ends in .smc, for the compact
            codes of the one item there is; or a directory, for a compact file for each item.
        split: of the source; None prefers all, then train.
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake, or when nothing can be read.
    """
    tokenizer = load(run)
    source = open_data(data, tokenizer.modality)
    check_model(RunDirectory(tokenizer.directory), model_of(source))
    if tokenizer.device.type == "cpu" and not tokenizer.modality.is_ragged:
        keep_freed_memory()  # every batch asks for the same
    name = pick_split(source, split, "all", "train")
    skipped: list[dict[str, str]] = []
    for text in source.notes(name):
        note(text, quiet)
    with counting("Encoding", quiet) as count:
        encoded = _encoded(tokenizer, source, name, skipped, count)
        if out.suffix == TABLE:
            batches: Iterator[CodesBatch] = ((e.names, e.codes.numpy(), e.labels) for e in encoded)
            written = write_codes(out, codes_info(tokenizer), batches)
            told = f"{_shape(tokenizer)} codes each, out of {tokenizer.autoencoder.num_codes}"
        else:
            written, told = _write_packed(tokenizer, encoded, source.count(name), out)
    report_skipped(skipped)
    note(f"{written} items of the split {name} are in {out}: {told}.", quiet)
    return written


def decode(
    run: str,
    codes: Path,
    out: Path,
    quiet: bool = False,
    class_name: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
) -> int:
    """Decode a file of codes, or a directory of compact ones, into files of the same names; their number.

    Args:
        run: a run's directory, or a name on the Hub.
        codes: what `encode` wrote.
        out: where the files go.
        quiet: show no progress.
        class_name: a class (speaker) that the decoder is told.
        seed: of the draws of an autoregressive decoder.
        temperature: of those draws.

    Raises:
        InputError: for codes of another model, out of range or of the wrong shape, or when a file of one of
            the names exists; nothing is written then.
    """
    tokenizer = load(run)
    ending = tokenizer.modality.ending
    # The files are read twice, so that all of them are checked before anything is written.
    targets = _free_targets(out, (one.name for one in _read(codes, tokenizer)), ending)
    with counting("Decoding", quiet) as count:
        for done, (target, one) in enumerate(zip(targets, _read(codes, tokenizer), strict=True), 1):
            signal = tokenizer.decode_signals(
                one.codes, class_name=class_name, seed=seed, temperature=temperature
            )
            _save(tokenizer, signal[:, :, : one.length], target)
            count(done, len(targets))
    note(f"{len(targets)} {tokenizer.modality.noun} are in {out}.", quiet)
    return len(targets)


def reconstruct(run: str, files: Sequence[Path], out: Path, quiet: bool = False) -> int:
    """Write each file's reconstruction, and one picture of originals above reconstructions.

    Raises:
        InputError: when a file does not exist, none can be read, or a reconstruction's name is in use.
    """
    tokenizer = load(run)
    names, originals = read_files(tokenizer, files)
    comparison, *targets = _free_targets(out, [COMPARISON, *names], tokenizer.modality.ending)
    with counting("Reconstructing", quiet) as count:
        reconstructed = []
        for done, original in enumerate(originals, 1):
            reconstructed.append(through_codes(tokenizer, original))
            count(done, len(originals))
    for target, signal in zip(targets, reconstructed, strict=True):
        _save(tokenizer, signal, target)
    tokenizer.modality.preview(
        [[signal[0] for signal in originals[:64]], [signal[0] for signal in reconstructed[:64]]]
    ).save(comparison)
    note(f"{len(names)} reconstructions are in {out}; {COMPARISON} shows them under the originals.", quiet)
    return len(names)


def through_codes(
    tokenizer: Tokenizer,
    signal: Tensor,
    class_name: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
) -> Tensor:
    """A model's signal `(1, C, *size)`, encoded and decoded, in its own length."""
    with torch.no_grad():
        codes = tokenizer.autoencoder.encode(tokenizer.padded(signal).to(tokenizer.device)).cpu()
    decoded = tokenizer.decode_signals(codes, class_name=class_name, seed=seed, temperature=temperature)
    return decoded[:, :, : signal.shape[2]]


def read_files(tokenizer: Tokenizer, files: Sequence[Path]) -> tuple[list[str], list[Tensor]]:
    """Names, and signals `(1, C, *size)` in the model's range, of the files that can be read.

    Raises:
        InputError: when a file does not exist, or none can be read.
    """
    names: list[str] = []
    signals: list[Tensor] = []
    skipped: list[dict[str, str]] = []
    for file in files:
        is_item = file.is_dir() and file.suffix.lower() in tokenizer.modality.extensions
        if not (is_item or file.is_file()):
            raise InputError(
                f"expected files of {tokenizer.modality.noun}, found none at {file}: check the path"
            )
        try:
            levels = torch.from_numpy(tokenizer.modality.decode(file))
            signals.append(tokenizer.modality.to_model(levels.unsqueeze(0)))
            names.append(file.name)
        except UnreadableItem as error:
            skipped.append({"name": readable(str(file)), "reason": readable(str(error))})
    report_skipped(skipped)
    if not signals:
        raise InputError(
            f"expected at least one readable file, none of {len(files)} is: {skipped[0]['reason']}"
        )
    return names, signals


def codes_info(tokenizer: Tokenizer) -> CodesInfo:
    """What a file of this tokenizer's codes says of itself."""
    return CodesInfo(
        grid=tokenizer.stored_code_shape[1:],
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        num_codes=tokenizer.autoencoder.num_codes,
        model=tokenizer.fingerprint,
        classes=tokenizer.classes,
    )


def _encoded(
    tokenizer: Tokenizer,
    source: Source,
    split: str,
    skipped: list[dict[str, str]],
    report: Callable[[int, int], None],
) -> Iterator[_Encoded]:
    """The items that can be read, in batches where they are of one size."""
    total = source.count(split)
    most = 1 if tokenizer.modality.is_ragged else BATCH
    names: list[str] = []
    labels: list[str | None] = []
    signals: list[Tensor] = []
    items = decode_ahead(source.items(split), tokenizer.modality.decode, tokenizer.modality.readers, most)
    for done, (item, levels) in enumerate(items, 1):
        if isinstance(levels, UnreadableItem):
            skipped.append({"name": readable(item.name), "reason": readable(str(levels))})
        else:
            signals.append(torch.from_numpy(levels))
            names.append(readable(item.name))
            labels.append(_shown(tokenizer, item.label))
        if signals and (len(signals) == most or done == total):
            signal = tokenizer.modality.to_model(torch.stack(signals))
            with torch.no_grad():
                codes = tokenizer.autoencoder.encode(tokenizer.padded(signal).to(tokenizer.device)).cpu()
            yield _Encoded(names, codes, labels, [signal.shape[2]] * len(names))
            names, labels, signals = [], [], []
            report(done, total)
    if skipped and len(skipped) == total:
        raise InputError(
            f"none of the {total} items of {source.description} can be read (the first, "
            f"{skipped[0]['name']}: {skipped[0]['reason']}): check the files"
        )


def _write_packed(
    tokenizer: Tokenizer, encoded: Iterator[_Encoded], total: int, out: Path
) -> tuple[int, str]:
    """A compact file for each item; their number, and what they cost in words."""
    if out.suffix == ENDING and total != 1:
        raise InputError(
            f"expected one item for the one file {out}, received {total}: give --out a directory, or a file "
            f"that ends in {TABLE} for a table of all codes"
        )
    taken: dict[str, None] = {}
    bits, seconds, size = 0, 0.0, 0
    for batch in encoded:
        for name, codes, label, length in zip(
            batch.names, batch.codes.numpy(), batch.labels, batch.lengths, strict=True
        ):
            info = _packed_info(tokenizer, name, codes, label, length)
            if out.suffix == ENDING:
                target = out
            else:
                free = _free_name(name, taken, ENDING)
                taken[free] = None
                target = out / free
            if target.exists():
                raise InputError(f"{target} exists already: choose another --out")
            target.parent.mkdir(parents=True, exist_ok=True)
            size += write_packed(target, codes, info)
            bits += bits_of(info)
            seconds += info.units.seconds if info.units else 0
    num = len(taken) or 1
    if not bits:
        raise InputError(f"there are no codes to write to {out}: check the data that was encoded")
    rate = f", {bits / seconds:.1f} bit/s" if seconds else f", {bits / num:.0f} bits each"
    return num, f"{bits} bits of codes{rate}, {size} bytes with headers"


def _packed_info(
    tokenizer: Tokenizer, name: str, codes: np.ndarray, label: str | None, length: int
) -> PackedInfo:
    seconds = tokenizer.modality.seconds(length)
    return PackedInfo(
        num_codes=tokenizer.autoencoder.num_codes,
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        grid=codes.shape[1:],
        model=tokenizer.fingerprint,
        name=name,
        label=label,
        units=None if seconds is None else Units(seconds=seconds),
        length=length if tokenizer.modality.is_ragged else None,
    )


@dataclass(frozen=True)
class _Item:
    """One item of a file of codes: its name, codes `(1, G, *grid)`, and its length, None for all of it."""

    name: str
    codes: Tensor
    length: int | None


def _read(path: Path, tokenizer: Tokenizer) -> Iterator[_Item]:
    """The items of a table, of a compact file, or of a directory of those."""
    expected = codes_info(tokenizer)
    if path.is_dir():
        files = sorted(path.rglob(f"*{ENDING}"))
        if not files:
            raise InputError(f"expected files that end in {ENDING} below {path}, found none: check the path")
        for file in files:
            yield _read_packed(file, expected)
    elif path.suffix == ENDING:
        yield _read_packed(path, expected)
    else:
        info, batches = read_codes(path)
        check_codes(info, expected)
        for names, codes, _ in batches:
            for name, one in zip(names, torch.from_numpy(codes.copy()), strict=True):
                yield _Item(name, one.unsqueeze(0), None)


def _read_packed(path: Path, expected: CodesInfo) -> _Item:
    packed = read_packed(path)
    info = packed.info
    grid = (None, *info.grid[1:]) if expected.is_ragged and info.grid else info.grid
    check_codes(
        CodesInfo(grid=grid, num_codebooks=info.num_codebooks, num_codes=info.num_codes, model=info.model),
        expected,
    )
    return _Item(info.name, torch.from_numpy(packed.codes).unsqueeze(0), info.length)


def _shown(tokenizer: Tokenizer, label: str | None) -> str | None:
    if label is None:
        return None
    return tokenizer.recipe.class_names.get(readable(label), readable(label))


def _shape(tokenizer: Tokenizer) -> str:
    return " x ".join("n" if n is None else str(n) for n in tokenizer.stored_code_shape)


def _free_targets(out: Path, names: Iterable[str], ending: str) -> list[Path]:
    """A file of its own below `out` for each name.

    Raises:
        InputError: when one of them exists.
    """
    taken: dict[str, None] = {}
    for name in names:
        taken[_free_name(name, taken, ".png" if name == COMPARISON else ending)] = None
    targets = [out / name for name in taken]
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already: choose another --out")
    return targets


def _save(tokenizer: Tokenizer, signal: Tensor, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.modality.save(signal, target)


def _free_name(name: str, taken: Collection[str], ending: str) -> str:
    """The name of a file that no other has: of a.jpg and a.png both are kept, as a.png and a.png.png.

    A stranger's name cannot leave the folder.
    """
    parts = [part for part in PurePosixPath(name.replace("\0", "_")).parts if part not in ("/", "//", "..")]
    path = PurePosixPath(*(parts or ["unnamed"]))
    numbered = (f"{path}{number}{ending}" for number in ("", *range(2, len(taken) + 3)))
    return next(free for free in (str(path.with_suffix(ending)), *numbered) if free not in taken)
