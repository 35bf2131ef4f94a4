"""Devices, ranks and precision: the only file that uses Hugging Face Accelerate.

Single-process runs, `torchrun` and `accelerate launch` all use this engine; the training loop needs from it
only a device, its rank's share of the work, and a backward pass.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smalti.core.allocator import keep_freed_memory
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.nn.collectives import sum_over_ranks

Precision = Literal["auto", "fp32", "bf16"]


@final
class Engine:
    """Runs a model on the available devices.

    Args:
        precision: "auto" uses bf16 on GPUs that support it, and fp32 elsewhere.
        trackers: any of "tensorboard", "wandb".
        directory: output directory of the trackers.
    """

    def __init__(
        self, precision: Precision = "auto", trackers: tuple[str, ...] = (), directory: Path | None = None
    ) -> None:
        # Imported here, because it takes as long as all of smalti, and only training needs it.
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState, is_initialized
        from accelerate.utils import InitProcessGroupKwargs

        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            keep_freed_memory()
        bf16 = precision == "bf16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(False))
        mixed_precision = "bf16" if bf16 else "no"
        for tracker in trackers:
            if find_spec(tracker) is None:
                raise InputError(
                    f"the tracker {tracker} is not installed: run pip install 'smalti[{tracker}]', "
                    "or remove it from training.trackers"
                )
        # Accelerate keeps the first precision for the whole process, but two stages may use different ones.
        if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
            AcceleratorState._reset_state()
        # Codebooks are already summed over ranks, so broadcasting buffers every step would be wasted.
        self._data_parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
        self._accelerator = Accelerator(
            cpu=not on_gpu,
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_dir=str(directory) if directory else None,
            kwargs_handlers=[
                self._data_parallel,
                # Other ranks wait while the main process decodes a corpus, which may take hours.
                InitProcessGroupKwargs(timeout=timedelta(days=1)),
            ],
        )
        self._tracks = bool(trackers)
        if self.world > 1:
            atexit.register(_leave_ranks)

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self._accelerator.device

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self._accelerator.process_index

    @property
    def world(self) -> int:
        """Number of processes."""
        return self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and prints messages."""
        return self._accelerator.is_main_process

    def prepare(
        self, model: Trainable, optimizers: Sequence[torch.optim.Optimizer], is_partial: bool = False
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """Wrap the model and its optimizers for the available devices, and start the trackers.

        Args:
            model: the model to train.
            optimizers: one per phase.
            is_partial: whether some loss reaches only part of the parameters. Data-parallel wrappers then
                search each loss for the parameters that it reaches, which costs time.
        """
        if self._tracks:
            self._accelerator.init_trackers("smalti")
        self._data_parallel.find_unused_parameters = is_partial
        wrapped, *prepared = self._accelerator.prepare(model, *optimizers)
        return wrapped, prepared

    def backward(self, loss: Tensor) -> None:
        """Compute gradients of a loss, averaged over ranks."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], norm: float) -> Tensor:
        """Clip the norm of the gradient of all `parameters` to `norm`; return the norm before clipping."""
        return self._accelerator.clip_grad_norm_(parameters, norm)  # pyright: ignore[reportReturnType]

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        """Mean of a tensor over ranks."""
        return sum_over_ranks(values) / self.world

    def any_rank(self, flag: bool) -> bool:
        """Combine a flag over ranks: True if it is set on any rank."""
        return (
            flag if self.world == 1 else bool(sum_over_ranks(torch.tensor(float(flag), device=self.device)))
        )

    def track(self, values: dict[str, float], step: int) -> None:
        """Log values to the trackers."""
        if self._accelerator.trackers:
            self._accelerator.log(values, step=step)

    def wait(self) -> None:
        """Wait for all ranks."""
        self._accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Close the trackers."""
        # Not `end_training`: it would destroy the process group, which ranks still need for synchronisation.
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _leave_ranks() -> None:
    """End the process group: its threads may abort a process that exits while they run."""
    if dist.is_initialized():
        dist.destroy_process_group()
