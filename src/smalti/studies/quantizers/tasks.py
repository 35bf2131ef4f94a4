"""Tasks in order or in parallel: each goes on from its files, and a failed one does not stop the others."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from pathlib import Path

import torch

from smalti.app.console import counting, note
from smalti.core.errors import Diverged, InputError
from smalti.core.files import atomic_file, is_disk_full
from smalti.core.plugins import load_plugin, loaded_plugins
from smalti.training.loop import Interrupted

DIVERGED = "diverged.txt"
"""File with the error of a training that diverged."""
CONTEXT: BaseContext = multiprocessing.get_context("spawn")
"""Processes are not forked, because torch's threads do not survive a fork."""


class Task(ABC):
    """Work that leaves its result in files; it can be sent to another process."""

    title: str
    """Name in progress and messages, such as "fsq, seed 0"."""
    path: Path
    """Directory of the files."""

    @property
    def divergence(self) -> str | None:
        """Error of an earlier training that diverged, which the same settings would repeat, or None."""
        file = self.path / DIVERGED
        return file.read_text().strip() if file.is_file() else None

    @abstractmethod
    def is_done(self) -> bool:
        """Return True if all files exist."""

    @abstractmethod
    def run(self, quiet: bool) -> None:
        """Do the work, or go on with it.

        Raises:
            InputError: if it cannot be done.
        """


def perform(tasks: Sequence[Task], jobs: int, quiet: bool) -> dict[str, str]:
    """Do the tasks that are not done; one that diverged is not done again.

    Args:
        tasks: in the order of their start.
        jobs: number of processes, with one thread each; 1 stays in this process, with its threads.
        quiet: hide progress.

    Returns:
        The error of each task that failed, by its title.

    Raises:
        InputError: if a process was killed; nothing that is finished is lost.
        OSError: if the disk is full.
    """
    missing = [task for task in tasks if not task.is_done()]
    failed = {task.title: reason for task in missing if (reason := task.divergence) is not None}
    waiting = [task for task in missing if task.title not in failed]
    if jobs == 1 or len(waiting) < 2:
        return failed | _in_order(waiting, quiet)
    return failed | _in_parallel(waiting, jobs, quiet)


def _in_order(tasks: Sequence[Task], quiet: bool) -> dict[str, str]:
    failed = {}
    for number, task in enumerate(tasks, 1):
        note(f"{task.title} ({number} of {len(tasks)})", quiet)
        if (reason := _run(task, quiet)) is not None:
            failed[task.title] = reason
            note(f"{task.title} failed: {reason}")
    return failed


def _in_parallel(tasks: Sequence[Task], jobs: int, quiet: bool) -> dict[str, str]:
    failed: dict[str, str] = {}
    with (
        _one_thread(),
        counting("Comparing", quiet) as count,
        ProcessPoolExecutor(jobs, CONTEXT, _begin, (loaded_plugins(),)) as pool,
    ):
        running: dict[Future[str | None], Task] = {pool.submit(_run, task): task for task in tasks}
        waiting = set(running)
        try:
            while waiting:
                count(len(tasks) - len(waiting), len(tasks))
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    if (reason := future.result()) is not None:
                        failed[running[future].title] = reason
                        note(f"{running[future].title} failed: {reason}")
            count(len(tasks), len(tasks))
        except BrokenProcessPool:
            raise InputError(
                "expected processes that finish, received one that was killed, probably for lack of memory: "
                f"run the same command again to go on, with fewer than {jobs} --jobs"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _run(task: Task, quiet: bool = True) -> str | None:
    """Do a task; return the reason if it fails, or None."""
    try:
        task.run(quiet)
    except Diverged as error:
        with atomic_file(task.path / DIVERGED) as temporary:
            temporary.write_text(f"{error}\n")
        return str(error)
    except InputError as error:
        return str(error)
    except Interrupted:
        raise
    except Exception as error:  # a part of a plugin raises what it likes
        if is_disk_full(error):
            raise
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _begin(plugins: Sequence[str]) -> None:
    """Prepare a process: one thread, the plugins, and an end when its parent is killed."""
    torch.set_num_threads(1)
    for name in plugins:
        load_plugin(name)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started in the block use one OpenMP thread each."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
