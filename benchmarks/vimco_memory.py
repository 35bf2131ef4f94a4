"""Peak memory of a VIMCO step by the number of samples: `python benchmarks/vimco_memory.py`.

Each measurement has its own process. Weights are random, so that all samples carry weight (the worst case).
The alternative decodes all samples in one graph. Large blocks are returned to the system immediately
(MALLOC_MMAP_THRESHOLD_), so that the peak counts memory in use.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import torch

from smalti.core.conditions import Batch
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.levels import from_levels
from smalti.models.vimco import VIMCOConfig

BATCH, SAMPLES = 16, (2, 10, 50, 200)
WIDTH = {"channels": 64, "residual_channels": 32, "residual_blocks": 2}


def step(samples: int, at_once: int) -> None:
    """Run two steps, and print the peak resident memory above the baseline of the process, in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = VIMCOConfig(
        encoder=ConvEncoderConfig.model_validate({**WIDTH, "strides": (2, 2)}),
        decoder=ConvDecoderConfig.model_validate(WIDTH),
        num_codes=512,
        code_dim=16,
        num_samples=samples,
        decode_at_once=at_once,
    )
    model = config.build(SignalSpec(1, (28, 28)))
    batch = Batch(from_levels(torch.randint(256, (BATCH, 1, 28, 28)), 256))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        model.loss(batch).total.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(round((after - before) / 1024))


def measured(samples: int, at_once: int) -> int:
    """Run `step` in its own process."""
    command = [sys.executable, __file__, str(samples), str(at_once)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        step(int(sys.argv[1]), int(sys.argv[2]))
    else:
        print(f"batch {BATCH}, 28x28, peak memory above the baseline of the process")
        for samples in SAMPLES:
            whole = measured(samples, BATCH * samples)
            print(f"{samples:4} samples: {measured(samples, 64):5} MiB; decoded in one graph {whole:5} MiB")
