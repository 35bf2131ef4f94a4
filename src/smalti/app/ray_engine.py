"""`smalti encode --engine ray`: actors of a Ray cluster encode the shards of a plan.

Ray Data reads the numbers of the shards and returns their lines of the manifest. Each actor holds the model,
reads the items of its shard from the source, and writes its file, by the same code as without Ray.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch

from smalti.app.console import amount, note
from smalti.app.failures import user_error
from smalti.app.shards import ShardedEncoding, ShardEncoder
from smalti.app.threads import usable_processors
from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.core.plugins import load_plugin, loaded_plugins
from smalti.data.manifest import ShardRecord

ADDRESS = "RAY_ADDRESS"
STORE_BYTES = 256 << 20
"""Object store of a local cluster: it holds numbers and lines only. Ray's default is 30 % of the memory."""
CONNECT_S = 10
"""Longest time until the machine of a named cluster answers."""
ATTEMPTS = 5
"""Most times that a shard is begun; Ray would restart an actor without end that one of its items kills."""
ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Reports of dead workers are printed even if the workers' own output is not.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # Without a value, Ray announces at each start what it will do in future versions.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Keeps Ray's messages off the screen; variables that the user has set stay as they are."""


@final
@dataclass(frozen=True)
class _Workers:
    """The actors that a cluster has room for.

    Attributes:
        num: number of actors.
        num_gpus: GPUs of each.
    """

    num: int
    num_gpus: int

    def __str__(self) -> str:
        return f"{amount(self.num, 'actors')}, one {'GPU' if self.num_gpus else 'processor'} each"


@final
class RayEngine:
    """Encodes shards by the actors of a Ray cluster.

    Args:
        address: of the cluster; None for the environment variable `RAY_ADDRESS`, or else a cluster on this
            machine, which is started and stopped. If this process is connected already, its cluster is used.

    Raises:
        InputError: if Ray is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with needs_extra("ray"):
            import ray.data  # noqa: F401
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        self._address = address or os.environ.get(ADDRESS) or "local"

    def records(
        self, job: ShardedEncoding, shards: Sequence[int], quiet: bool = False
    ) -> Iterator[ShardRecord]:
        """Encode the shards that are not complete; yield the line of each, in the order of their completion.

        Args:
            job: the encoding, whose plan must exist.
            shards: numbers of the shards.
            quiet: hide the note on the actors.

        Raises:
            InputError: if there is no such cluster, an actor meets a user error, or actors die repeatedly.
        """
        if not shards:
            return
        from ray.exceptions import RayError, UserCodeException

        with self.connected():
            workers = _workers(len(shards))
            note(f"Ray encodes with {workers}.", quiet)
            try:
                for row in _dataset(_absolute(job), shards, workers).iter_rows():
                    if row["error"]:
                        raise InputError(row["error"])
                    yield ShardRecord.model_validate_json(row["record"])
            except UserCodeException:
                raise  # a bug
            except RayError as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise InputError(
                    f"Ray could not encode all shards ({reason}): check the memory and the logs of its "
                    "machines, and run the same command again"
                ) from error

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the cluster during the block; a local one is started before and stopped after it.

        Raises:
            InputError: if there is no such cluster.
        """
        import ray

        if ray.is_initialized():
            yield
            return
        settings: dict[str, Any] = {}
        if self._address == "local":
            settings = {
                "num_cpus": usable_processors(),
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            _check_answers(self._address)
            with _silent_descriptor():
                ray.init(self._address, log_to_driver=False, logging_level=logging.CRITICAL, **settings)
        except Exception as error:  # a start that takes too long raises no narrower one
            reason = " ".join(str(error).split())
            if self._address == "local":
                raise InputError(
                    f"Ray could not start on this machine ({reason}): run the same command again when the "
                    "machine is less busy, or leave out --engine"
                ) from error
            raise InputError(
                f"expected a Ray cluster at {self._address}, which cannot be used ({reason}): check "
                f"--address and {ADDRESS}, or leave both out for a cluster on this machine"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@final
class ShardActor:
    """Callable class of Ray Data: takes the number of a shard, returns its line of the manifest.

    Args:
        job: the encoding, with absolute paths.
        plugins: modules that the driver has loaded.
        device: of the model; None for the GPU that Ray has given to the actor.
        attempts: handle of the actor that counts the attempts at each shard.
    """

    def __init__(
        self, job: ShardedEncoding, plugins: Sequence[str], device: str | None, attempts: Any
    ) -> None:
        self._job, self._plugins, self._device, self._attempts = job, plugins, device, attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Encode the shard `item`, unless it is complete; a user's error is returned as a sentence."""
        import ray

        shard = int(row["item"])
        try:
            num_attempts: Any = ray.get(self._attempts.begin.remote(shard))
            if num_attempts > ATTEMPTS:
                raise InputError(
                    f"the process that encodes shard {shard} has died {ATTEMPTS} times: leave out --engine "
                    "to see why, or give the processes more memory"
                )
            record = self._encoder.record(shard)
        except Exception as error:
            report = user_error(error, ())
            if report is None:
                raise
            return {"record": "", "error": report[0]}
        return {"record": record.model_dump_json(), "error": ""}

    @cached_property
    def _encoder(self) -> ShardEncoder:
        """Opened by the first shard, since Ray would repeat a constructor that fails."""
        torch.set_num_threads(1)
        for name in self._plugins:
            load_plugin(name)
        return ShardEncoder.open(self._job, self._device)


def _attempts() -> Any:
    """Start an actor that counts how often each shard is begun."""
    import ray

    # A class of the module would make its process import torch.
    class Attempts:
        def __init__(self) -> None:
            self.counts: dict[int, int] = {}

        def begin(self, shard: int) -> int:
            self.counts[shard] = self.counts.get(shard, 0) + 1
            return self.counts[shard]

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()


def _dataset(job: ShardedEncoding, shards: Sequence[int], workers: _Workers) -> Any:
    """The lines of the shards, as a Ray dataset that is computed while it is read."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    device = None if workers.num_gpus else "cpu"
    actor: Any = ShardActor  # the annotation of `map` leaves out classes
    return ray.data.from_items(list(shards), override_num_blocks=len(shards)).map(
        actor,
        fn_constructor_args=(job, loaded_plugins(), device, _attempts()),
        # One shard at a time, so that none waits behind another while an actor is idle.
        compute=ray.data.ActorPoolStrategy(size=workers.num, max_tasks_in_flight_per_actor=1),
        # Ray Data takes one or the other.
        num_cpus=None if workers.num_gpus else 1,
        num_gpus=workers.num_gpus or None,
    )


def _workers(num_shards: int) -> _Workers:
    import ray

    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    num = num_gpus or int(resources.get("CPU", 0))
    return _Workers(max(1, min(num, num_shards)), 1 if num_gpus else 0)


def _check_answers(address: str) -> None:
    """Check that something listens at `host:port`, for which Ray itself would wait several minutes.

    Raises:
        OSError: if nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def _absolute(job: ShardedEncoding) -> ShardedEncoding:
    """Make the paths absolute, since the processes of a cluster have other working directories."""

    def absolute(text: str) -> str:
        path = Path(text).expanduser()
        return str(path.absolute()) if path.exists() else text

    return replace(job, run=absolute(job.run), data=absolute(job.data), out=job.out.absolute())


@contextmanager
def _silent_descriptor() -> Iterator[None]:
    """Drop what a library in C writes to standard error: Ray prints that it prints less."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
