"""Faults of adversarial training are read from metrics; a sound training has none."""

from __future__ import annotations

from typing import Any

import pytest

from smalti.evaluation.diagnosis.adversarial import adversarial_faults


def metrics(
    real: float = 1.0, fake: float = -0.5, loss: float = 0.8, psnr: float = 25.0
) -> list[dict[str, Any]]:
    """A discriminator `gan` joins in at step 50; the PSNR is 26 dB until then, and falls to `psnr`."""
    lines: list[dict[str, Any]] = []
    for step in range(10, 101, 10):
        line: dict[str, Any] = {"step": step, "split": "train", "model/loss": 1.0}
        if step >= 50:
            line |= {"gan/real_logits": real, "gan/fake_logits": fake, "gan/classification": loss}
        lines.append(line)
        lines.append({"step": step, "split": "validation", "psnr": 26.0 if step < 50 else psnr})
    return lines


@pytest.mark.parametrize(
    ("given", "expected", "advice"),
    [
        ({}, None, ""),
        ({"real": 0.03, "fake": 0.0, "loss": 1.99}, "discriminator-stands-still", "learning_rate_scale"),
        ({"real": 9.0, "fake": -9.0, "loss": 0.01}, "discriminator-wins", "objective.terms.gan.lecam"),
        ({"psnr": 23.0}, "ruined-reconstruction", "lower objective.terms.gan.weight"),
    ],
)
def test_each_fault_is_named(given: dict[str, float], expected: str | None, advice: str) -> None:
    found = list(adversarial_faults(metrics(**given)))
    assert [each.name for each in found] == ([] if expected is None else [expected])
    assert all(advice in each.advice for each in found)


def test_nothing_is_said_of_runs_without_discriminators_or_of_few_steps() -> None:
    plain = [{"step": 10, "split": "train", "loss": 1.0}, {"step": 10, "split": "validation", "psnr": 2.0}]
    assert not list(adversarial_faults(plain))
    few = [line for line in metrics(real=0.0, fake=0.0, loss=2.0) if line["step"] <= 70]
    assert not list(adversarial_faults(few))
