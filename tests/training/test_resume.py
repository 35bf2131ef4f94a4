"""A run that is killed and resumed ends with the weights of one that was not; two ranks with those of one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import forked
from tests.forked import Program
from tests.runs import TINY

WORKER = Path(__file__).with_name("worker.py")


def finish(run: Path, steps: int, model: str = "vqvae", num_ranks: int = 1) -> None:
    forked.run(WORKER, run, steps, model, num_ranks=num_ranks)


def start(run: Path, steps: int, model: str = "vqvae", num_ranks: int = 1) -> Program:
    return forked.start(WORKER, run, steps, model, num_ranks=num_ranks)


def metrics(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "split")} for line in lines]


def steps_logged(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def kill_and_resume(directory: Path, steps: int, kills: int, seed: int, model: str) -> None:
    """Train once undisturbed, and once killed after random times of training."""
    whole, broken = directory / "whole", directory / "broken"
    finish(whole, steps, model)
    rng = random.Random(seed)
    for _ in range(kills):
        before = newest_state(broken)
        variables = {"KILLED_AFTER": str(rng.uniform(0.001, 0.05))}
        killed = forked.start(WORKER, broken, steps, model, variables=variables)
        assert killed.wait() == -signal.SIGPROF, f"it was to be killed in the middle:\n{killed.printed}"
        assert before < newest_state(broken) < newest_state(whole)
    finish(broken, steps, model)
    assert_same_tensors(whole, broken)
    assert steps_logged(broken) == steps_logged(whole)


def tensors_of(run: Path) -> dict[str, Tensor]:
    """The weights to use, and the state of the last step: models, best weights and optimizers."""
    return load_file(run / "model.safetensors") | load_file(
        run / "state" / newest_state(run) / "tensors.safetensors"
    )


def assert_same_tensors(whole: Path, broken: Path) -> None:
    expected, received = tensors_of(whole), tensors_of(broken)
    assert expected.keys() == received.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, received[name]), name


def newest_state(run: Path) -> str:
    return max((path.name for path in (run / "state").glob("step-*")), default="")


def wait_for_training(run: Path, process: Program, before: str) -> None:
    """Until the process has written a checkpoint of its own (or ended)."""
    deadline = time.monotonic() + 120
    while newest_state(run) <= before and process.is_running() and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize("model", ["vqvae", "adversarial", "objective"])
def test_killed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, model: str) -> None:
    kill_and_resume(tmp_path, steps=150, kills=2, seed=0, model=model)


@pytest.mark.slow
def test_ten_kills_of_the_command_at_any_moment(tmp_path: Path, pictures: Path) -> None:
    """Start-up, reading, training, saving, counting: a kill may hit any of them."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = [*TINY, "training.steps=3000", "training.checkpoint_every=20"]

    environment = {**os.environ, **forked.ENVIRONMENT}

    def command(run: Path) -> subprocess.Popen[bytes]:
        words = ["train", "image", "--data", str(pictures), "--out", str(run), "--quiet", *settings]
        return subprocess.Popen([sys.executable, "-m", "smalti", *words], env=environment)

    begun = time.monotonic()
    assert command(whole).wait() == 0
    longest = time.monotonic() - begun
    rng = random.Random(1)
    for _ in range(10):
        process = command(broken)
        time.sleep(rng.uniform(0, longest / 2))
        process.kill()
        process.wait()
    assert command(broken).wait() == 0
    assert_same_tensors(whole, broken)
    assert steps_logged(broken) == steps_logged(whole)


@pytest.mark.parametrize("model", ["vqvae", "adversarial", "objective"])
def test_two_ranks_agree_with_one(tmp_path: Path, model: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(one, 50, model)
    finish(two, 50, model, num_ranks=2)
    first, second = load_file(two / "rank0.safetensors"), load_file(two / "rank1.safetensors")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"ranks differ in {name}"
    single, double = tensors_of(one), tensors_of(two)
    assert single["best_step"] == double["best_step"] == 20
    if model != "adversarial":
        codebook = next(name for name in single if name.endswith("codebook.codes"))
        assert (single[codebook] - double[codebook]).abs().max() < 1e-5
    for name, tensor in single.items():
        if name.startswith("optimizer."):  # has no comparable scale
            continue
        torch.testing.assert_close(double[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    if model != "vqvae":  # all their metrics but one are means over the batch
        for ours, theirs in zip(metrics(one), metrics(two), strict=True):
            of_ranks = {name for name in ours if name.endswith("batch_usage")}
            ours, theirs = ({k: v for k, v in each.items() if k not in of_ranks} for each in (ours, theirs))
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_two_ranks_of_two_phases_are_killed_and_resume_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps = 150
    finish(whole, steps, "adversarial", num_ranks=2)
    process = start(broken, steps, "adversarial", num_ranks=2)
    wait_for_training(broken, process, before="")
    assert process.is_running(), "the run ended before it could be killed: take more steps"
    process.kill()
    assert newest_state(broken) < newest_state(whole), "the run was complete before it was killed"
    finish(broken, steps, "adversarial", num_ranks=2)
    assert_same_tensors(whole, broken)
    assert steps_logged(broken) == steps_logged(whole)
