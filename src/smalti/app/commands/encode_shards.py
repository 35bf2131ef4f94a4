"""`smalti encode --shards N`: encode a source into N Parquet files, by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from smalti.app.console import amount, counting, note
from smalti.app.data import report_skipped
from smalti.app.native import Size
from smalti.app.options import folder
from smalti.app.parts import Part, rank_device, rank_part
from smalti.app.ray_engine import RayEngine
from smalti.app.shards import ShardedEncoding, ShardEncoder
from smalti.core.errors import InputError
from smalti.data.manifest import MANIFEST, ShardRecord

Engine = Literal["ray"]


def encode_shards(
    run: str,
    data: str,
    out: Path,
    num_shards: int,
    part: Part | None = None,
    split: str | None = None,
    quiet: bool = False,
    size: Size = "model",
    engine: Engine | None = None,
    address: str | None = None,
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
        engine: "ray" to let the actors of a Ray cluster encode the shards; None for this process.
        address: of the Ray cluster; None for `RAY_ADDRESS`, or else a cluster on this machine.

    Raises:
        InputError: for a user error, or if the model or the input differ from those of the plan.
    """
    folder(out)
    job = ShardedEncoding(run, data, out, num_shards, split, size)
    rank = rank_part()
    quiet = quiet or rank.index > 0
    ray = _ray(engine, address, rank)
    encoder = ShardEncoder.open(job, "cpu" if ray else rank_device())
    plan = encoder.plan
    shards = rank.of(part or Part()).numbers(num_shards)
    total = sum(end - begin for begin, end in map(plan.bounds, shards))
    records: list[ShardRecord] = []
    done = 0
    with counting("Encoding", quiet) as count:
        if ray is not None:
            completed = ray.records(job, shards, quiet)
        else:
            completed = _records(encoder, shards, lambda num: count(done + num, total))
        for record in completed:
            records.append(record)
            done += record.end - record.begin
            count(done, total)
    records.sort(key=lambda record: record.shard)
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


def _ray(engine: Engine | None, address: str | None, rank: Part) -> RayEngine | None:
    if engine is None:
        if address is not None:
            raise InputError(
                f"expected --engine ray with --address, received only --address {address}: add --engine ray"
            )
        return None
    if rank.num > 1:
        raise InputError(
            f"expected one process with --engine ray, received {rank.num} ranks: start it without torchrun, "
            "since Ray starts the processes itself"
        )
    return RayEngine(address)


def _records(
    encoder: ShardEncoder, shards: Iterable[int], progress: Callable[[int], None]
) -> Iterator[ShardRecord]:
    for shard in shards:
        yield encoder.record(shard, progress)
