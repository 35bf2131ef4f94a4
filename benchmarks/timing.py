"""Timing shared by the benchmarks: interleaved rounds, wall and processor time, medians."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from smalti.kernels import nearest as nearest_kernel
from smalti.kernels.products import LANES, block_product

Work = Callable[[], object]
PEAK_SIDE = 2048


class Time(NamedTuple):
    """Seconds per call, or per symbol: wall time and processor time."""

    wall: float
    processor: float | None

    def times(self, factor: float, threads: int = 1) -> Time:
        """Scale by a number of calls; divide wall time by the number of threads that share them."""
        return Time(self.wall * factor / threads, None if self.processor is None else self.processor * factor)


def timed(work: Work) -> Time:
    """Time one call; processor time includes all threads of this process."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Time(time.perf_counter() - wall, time.process_time() - processor)


def timed_command(command: Sequence[str], environment: dict[str, str] | None = None) -> Time:
    """Time one command, from start to exit."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Time(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def interleaved(works: Sequence[Work], repeats: int) -> list[Time]:
    """Time each work in alternation in this process, after one warm-up round; return medians."""
    return medians([[timed(work) for work in works] for _ in range(repeats + 1)][1:])


def medians(rounds: list[list[Time]]) -> list[Time]:
    """Return the median times of each work over the rounds."""
    return [
        Time(
            statistics.median(time.wall for time in times),
            statistics.median(time.processor or 0 for time in times),
        )
        for times in zip(*rounds, strict=True)
    ]


def in_processes(
    makers: Sequence[Callable[[], Work]], repeats: int, threads: int, warm_up: int = 2
) -> list[Time]:
    """Like `interleaved`, with each work in its own process, for works that change process-wide settings.

    Args:
        makers: module-level functions that return the works.
        repeats: number of timed rounds.
        threads: torch threads per process; one process works at a time.
        warm_up: number of untimed calls.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Connection, multiprocessing.process.BaseProcess]] = []
    for maker in makers:
        ours, theirs = context.Pipe()
        worker = context.Process(target=_serve, args=(maker, theirs, threads, warm_up), daemon=True)
        worker.start()
        theirs.close()  # so that `recv` raises if the worker fails
        ours.recv()  # wait until the worker is ready
        workers.append((ours, worker))
    rounds: list[list[Time]] = []
    for _ in range(repeats):
        times = []
        for connection, _ in workers:
            connection.send(True)
            times.append(connection.recv())
        rounds.append(times)
    for connection, worker in workers:
        connection.send(False)
        worker.join()
    return medians(rounds)


def _serve(maker: Callable[[], Work], connection: Connection, threads: int, warm_up: int) -> None:
    torch.set_num_threads(threads)
    work = maker()
    for _ in range(warm_up):
        work()
    connection.send(True)
    while connection.recv():
        connection.send(timed(work))


def peak() -> Work:
    """Return a work that multiplies large matrices: `PEAK_FLOP` operations."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, generator=generator) for _ in range(2))
    out = torch.empty(PEAK_SIDE, PEAK_SIDE)
    return lambda: torch.mm(a, b, out=out)


PEAK_FLOP = 2 * PEAK_SIDE**3


def register_peak() -> Work:
    """Return a work of multiply-adds on registers and the L1 cache: `REGISTER_FLOP` operations, one thread.

    Its rate bounds that of any float32 matrix product.
    """
    out, x = np.zeros((TILE_ROWS, TILE_COLUMNS), np.float32), np.zeros((TILE_ROWS, TILE_INPUTS), np.float32)
    weight = np.zeros((TILE_INPUTS, TILE_COLUMNS), np.float32)
    return lambda: _tiles(out, x, weight)


TILE_ROWS, TILE_INPUTS, TILE_COLUMNS, TILES = nearest_kernel.TOKENS, 64, nearest_kernel.PANEL, 50_000
REGISTER_FLOP = 2 * TILE_ROWS * TILE_INPUTS * TILE_COLUMNS * TILES
_tile = block_product(TILE_ROWS, TILE_COLUMNS // LANES)


@numba.njit
def _tiles(out: Any, x: Any, weight: Any) -> None:
    for _ in range(TILES):
        _tile(
            out.ctypes.data,
            TILE_COLUMNS,
            x.ctypes.data,
            TILE_INPUTS,
            weight.ctypes.data,
            TILE_COLUMNS,
            TILE_INPUTS,
        )


LARGE, REGISTERS = (
    "bound: rate of large matrix products",
    "bound: rate of multiply-adds in registers",
)


def bound_works() -> list[Work]:
    """Return the works to time for `bounds`."""
    return [peak(), register_peak()]


def bounds(times: Sequence[Time], flop: float, threads: int) -> dict[str, Time]:
    """Return lower bounds on the time of matrix products, by limiting resource.

    Args:
        times: times of `bound_works`; the second work has a single thread.
        flop: number of operations of the products.
        threads: number of threads of the products.
    """
    large, registers = times
    return {
        LARGE: large.times(flop / PEAK_FLOP),
        REGISTERS: registers.times(flop / REGISTER_FLOP, threads),
    }
