"""Programs in processes of their own, forked from one that has imported torch and smalti already.

A process that imports them anew takes three seconds of processor time, which is more than most tests need.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

METHOD = "forkserver"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(
    [
        "smalti.app.commands.train",
        "smalti.app.commands.train_prior",
        "smalti.app.commands.encode",
        "smalti.app.commands.decode",
        # Imported at their first use, by smalti or by torch's optimizers.
        "accelerate.state",
        "numba.core.config",
        "torch._dynamo",
    ]
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


@dataclass
class Program:
    """One or several running processes of a program."""

    ranks: list[ForkServerProcess]
    output: Path

    def wait(self, timeout: float = 300) -> int:
        """Return the first exit status that is not 0, or 0."""
        for rank in self.ranks:
            rank.join(timeout)
        if self.is_running():
            self.kill()
            raise TimeoutError(self.printed)
        return next((rank.exitcode for rank in self.ranks if rank.exitcode), 0)

    def is_running(self) -> bool:
        return any(rank.is_alive() for rank in self.ranks)

    def kill(self) -> None:
        """Send SIGKILL to every rank."""
        for rank in self.ranks:
            rank.kill()
        for rank in self.ranks:
            rank.join()

    def interrupt(self) -> None:
        """Send SIGINT to every rank, as Ctrl-C does."""
        for rank in self.ranks:
            if rank.pid is not None:
                os.kill(rank.pid, signal.SIGINT)

    @property
    def printed(self) -> str:
        return self.output.read_text()


def start(
    *words: object,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    num_ranks: int = 1,
) -> Program:
    """Start `python WORDS` (a script, -m MODULE or -c CODE), on several ranks as `torchrun` would."""
    handle, output = tempfile.mkstemp(prefix="smalti-test-", suffix=".txt")
    os.close(handle)
    shared = {**os.environ, **ENVIRONMENT, **(variables or {})}
    if num_ranks > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        shared |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    ranks = []
    for rank in range(num_ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
        arguments = ([str(word) for word in words], str(folder or Path.cwd()), {**shared, **own}, output)
        process = CONTEXT.Process(target=_run, args=arguments)
        process.start()
        ranks.append(process)
    return Program(ranks, Path(output))


def run(
    *words: object,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    num_ranks: int = 1,
    timeout: float = 300,
) -> str:
    """Run a program to its end, within a number of seconds, and return its output; it must succeed."""
    program = start(*words, folder=folder, variables=variables, num_ranks=num_ranks)
    status = program.wait(timeout)
    assert status == 0, f"{words} ended with status {status}\n{program.printed}"
    return program.printed


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _run(words: Sequence[str], folder: str, environment: Mapping[str, str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if words[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, folder)
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
