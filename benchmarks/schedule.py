"""The scheduler part of `smalti encode --shards` at the size of a cluster, without pixels.

The plan of 100 million files is made by the code that every encoding uses, with names that are generated and
files that do not exist. Workers in virtual time take their shards of it: they stream the real list, write the
real lines of the manifest, fail at random moments, and start again where the manifest says. Every row must be
in exactly one complete shard. Recorded are the virtual hours with and without failures, and the real cost of
the plan: seconds, bytes, peak memory. Run as `python benchmarks/schedule.py`; 100 million rows take about ten
minutes of processor time, and `--items 1000000 --shards 200` a few seconds.
"""

from __future__ import annotations

import heapq
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, overload

import typer
from record import record
from timing import Time

from smalti.app.parts import Part
from smalti.data.manifest import DIRECTORY, Plan, ShardRecord, read_record, write_record
from smalti.data.plans import FILES, Input, make_plan
from smalti.data.sources.base import Item, Source
from smalti.data.sources.local import LocalFiles
from smalti.data.sources.planned import read_listing

HOUR = 3600.0
PER_FOLDER = 10_000


class Names(Sequence[str]):
    """Generated names of files, sorted."""

    def __init__(self, num: int) -> None:
        self._num = num

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [name_of(number) for number in range(*index.indices(self._num))]
        return name_of(index)

    def __iter__(self) -> Iterator[str]:
        return map(name_of, range(self._num))


def name_of(number: int) -> str:
    """Name of a file."""
    return f"{number // PER_FOLDER:06d}/photo-{number:09d}.jpg"


class Imagined(Source):
    """A folder of files that nobody has."""

    def __init__(self, num: int) -> None:
        self._num = num
        self.description, self.splits = f"{num:,} imagined files", ("all",)

    def count(self, split: str) -> int:
        return self._num

    def items(self, split: str) -> Iterator[Item]:
        return map(self.files(split).item, self.files(split).names)

    def files(self, split: str) -> LocalFiles:
        return LocalFiles(Path("/nowhere"), Names(self._num), 0)


class Worker:
    """One GPU in virtual time.

    Args:
        part: its part of the plan.
        plan: the plan.
        out: the output folder.
        rate: items per second.
        start_s: seconds from a start to the first item.
    """

    def __init__(self, part: Part, plan: Plan, out: Path, rate: float, start_s: float) -> None:
        self._shards, self._plan, self._out = part.numbers(plan.num_shards), plan, out
        self._rate, self._start_s = rate, start_s
        self.lost_s = 0.0

    def remaining(self) -> list[int]:
        """Shards without a line in the manifest, as a started process finds them."""
        return [shard for shard in self._shards if read_record(self._out, self._plan, shard) is None]

    def work(self, now_s: float, until_s: float) -> float | None:
        """Encode from a start until a failure.

        Returns:
            The time of completion; None if the failure came first.
        """
        now_s += self._start_s
        for shard in self.remaining():
            begin, end = self._plan.bounds(shard)
            seconds = (end - begin) / self._rate
            if now_s + seconds > until_s:
                self.lost_s += max(0.0, until_s - now_s) + self._start_s
                return None
            now_s += seconds
            self._complete(shard, begin, end)
        return now_s

    def _complete(self, shard: int, begin: int, end: int) -> None:
        listing = read_listing(self._out / DIRECTORY / FILES, begin, end)
        for number, (name, _) in enumerate(listing, begin):
            if name != name_of(number):
                raise SystemExit(f"row {number} is {name}")
        if number != end - 1:
            raise SystemExit(f"shard {shard} ends at row {number}")
        file = self._plan.file(shard)
        (self._out / file).touch()
        model, digest = self._plan.model, "0" * 64
        write_record(
            self._out,
            ShardRecord(
                shard=shard,
                file=file,
                begin=begin,
                end=end,
                model=model,
                input=digest,
                num_items=end - begin,
                num_codes=0,
                skipped=(),
                size=0,
                sha256=digest,
            ),
        )


def simulate(workers: Sequence[Worker], failures_h: float, down_s: float, seed: int = 0) -> tuple[float, int]:
    """Run workers to their ends; return the seconds of the last one, and the number of failures.

    Args:
        workers: each fails at times of an exponential distribution.
        failures_h: mean time between failures of one worker, hours.
        down_s: seconds from a failure to the next start.
        seed: of the failures.
    """
    rng = random.Random(seed)
    starts = [(0.0, index) for index in range(len(workers))]
    last_s, failures = 0.0, 0
    while starts:
        now_s, index = heapq.heappop(starts)
        until_s = now_s + rng.expovariate(1 / (failures_h * HOUR))
        done_s = workers[index].work(now_s, until_s)
        if done_s is None:
            failures += 1
            heapq.heappush(starts, (until_s + down_s, index))
        else:
            last_s = max(last_s, done_s)
    return last_s, failures


def main(
    items: Annotated[int, typer.Option(help="Number of files.")] = 100_000_000,
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 10_000,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 64,
    rate: Annotated[float, typer.Option(help="Items per second and GPU.")] = 500.0,
    failures_h: Annotated[float, typer.Option(help="Mean hours between failures of a GPU.")] = 24.0,
    down_s: Annotated[float, typer.Option(help="Seconds until a failed one is back.")] = 600.0,
    start_s: Annotated[float, typer.Option(help="Seconds from a start to the first item.")] = 30.0,
) -> None:
    """Make the plan, run the workers, and check that every row is in one complete shard."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "codes"
        began = time.perf_counter()
        given = Input("/nowhere", lambda _: "all", lambda: Imagined(items))
        plan = make_plan(out, given, "0" * 16, shards)
        planned_s = time.perf_counter() - began
        plan_bytes = (out / DIRECTORY / FILES).stat().st_size
        workers = [Worker(Part(i, gpus), plan, out, rate, start_s) for i in range(gpus)]
        seconds, failures = simulate(workers, failures_h, down_s)
        records = [read_record(out, plan, shard) for shard in range(shards)]
        rows = [row for one in records if one for row in (one.begin, one.end)]
        if rows[0] != 0 or rows[-1] != items or rows[1:-1:2] != rows[2::2] or None in records:
            raise SystemExit("the shards do not cover the rows")
        manifest_bytes = sum(path.stat().st_size for path in (out / "manifest").iterdir())
    ideal_s = start_s + -(-shards // gpus) * (items / shards) / rate
    record(
        "schedule",
        work=f"{items} items in {shards} shards on {gpus} GPUs of {rate:g} items/s, simulated",
        peer=f"the same without failures ({failures} failures, one in {failures_h:g} h a GPU)",
        threads=1,
        ours=Time(seconds / HOUR, None),
        theirs=Time(ideal_s / HOUR, None),
        unit="h",
        benchmark="schedule",
        failures=failures,
        lost_gpu_h=sum(worker.lost_s for worker in workers) / HOUR,
        down_s=down_s,
        plan_s=planned_s,
        plan_bytes=plan_bytes,
        manifest_bytes=manifest_bytes,
        real_s=time.perf_counter() - began,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


if __name__ == "__main__":
    typer.run(main)
