"""`smalti decode`: decode a Parquet table or compact files of codes into media files."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.files import codes_info
from smalti.app.outputs import OutputFolder, output_paths
from smalti.core.conditioners import check_given_conditions
from smalti.core.conditions import Conditions, with_label
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.codes import CodesInfo, check_codes, read_codes
from smalti.data.packed import ENDING, read_packed
from smalti.data.sources.codes import codes_files
from smalti.decoding import cropped
from smalti.tokenizer import Tokenizer

BATCH = 64
"""Most items decoded at once."""
BATCH_VALUES = 1 << 22
"""Most values of the signals decoded at once, which bounds the memory for large items."""
WAITING = 4
"""Files per thread that may wait to be written while a batch is decoded."""


def decode(
    run: str,
    codes: Path,
    out: Path,
    quiet: bool = False,
    class_name: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
) -> int:
    """Decode a file of codes, or a directory of compact files, and return the number of files written.

    Output files keep the names of the encoded items. The same command completes a stopped one.

    Args:
        run: a run's directory, or a name on the Hub.
        codes: output of `encode`.
        out: output directory.
        quiet: hide progress.
        class_name: the class (speaker) that conditions the decoder.
        seed: sampling seed of an autoregressive decoder.
        temperature: sampling temperature of that decoder.

    Raises:
        InputError: for codes of another model, out of range or of the wrong shape, or when an output file
            of another command exists; nothing is written in these cases.
    """
    tokenizer = Tokenizer.from_pretrained(run, load_priors=False)
    if _are_native(codes):
        tokenizer = tokenizer.native()
    # The codes are read twice, so that all of them are checked before anything is written.
    names, digest = _surveyed(codes, tokenizer)
    targets = output_paths(out, names, tokenizer.modality.ending)
    folder = OutputFolder(
        out,
        "decode",
        model=tokenizer.fingerprint,
        codes=digest,
        class_name=class_name,
        seed=seed,
        temperature=temperature,
    )
    folder.check(targets)
    if not all(target.exists() for target in targets):
        folder.begin()
    workers = tokenizer.modality.readers or min(16, os.cpu_count() or 1)
    remaining, pending = iter(targets), deque[Future[None]]()
    with counting("Decoding", quiet) as count, _pool(workers) as pool:
        done = 0

        def finish(most: int) -> None:
            """Wait until at most so many files are still being written."""
            nonlocal done
            while len(pending) > most:
                pending.popleft().result()
                done += 1
                count(done, len(targets))

        for batch in _batches(_read(codes, tokenizer), tokenizer):
            own = list(islice(remaining, len(batch)))
            if tokenizer.has_blocks and _values(batch[0], tokenizer) > BATCH_VALUES:
                finish(0)
                write = partial(_save_blocks, tokenizer, batch[0], class_name)
                folder.save(own[0], write)
                done += 1
                count(done, len(targets))
                continue
            signals = None
            # Decoded whole if one of its files is missing, so that a repeated command writes the same files.
            if not all(target.exists() for target in own):
                signals = tokenizer.decode_signals(
                    torch.cat([one.codes for one in batch]),
                    class_name=class_name,
                    seed=seed,
                    temperature=temperature,
                )
            # The files of one batch are written while the next one is decoded.
            finish(WAITING * workers)
            for index, (target, one) in enumerate(zip(own, batch, strict=True)):
                signal = None if signals is None else _signal(signals[index : index + 1], one)
                pending.append(pool.submit(_save, folder, target, tokenizer.modality, signal))
        finish(0)
    note(f"{out} holds {amount(len(targets), tokenizer.modality.plural_name)}.", quiet)
    return len(targets)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that drop what they have not begun when the block fails."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="save")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _save(folder: OutputFolder, target: Path, modality: Modality, signal: Tensor | None) -> None:
    """Write a signal `(1, C, *size)`; None if its file exists."""
    if signal is not None:
        folder.save(target, partial(modality.save, signal))


def _save_blocks(tokenizer: Tokenizer, item: _Item, class_name: str | None, path: Path) -> None:
    """Decode a long recording or clip while it is written, in bounded memory."""
    blocks = tokenizer.decode_blocks(item.codes, class_name=class_name, size=item.size)
    tokenizer.modality.save_blocks(blocks, path)


@dataclass(frozen=True)
class _Item:
    """One item of a file of codes: name, codes `(1, G, *grid)`, and size (None: no cropping)."""

    name: str
    codes: Tensor
    size: tuple[int, ...] | None


def _signal(decoded: Tensor, item: _Item) -> Tensor:
    """Remove the padding of a decoded signal `(1, C, *size)`."""
    return decoded if item.size is None else cropped([decoded], [item.size])[0]


def _batches(items: Iterable[_Item], tokenizer: Tokenizer) -> Iterator[list[_Item]]:
    """Group consecutive items with codes of one shape, of at most `BATCH_VALUES` values of their signals.

    A decoder that draws gets its items one by one, since each is drawn with the same seed.
    """
    is_drawn = _draws(tokenizer)
    batch: list[_Item] = []
    for item in items:
        most = 1 if is_drawn else min(BATCH, BATCH_VALUES // _values(item, tokenizer))
        if batch and (len(batch) >= most or item.codes.shape != batch[0].codes.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _values(item: _Item, tokenizer: Tokenizer) -> float:
    """Return the number of values of an item's signal."""
    model = tokenizer.autoencoder
    return model.signal.dims * math.prod(item.codes.shape[2:]) / math.prod(model.grid)


@torch.no_grad()
def _draws(tokenizer: Tokenizer) -> bool:
    """Return True if the decoder draws signals, False if it computes their mean."""
    model = tokenizer.autoencoder
    check_given_conditions(Conditions(), model)
    codes = torch.zeros(1, model.num_codebooks, *model.grid, dtype=torch.int64, device=tokenizer.device)
    label = with_label(Conditions(), -1, 1) if tokenizer.classes else Conditions()
    return not model.likelihood(codes, label.to(tokenizer.device)).has_mean


def _surveyed(path: Path, tokenizer: Tokenizer) -> tuple[list[str], str]:
    """Return the names of all items, and a digest of names and codes; check the codes."""
    names, digest = [], hashlib.sha256()
    for one in _read(path, tokenizer):
        names.append(one.name)
        digest.update(f"{one.name!r} {tuple(one.codes.shape)} {one.size}".encode())
        digest.update(np.ascontiguousarray(one.codes.numpy()).data)
    return names, digest.hexdigest()


def _read(path: Path, tokenizer: Tokenizer) -> Iterator[_Item]:
    """Read the items of a table, of a compact file, or of a directory of either."""
    expected = codes_info(tokenizer)
    if path.is_dir():
        for file in _files(path):
            yield from _read(file, tokenizer)
    elif path.suffix == ENDING:
        yield _read_packed(path, expected, tokenizer.trained.same_codes)
    else:
        info, batches = read_codes(path)
        check_codes(info, expected, tokenizer.trained.same_codes)
        for names, codes, _, sizes in batches:
            rows = zip(names, torch.from_numpy(codes.copy()), sizes or [None] * len(names), strict=True)
            for name, one, size in rows:
                yield _Item(name, one.unsqueeze(0), size)


def _files(folder: Path) -> list[Path]:
    """Return the files of codes in a directory."""
    files = [*sorted(folder.rglob(f"*{ENDING}")), *codes_files(folder)]
    if not files:
        raise InputError(
            f"expected files that end in {ENDING} or .parquet below {folder}, found none: check the path"
        )
    return files


def _are_native(path: Path) -> bool:
    """Return True if the items, of a directory the first one, have a height and a width of their own."""
    path = _files(path)[0] if path.is_dir() else path
    if path.suffix == ENDING:
        return len(read_packed(path).info.size or ()) > 1
    return path.is_file() and read_codes(path)[0].has_own_grids


def _read_packed(path: Path, expected: CodesInfo, same: Sequence[str]) -> _Item:
    packed = read_packed(path)
    info = packed.info
    num_open = expected.grid.count(None)
    grid = (*(None,) * num_open, *info.grid[num_open:]) if len(info.grid) >= num_open else info.grid
    check_codes(
        CodesInfo(grid=grid, num_codebooks=info.num_codebooks, num_codes=info.num_codes, model=info.model),
        expected,
        same,
    )
    return _Item(info.name, torch.from_numpy(packed.codes).unsqueeze(0), info.size)
