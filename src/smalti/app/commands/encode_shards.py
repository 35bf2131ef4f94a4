"""`smalti encode --shards N`: encode a source into N Parquet files, by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

from smalti.app.commands.encode import table_batches
from smalti.app.console import amount, counting, note
from smalti.app.data import open_data, pick_split, report_skipped
from smalti.app.files import codes_info
from smalti.app.native import Size, at_size
from smalti.app.options import folder
from smalti.app.outputs import OutputFolder
from smalti.app.parts import Part, rank_device, rank_part
from smalti.app.runs import check_model, model_of
from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.data.codes import write_codes
from smalti.data.manifest import MANIFEST, ShardRecord, Skipped, checksum, read_record, write_record
from smalti.data.plans import Input, Plan, has_plan, make_plan, planned_input, read_plan
from smalti.data.sources import Source
from smalti.data.sources.local import changed_item
from smalti.data.sources.section import Section
from smalti.encoders.pooling import PoolingEncoder
from smalti.encoding import EncodedItem
from smalti.tokenizer import Tokenizer
from smalti.training.checkpoints import RunDirectory


def encode_shards(
    run: str,
    data: str,
    out: Path,
    num_shards: int,
    part: Part | None = None,
    split: str | None = None,
    quiet: bool = False,
    size: Size = "model",
) -> int:
    """Encode this process's part of the shards that are not complete; return the number of items in its part.

    The first process stores a plan, which says what each shard holds. The same command completes a stopped
    one, and writes the same bytes.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: a directory.
        num_shards: number of Parquet files.
        part: part of this job; None for all shards. The ranks of `torchrun` divide it further.
        split: split of the source; None selects `all` if it exists, else `train`.
        quiet: hide progress.
        size: as in `encode`.

    Raises:
        InputError: for a user error, or if the model or the input differ from those of the plan.
    """
    folder(out)
    rank = rank_part()
    quiet = quiet or rank.index > 0
    tokenizer = at_size(Tokenizer.from_pretrained(run, rank_device(), load_priors=False), size)
    _check_independent(tokenizer)
    if tokenizer.device.type == "cpu" and not tokenizer.modality.is_ragged:
        keep_freed_memory()
    given = Input(
        data,
        split=lambda source: pick_split(source, split, "all", "train"),
        open=lambda: _opened(data, tokenizer),
    )
    plan = _plan(out, given, tokenizer, num_shards, split, size)
    work = _Work(tokenizer, plan, planned_input(out, plan, given), out)
    shards = rank.of(part or Part()).numbers(num_shards)
    total = sum(end - begin for begin, end in map(plan.bounds, shards))
    records: list[ShardRecord] = []
    done = 0
    with counting("Encoding", quiet) as count:
        for shard in shards:
            record = work.complete(shard) or work.encode(shard, lambda num: count(done + num, total))  # noqa: B023
            records.append(record)
            done += record.end - record.begin
            count(done, total)
    skipped = [one.model_dump() for record in records for one in record.skipped]
    if not quiet:
        report_skipped(skipped, str(out / MANIFEST))
    num_items = sum(record.num_items for record in records)
    if skipped and not num_items:
        raise InputError(
            f"none of the {len(skipped)} items can be read (the first, {skipped[0]['name']}: "
            f"{skipped[0]['reason']}): check --data"
        )
    note(
        f"{out} holds {amount(num_items, 'items')} of the split {plan.split} in {len(records)} of "
        f"{num_shards} shards.",
        quiet,
    )
    return num_items


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


def _plan(
    out: Path, given: Input, tokenizer: Tokenizer, num_shards: int, split: str | None, size: Size
) -> Plan:
    """Return the plan of the output folder, made now if there is none.

    Raises:
        InputError: if it is the plan of another command.
    """
    if not has_plan(out):
        ledger = OutputFolder(out, "encode", shards=num_shards)
        ledger.check(out.rglob("*.parquet"))
        ledger.begin()
        make_plan(out, given, tokenizer.fingerprint, num_shards, size)
    plan = read_plan(out)
    differences = {
        "the model": (plan.model, tokenizer.fingerprint),
        "--shards": (plan.num_shards, num_shards),
        "--split": (plan.split, split or plan.split),
        "--size": (plan.size, size),
    }
    for what, (expected, received) in differences.items():
        if expected != received:
            raise InputError(
                f"expected {what} {expected} of the plan in {out}, received {received}: restore it, or "
                "choose another --out"
            )
    return plan


@final
class _Work:
    """Encodes shards of a plan.

    Args:
        tokenizer: the model.
        plan: the plan.
        source: its input.
        out: output folder.
    """

    def __init__(self, tokenizer: Tokenizer, plan: Plan, source: Source, out: Path) -> None:
        self._tokenizer, self._plan, self._source, self._out = tokenizer, plan, source, out
        self._info = codes_info(tokenizer)

    def complete(self, shard: int) -> ShardRecord | None:
        """Return the line of a shard that is complete, or None.

        Raises:
            InputError: if one of its files has changed since.
        """
        record = read_record(self._out, shard)
        if record is not None:
            changed = self._source.changed(self._plan.split, record.begin, record.end)
            if changed is not None:
                raise changed_item(changed, self._source.description)
        return record

    def encode(self, shard: int, progress: Callable[[int], None]) -> ShardRecord:
        """Encode a shard, and write its file and then its line.

        Args:
            shard: its number.
            progress: called with the number of its items that are done.
        """
        begin, end = self._plan.bounds(shard)
        section = Section(self._source, self._plan.split, begin, end)
        skipped: list[dict[str, str]] = []
        path = self._out / self._plan.file(shard)
        num_codes = 0

        def encoded() -> Iterator[EncodedItem]:
            nonlocal num_codes
            items = self._tokenizer.encode_items(
                section, self._plan.split, skipped=skipped, progress=lambda done, _: progress(done)
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
            model=self._plan.model,
            input=section.digest,
            num_items=num_items,
            num_codes=num_codes,
            skipped=tuple(Skipped.model_validate(one) for one in skipped),
            size=path.stat().st_size,
            sha256=checksum(path),
        )
        write_record(self._out, record)
        return record
