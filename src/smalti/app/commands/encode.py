"""`smalti encode`: encode a source into one Parquet table, or into one compact file per item."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import final

import torch

from smalti.app.console import amount, counting, note
from smalti.app.data import open_data, pick_split, report_skipped
from smalti.app.files import codes_info, last_change_ns
from smalti.app.names import OutputNames
from smalti.app.native import Size, at_size
from smalti.app.options import folder
from smalti.app.outputs import OutputFolder
from smalti.app.runs import check_model, model_of
from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.data.codes import CodesBatch, write_codes
from smalti.data.ingest import readable
from smalti.data.packed import ENDING, PackedInfo, Units, bits_of, overhead, read_packed, write_packed
from smalti.data.sources import Item, Source
from smalti.encoders.pooling import PoolingEncoder
from smalti.encoding import EncodedItem, same_shape
from smalti.tokenizer import Tokenizer
from smalti.training.checkpoints import RunDirectory

TABLE = ".parquet"


def encode(
    run: str, data: str, out: Path, split: str | None = None, quiet: bool = False, size: Size = "model"
) -> int:
    """Encode every item of a source and return the number of items.

    Unreadable files are skipped and reported. The same command completes a stopped one: a directory keeps its
    complete files, except those of items that have changed since.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: a .parquet file for a table of all codes, a .smc file for the compact codes of a single item,
            or a directory for one compact file per item.
        split: split of the source; None selects `all` if it exists, else `train`.
        quiet: hide progress.
        size: "native" encodes pictures and clips of any height and width whole; "model" brings them to the
            size of the training.

    Raises:
        InputError: for a user error, when no item can be read, or when the output file exists.
    """
    if out.suffix not in (TABLE, ENDING):
        folder(out)
    elif out.exists():
        raise InputError(f"{out} exists already: choose another --out")
    tokenizer = at_size(Tokenizer.from_pretrained(run, load_priors=False), size)
    source = open_data(data, tokenizer.modality)
    check_model(RunDirectory(tokenizer.directory), model_of(source))
    if tokenizer.device.type == "cpu" and not tokenizer.modality.is_ragged:
        keep_freed_memory()  # every batch needs the same buffers
    name = pick_split(source, split, "all", "train")
    skipped: list[dict[str, str]] = []
    for text in source.notes(name):
        note(text)  # also if quiet: it says what is left out
    with counting("Encoding", quiet) as count:
        if out.suffix == TABLE:
            encoded = tokenizer.encode_items(source, name, skipped=skipped, progress=count)
            written = write_codes(out, codes_info(tokenizer), table_batches(tokenizer, encoded))
            summary = f"{_shape(tokenizer)} codes each, out of {tokenizer.autoencoder.num_codes}"
        elif out.suffix == ENDING:
            encoded = tokenizer.encode_items(source, name, skipped=skipped, progress=count)
            written, summary = _write_single(tokenizer, encoded, source.count(name), out)
        else:
            remaining = _Remaining(source, name, out, tokenizer, data)
            written, summary = _write_folder(tokenizer, remaining, skipped, count)
    report_skipped(skipped)
    note(f"{out} holds {amount(written, 'items')} of the split {name}: {summary}.", quiet)
    return written


def table_batches(tokenizer: Tokenizer, encoded: Iterator[EncodedItem]) -> Iterator[CodesBatch]:
    """Yield table rows in batches; items of equal shape are encoded together."""
    for items in same_shape(encoded):
        labels = [tokenizer.trained.shown_class(item.label) for item in items]
        codes = torch.stack([item.codes for item in items]).numpy()
        yield CodesBatch([item.name for item in items], codes, labels, [item.size for item in items])


@dataclass
class _Totals:
    """Sums over compact files.

    Attributes:
        num: number of files.
        bits: of codes.
        size: bytes of the files.
        seconds: duration of the items; 0 if they have none.
    """

    num: int = 0
    bits: int = 0
    size: int = 0
    seconds: float = 0.0

    def add(self, info: PackedInfo) -> _Totals:
        self.num += 1
        self.bits += bits_of(info)
        self.size += overhead(info) + -(-bits_of(info) // 8)
        self.seconds += info.units.seconds if info.units else 0
        return self

    def __add__(self, other: _Totals) -> _Totals:
        return _Totals(
            self.num + other.num,
            self.bits + other.bits,
            self.size + other.size,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        rate = self.bits / (self.seconds or self.num)
        words = f"{rate:.1f} bit/s" if self.seconds else f"{rate:.0f} bits each"
        return f"{self.bits} bits of codes, {words}, {self.size} bytes with headers"


@final
class _Remaining(Source):
    """The items of a split whose compact files are not complete yet, with the path of each file.

    Args:
        source: the data.
        split: its split.
        out: the output directory.
        tokenizer: encodes the items.
        data: text that names the source.

    Raises:
        InputError: if the directory holds codes that another command wrote.
    """

    def __init__(self, source: Source, split: str, out: Path, tokenizer: Tokenizer, data: str) -> None:
        self._source, self._model = source, tokenizer.fingerprint
        # The codes of an encoder that pools all items of a label may change with any of them.
        self._may_skip = not isinstance(tokenizer.autoencoder.encoder, PoolingEncoder)
        self.description, self.splits, self.split = source.description, (split,), split
        self.folder = OutputFolder(
            out,
            "encode",
            model=self._model,
            data=str(path.resolve()) if (path := Path(data).expanduser()).exists() else data,
            split=split,
            items=source.count(split),
            **({} if tokenizer.modality is tokenizer.trained.modality else {"size": "native"}),
        )
        self.folder.check(out.rglob(f"*{ENDING}"))
        self._data = Path(data).expanduser().absolute()
        self.kept = _Totals()
        self.passed = 0
        self.is_done = False
        self._targets: deque[tuple[str, Path]] = deque()

    def count(self, split: str) -> int:
        return self._source.count(split)

    def items(self, split: str) -> Iterator[Item]:
        output = OutputNames()
        for item in self._source.items(split):
            name = readable(item.name)
            target = self.folder.path / output.choose(name, ENDING)
            info = self._complete(target, name, item) if self.folder.is_begun else None
            if info is not None:
                self.kept.add(info)
                continue
            self.passed += 1
            self._targets.append((name, target))
            yield item
        self.is_done = True

    def target(self, name: str) -> Path:
        """Return the file of the next encoded item; unreadable items before it are passed over."""
        while True:
            first, target = self._targets.popleft()
            if first == name:
                return target

    def _complete(self, target: Path, name: str, item: Item) -> PackedInfo | None:
        """Return the header of an item's complete file; remove the file if it has to be written again."""
        if not target.exists():
            return None
        try:
            info = read_packed(target).info
        except InputError:
            info = None
        if info is None or (info.model, info.name) != (self._model, name):
            raise InputError(
                f"expected the codes of {name} in {target}, received another file: remove it to encode "
                "the item again"
            )
        if not self._may_skip or self._last_change_ns(item) > target.stat().st_mtime_ns:
            target.unlink()
            return None
        return info

    def _last_change_ns(self, item: Item) -> int:
        own = last_change_ns(item.content)
        return own if own and not self._data.is_file() else max(own, self._source_change_ns)

    @cached_property
    def _source_change_ns(self) -> int:
        """Time of the last change of a table or an archive, or of a folder of them; 0 for other sources."""
        files = self._data.rglob("*") if self._data.is_dir() else [self._data]
        own = (file for file in files if not file.is_relative_to(self.folder.path.absolute()))
        return max((last_change_ns(file) for file in own if file.is_file()), default=0)


def _write_folder(
    tokenizer: Tokenizer,
    remaining: _Remaining,
    skipped: list[dict[str, str]],
    progress: Callable[[int, int], None],
) -> tuple[int, str]:
    """Write one compact file per remaining item; return the number of items and a summary of their size."""
    written, fingerprint = _Totals(), tokenizer.fingerprint

    def report(done: int, total: int) -> None:
        progress(min(total, done + remaining.kept.num), total)

    try:
        for item in tokenizer.encode_items(remaining, remaining.split, skipped=skipped, progress=report):
            info = _packed_info(tokenizer, fingerprint, item)
            target = remaining.target(item.name)
            remaining.folder.save(target, partial(write_packed, codes=item.codes.numpy(), info=info))
            written.add(info)
    except InputError:
        # If everything else is complete, it is no error that the remaining items are unreadable.
        if not (remaining.kept.num and remaining.is_done and remaining.passed == len(skipped)):
            raise
    total = written + remaining.kept
    if not total.num:
        raise InputError(f"expected codes to write to {remaining.folder.path}, received none: check --data")
    before = f"; {remaining.kept.num} of them were complete before" if remaining.kept.num else ""
    return total.num, f"{total}{before}"


def _write_single(
    tokenizer: Tokenizer, encoded: Iterator[EncodedItem], total: int, out: Path
) -> tuple[int, str]:
    """Write the compact file of the only item; return 1 and a summary of its size."""
    if total != 1:
        raise InputError(
            f"expected one item for the single file {out}, received {total}: set --out to a directory, or to "
            f"a {TABLE} file for a table of all codes"
        )
    info = None
    for item in encoded:
        info = _packed_info(tokenizer, tokenizer.fingerprint, item)
        write_packed(out, item.codes.numpy(), info)
    if info is None:
        raise InputError(f"expected codes to write to {out}, received none: check --data")
    return 1, str(_Totals().add(info))


def _packed_info(tokenizer: Tokenizer, fingerprint: str, item: EncodedItem) -> PackedInfo:
    seconds = tokenizer.modality.seconds(item.length)
    num_open = tokenizer.modality.stored_shape.count(None)
    return PackedInfo(
        num_codes=tokenizer.autoencoder.num_codes,
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        grid=tuple(item.codes.shape[1:]),
        model=fingerprint,
        name=item.name,
        label=tokenizer.trained.shown_class(item.label),
        units=None if seconds is None else Units(seconds=seconds),
        size=item.size[:num_open] or None,
    )


def _shape(tokenizer: Tokenizer) -> str:
    return " x ".join("n" if n is None else str(n) for n in tokenizer.stored_code_shape)
