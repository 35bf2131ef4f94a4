"""`smalti verify`: check files of codes against their manifest, and a sample of them against the source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import final

import numpy as np
import torch

from smalti.app.console import amount, counting, note
from smalti.app.data import open_data, pick_split
from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo, check_codes, read_codes
from smalti.data.ingest import readable
from smalti.data.manifest import Plan, ShardRecord, checksum, read_plan, read_record
from smalti.data.plans import Input, planned_input
from smalti.data.sources import Source
from smalti.data.sources.section import Section
from smalti.decoding import cropped
from smalti.tokenizer import Tokenizer

LISTED = 10
"""Most faults that are printed."""
FIRST = 256
"""Rows of a file from which the sample is taken."""
SAMPLE = 8
"""Default number of items that are encoded again."""


@final
@dataclass
class _Survey:
    """Findings in files of codes, which `verify` has read.

    Attributes:
        num_items: rows.
        num_codes: codes.
        faults: one sentence each.
        info: metadata of the first file.
    """

    num_items: int = 0
    num_codes: int = 0
    faults: list[str] = field(default_factory=list)
    info: CodesInfo | None = None
    _hashes: list[np.ndarray] = field(default_factory=list)

    def read(self, file: Path) -> tuple[int, int]:
        """Read a file, whose codes are checked; return its numbers of rows and of codes.

        Raises:
            InputError: if it is damaged, or differs from the first file in its model or layout.
        """
        info, batches = read_codes(file)
        self.info = self.info or info
        check_codes(info, self.info)
        rows = codes = 0
        for batch in batches:
            names, grids = batch[:2]
            self._hashes.append(np.fromiter(map(_hash, names), np.uint64, len(names)))
            rows, codes = rows + len(names), codes + grids.size
        self.num_items, self.num_codes = self.num_items + rows, self.num_codes + codes
        return rows, codes

    def repeated(self) -> set[int]:
        """Hashes that occur more than once."""
        if not self._hashes:
            return set()
        hashes = np.sort(np.concatenate(self._hashes))
        return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def verify(
    codes: Path,
    run: str | None = None,
    data: str | None = None,
    num: int = SAMPLE,
    quiet: bool = False,
) -> int:
    """Check files of codes and return the number of items.

    Counts, checksums, models and ranges are compared with the manifest of `smalti encode --shards`, and names
    must be distinct. With the source, a sample of items is encoded again, and decoded.

    Args:
        codes: output folder of `smalti encode --shards`, or a Parquet file of codes.
        run: the run that encoded them; required with `data`.
        data: their source.
        num: items of the sample.
        quiet: hide progress.

    Raises:
        InputError: if anything is wrong.
    """
    if data is not None and run is None:
        raise InputError("expected --run with --data, received none: add the run that encoded the codes")
    survey = _Survey()
    plan = read_plan(codes) if codes.is_dir() else None
    files = [codes] if plan is None else list(_checked_shards(codes, plan, survey, quiet))
    if plan is None:
        survey.read(codes)
    survey.faults += _duplicates(files, survey.repeated())
    if data is not None and run is not None and not survey.faults:
        tokenizer = Tokenizer.from_pretrained(run, load_priors=False)
        if survey.info is not None and survey.info.has_own_grids:
            tokenizer = tokenizer.native()
        sample = _Sample(tokenizer, codes, plan, data)
        survey.faults += sample.faults(files, num, quiet)
    if survey.faults:
        for text in survey.faults[:LISTED]:
            note(f"  {text}")
        raise InputError(
            f"expected sound codes in {codes}, found {amount(len(survey.faults), 'faults')}, the first: "
            f"{survey.faults[0]}; remove what is damaged, and run the same smalti encode command again"
        )
    of_shards = "" if plan is None else f" in {amount(plan.num_shards, 'shards')}"
    note(
        f"{codes} holds {amount(survey.num_items, 'items')} and {survey.num_codes:,} codes{of_shards}, "
        "without faults.",
        quiet,
    )
    return survey.num_items


def _checked_shards(folder: Path, plan: Plan, survey: _Survey, quiet: bool) -> Iterator[Path]:
    """Yield the sound files of a plan."""
    missing = 0
    with counting("Verifying", quiet) as count:
        for shard in range(plan.num_shards):
            try:
                record = read_record(folder, plan, shard)
                if record is None:
                    missing += 1
                    continue
                _check_shard(folder, plan, record, survey)
                yield folder / record.file
            except InputError as error:
                survey.faults.append(str(error))
            count(shard + 1, plan.num_shards)
    if missing:
        survey.faults.append(f"{missing} of {amount(plan.num_shards, 'shards')} are not complete")


def _check_shard(folder: Path, plan: Plan, record: ShardRecord, survey: _Survey) -> None:
    path = folder / record.file
    if checksum(path) != record.sha256:
        raise InputError(f"{path} differs from its checksum in the manifest")
    if survey.read(path) != (record.num_items, record.num_codes):
        raise InputError(f"{path} holds another number of items or codes than the manifest states")
    if survey.info is None or survey.info.model != plan.model:
        raise InputError(f"{path} holds codes of another model than the plan's")


def _duplicates(files: list[Path], hashes: set[int]) -> list[str]:
    """Return a fault for each name that occurs more than once; the hash of a name may repeat by chance."""
    if not hashes:
        return []
    counts: dict[str, int] = {}
    for file in files:
        for batch in read_codes(file)[1]:
            for name in batch[0]:
                if _hash(name) in hashes:
                    counts[name] = counts.get(name, 0) + 1
    return [f"{name} occurs {num} times" for name, num in counts.items() if num > 1]


@final
class _Sample:
    """Encodes and decodes single items of a source again.

    Args:
        tokenizer: the model.
        codes: file or output folder.
        plan: of the folder; None for a file.
        data: text that names the source.
    """

    def __init__(self, tokenizer: Tokenizer, codes: Path, plan: Plan | None, data: str) -> None:
        self._tokenizer, self._plan = tokenizer, plan

        def opened() -> Source:
            return open_data(data, tokenizer.modality)

        if plan is None:
            self._source = opened()
            self._split = pick_split(self._source, None, "all", "train")
        else:
            given = Input(data, lambda _: plan.split, opened)
            self._source, self._split = planned_input(codes, plan, given), plan.split

    def faults(self, files: list[Path], num: int, quiet: bool) -> list[str]:
        """Check `num` items of evenly spaced files, and note the error of their reconstructions."""
        chosen = [files[i * len(files) // num] for i in range(num)] if len(files) >= num else files
        faults: list[str] = []
        squares: list[float] = []
        with counting("Encoding again", quiet) as count:
            for done, file in enumerate(chosen):
                for name, expected in self._rows(file, -(-num // len(chosen))):
                    again, square = self._again(file, name)
                    squares.append(square)
                    if not np.array_equal(again, expected):
                        faults.append(f"{name} of {file} has other codes than those of its source")
                count(done + 1, len(chosen))
        error = math.sqrt(sum(squares) / max(1, len(squares)))
        note(
            f"{amount(len(squares), 'items')} encoded again; the root mean square error of their "
            f"reconstructions is {error:.4f} on the model's scale.",
            quiet,
        )
        return faults

    def _rows(self, file: Path, num: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and codes of at most `num` evenly spaced rows among the first ones of a file."""
        info, batches = read_codes(file)
        if info.model != self._tokenizer.fingerprint:
            raise InputError(
                f"expected the run of the model {info.model}, received that of "
                f"{self._tokenizer.fingerprint}: pass the run that encoded the codes"
            )
        rows = (row for batch in batches for row in zip(*batch[:2], strict=True))
        first = list(islice(rows, max(num, FIRST)))
        yield from first[:: -(-len(first) // num) or 1]

    @torch.no_grad()
    def _again(self, file: Path, name: str) -> tuple[np.ndarray, float]:
        """Codes of an item of a file, and the mean square error of its reconstruction."""
        begin, end = 0, self._source.count(self._split)
        if self._plan is not None:
            begin, end = self._plan.bounds(int(file.name.rsplit("-", 3)[1]))
        items = enumerate(self._source.section(self._split, begin, end), begin)
        index, item = next(((i, item) for i, item in items if readable(item.name) == name), (-1, None))
        if item is None:
            raise InputError(f"expected {name} in {self._source.description}, found none: pass its source")
        tokenizer = self._tokenizer
        one = Section(self._source, self._split, index, index + 1)
        encoded = next(tokenizer.encode_items(one, self._split))
        signal = tokenizer.modality.to_model(torch.from_numpy(tokenizer.modality.decode(item.content))[None])
        label = (
            tokenizer.trained.shown_class(encoded.label) if tokenizer.autoencoder.num_label_classes else None
        )
        whole = tokenizer.decode_signals(encoded.codes[None], class_name=label).cpu()
        (decoded,) = cropped([whole], [signal.shape[2:]])
        return encoded.codes.numpy(), float((decoded - signal.cpu()).square().mean())
