"""Encoding of single shards of a plan, which any process on any machine may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from smalti.app.commands.encode import table_batches
from smalti.app.data import open_data, pick_split
from smalti.app.files import codes_info
from smalti.app.native import Size, at_size
from smalti.app.outputs import OutputFolder
from smalti.app.runs import check_model, model_of
from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.data.codes import write_codes
from smalti.data.manifest import (
    Plan,
    ShardRecord,
    Skipped,
    checksum,
    has_plan,
    read_plan,
    read_record,
    write_record,
)
from smalti.data.plans import Input, make_plan, planned_input
from smalti.data.sources import Source
from smalti.data.sources.local import changed_item
from smalti.data.sources.section import Section
from smalti.encoders.pooling import PoolingEncoder
from smalti.encoding import EncodedItem
from smalti.tokenizer import Tokenizer
from smalti.training.checkpoints import RunDirectory


@final
@dataclass(frozen=True)
class ShardedEncoding:
    """Arguments of a sharded encoding, as plain values that other processes can be given.

    Attributes:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: a directory.
        num_shards: number of Parquet files.
        split: split of the source; None selects `all` if it exists, else `train`.
        size: as in `encode`.
    """

    run: str
    data: str
    out: Path
    num_shards: int
    split: str | None = None
    size: Size = "model"


@final
class ShardEncoder:
    """Encodes shards of a plan.

    Args:
        tokenizer: the model.
        plan: the plan.
        source: its input.
        out: output folder.
    """

    def __init__(self, tokenizer: Tokenizer, plan: Plan, source: Source, out: Path) -> None:
        self.plan = plan
        self._tokenizer, self._source, self._out = tokenizer, source, out
        self._info = codes_info(tokenizer)

    @classmethod
    def open(cls, job: ShardedEncoding, device: str | None) -> ShardEncoder:
        """Load the model, make or read the plan, and open its input.

        Args:
            job: the encoding.
            device: of the model; None for the best one.

        Raises:
            InputError: for a user error, or if the model or the input differ from those of the plan.
        """
        tokenizer = at_size(Tokenizer.from_pretrained(job.run, device, load_priors=False), job.size)
        _check_independent(tokenizer)
        if tokenizer.device.type == "cpu" and not tokenizer.modality.is_ragged:
            keep_freed_memory()
        given = Input(
            job.data,
            split=lambda source: pick_split(source, job.split, "all", "train"),
            open=lambda: _opened(job.data, tokenizer),
        )
        plan = _plan(job, given, tokenizer)
        return cls(tokenizer, plan, planned_input(job.out, plan, given), job.out)

    def record(self, shard: int, progress: Callable[[int], None] = lambda num: None) -> ShardRecord:
        """Return the line of a shard, which is encoded unless it is complete.

        Args:
            shard: its number.
            progress: called with the number of its items that are done.

        Raises:
            InputError: if the shard is complete, and one of its items has changed since.
        """
        return self._complete(shard) or self._encode(shard, progress)

    def _complete(self, shard: int) -> ShardRecord | None:
        record = read_record(self._out, self.plan, shard)
        if record is not None:
            changed = self._source.changed(self.plan.split, record.begin, record.end)
            if changed is not None:
                raise changed_item(changed, self._source.description)
        return record

    def _encode(self, shard: int, progress: Callable[[int], None]) -> ShardRecord:
        """Encode a shard, and write its file and then its line."""
        begin, end = self.plan.bounds(shard)
        section = Section(self._source, self.plan.split, begin, end)
        skipped: list[dict[str, str]] = []
        path = self._out / self.plan.file(shard)
        num_codes = 0

        def encoded() -> Iterator[EncodedItem]:
            nonlocal num_codes
            items = self._tokenizer.encode_items(
                section, self.plan.split, skipped=skipped, progress=lambda done, _: progress(done)
            )
            try:
                for item in items:
                    num_codes += item.codes.numel()
                    yield item
            except InputError:
                # One shard may hold unreadable items only.
                if len(skipped) != end - begin:
                    raise

        num_items = write_codes(
            path, self._info, table_batches(self._tokenizer, encoded()), may_be_empty=True
        )
        record = ShardRecord(
            shard=shard,
            file=path.name,
            begin=begin,
            end=end,
            model=self.plan.model,
            input=section.digest,
            num_items=num_items,
            num_codes=num_codes,
            skipped=tuple(Skipped.model_validate(one) for one in skipped),
            size=path.stat().st_size,
            sha256=checksum(path),
        )
        write_record(self._out, record)
        return record


def _check_independent(tokenizer: Tokenizer) -> None:
    if isinstance(tokenizer.autoencoder.encoder, PoolingEncoder):
        raise InputError(
            "expected a model that encodes each item by itself, received one that pools all items of a "
            "speaker, who may be in several shards: leave out --shards"
        )


def _opened(data: str, tokenizer: Tokenizer) -> Source:
    source = open_data(data, tokenizer.modality)
    check_model(RunDirectory(tokenizer.directory), model_of(source))
    return source


def _plan(job: ShardedEncoding, given: Input, tokenizer: Tokenizer) -> Plan:
    """Return the plan of the output folder, made now if there is none.

    Raises:
        InputError: if it is the plan of another command.
    """
    out = job.out
    if not has_plan(out):
        ledger = OutputFolder(out, "encode", shards=job.num_shards)
        ledger.check(out.rglob("*.parquet"))
        ledger.begin()
        make_plan(out, given, tokenizer.fingerprint, job.num_shards, job.size)
    plan = read_plan(out)
    differences = {
        "the model": (plan.model, tokenizer.fingerprint),
        "--shards": (plan.num_shards, job.num_shards),
        "--split": (plan.split, job.split or plan.split),
        "--size": (plan.size, job.size),
    }
    for what, (expected, received) in differences.items():
        if expected != received:
            raise InputError(
                f"expected {what} {expected} of the plan in {out}, received {received}: restore it, or "
                "choose another --out"
            )
    return plan
