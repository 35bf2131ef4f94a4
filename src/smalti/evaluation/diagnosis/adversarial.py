"""Faults of adversarial training, read from the metrics of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smalti.evaluation.diagnosis.finding import Finding

RUINED_DB = 2.0
"""Fall of the held-out PSNR, dB, since the discriminator's start. Sharpness usually costs less than 1.5."""
STANDS_STILL = 0.1
"""Difference of the mean logits of signals and reconstructions below which they are not told apart."""
CERTAIN = 0.05
"""Classification loss over that of a constant guess, below which all are told apart without doubt."""
GUESS = 2 * math.log(2)
"""Classification loss, cross-entropy, of a discriminator whose logits are all 0; a hinge loss is 2."""
LAST = 0.25
"""Share of the discriminator's logged steps, the last ones, that are averaged."""
FEWEST_LINES = 4
"""Number of logged steps of a discriminator below which nothing is said."""


def adversarial_faults(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield the faults of each discriminator of a run.

    Args:
        metrics: lines of the run's metrics.jsonl.
    """
    names = {key.removesuffix("/real_logits") for line in metrics for key in line if "/real_logits" in key}
    for name in sorted(names):
        lines = [line for line in metrics if f"{name}/real_logits" in line]
        if len(lines) >= FEWEST_LINES:
            last = lines[-max(1, round(LAST * len(lines))) :]
            yield from _of_discriminator(name, last)
            yield from _of_reconstruction(name, metrics, int(lines[0]["step"]))


def _of_discriminator(name: str, last: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """The discriminator does not learn, or leaves nothing to learn from."""
    key = f"objective.terms.{name}"
    gap = _mean(last, f"{name}/real_logits") - _mean(last, f"{name}/fake_logits")
    loss = _mean(last, f"{name}/classification")
    if gap < STANDS_STILL:
        yield Finding(
            "discriminator-stands-still",
            "warning",
            "",
            f"the discriminator {name} does not tell reconstructions from signals: their mean logits differ "
            f"by {gap:.3g}",
            f"raise {key}.learning_rate_scale or {key}.discriminator.width, lower {key}.r1, or train longer",
        )
    elif loss < CERTAIN * GUESS:
        yield Finding(
            "discriminator-wins",
            "warning",
            "",
            f"the discriminator {name} tells all reconstructions from signals (classification loss "
            f"{loss:.3g}), so that its gradient says little on how to improve them",
            f"lower {key}.learning_rate_scale, raise {key}.every, or set {key}.lecam=0.01 or {key}.r1=1",
        )


def _of_reconstruction(name: str, metrics: Sequence[Mapping[str, Any]], start: int) -> Iterator[Finding]:
    """Reconstructions have become much worse since the discriminator's start."""
    validated = [(int(line["step"]), float(line["psnr"])) for line in metrics if "psnr" in line]
    before, after = (
        [psnr for step, psnr in validated if step < start],
        [psnr for step, psnr in validated if step >= start],
    )
    if before and after and before[-1] - after[-1] > RUINED_DB:
        yield Finding(
            "ruined-reconstruction",
            "warning",
            "",
            f"the held-out PSNR fell from {before[-1]:.2f} dB, before the discriminator {name} began, to "
            f"{after[-1]:.2f} dB",
            f"lower objective.terms.{name}.weight, or raise objective.terms.{name}.start",
        )


def _mean(lines: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(float(line[key]) for line in lines) / len(lines)
