"""Rules that name the faults of a codebook, with figures, and the settings that mend them.

The limits lie between sound runs and runs with a planted fault: letters of 16x16 and 32x32 pixels, and
Fashion-MNIST, with codebooks of every update rule, residual VQ, FSQ, LFQ, BSQ and IBQ. Each limit states the
figures that it separates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from smalti.core.config import Configuration
from smalti.evaluation.diagnosis.adversarial import adversarial_faults
from smalti.evaluation.diagnosis.finding import SEVERITIES, Finding
from smalti.evaluation.diagnosis.measurements import Codebook, Measurements

COLLAPSED = 0.9
"""Share of the positions of one code. Sound runs: up to 0.48, 0.6 with two codes; collapsed runs: above 0.99.
A background of one colour may take more than half of the positions."""
OUTGROWN = 3.0
"""Length of latents over that of codes. Sound runs: up to 1.4; without commitment: above 15."""
DEAD, DEAD_COMBINATIONS = 0.5, 0.75
"""Share of unused codes, of a codebook with vectors and of combinations of levels or bits. Sound runs: up to
0.03 (EMA), 0.5 (gradient) and 0.61 (FSQ); gradient codebooks of 256 and 512 codes: above 0.7; LFQ stuck in a
few signs: above 0.75."""
COUNTED = 5
"""Least positions per code for a statement on unused codes: with even use, chance leaves out e^-5 of them."""
STIFF = 3.0
"""Gradient of the commitment loss over that of the distortion, for a latent at a distance of one standard
deviation of the latents from its code. Sound runs: up to 1.4; with a commitment weight of 1,000: above 9."""
DOMINANT = {"commitment_weight": 2.0, "entropy_weight": 30.0}
"""Gradient of a term over that of the distortion, mean lengths over positions. Sound runs: up to 0.6 and 17
(entropies at a low temperature have large gradients at a few positions); weights that are 1,000 times as
large: above 2.9, unless the latents already stick to the codes, and 160."""
LAG, LAG_OF_VARIANCE = 1 / 3, 0.03
"""Share of the quantization error, and of the latents' variance, that moving the codes to the means of their
latents would remove. Sound runs: up to 0.46 and 0.012 (EMA after 60 steps) or 0.19 and 0.022 (gradient); with
a decay of 0.9999: above 0.4 and 0.17; gradient codebooks with dead codes: above 0.41 and 0.06."""
SUPPORT, MEMORIZED = 39, 1.5
"""Positions of the training set per code, and held-out over training error. The first is the smallest number
of points per centroid that FAISS accepts without a warning. Sound runs: errors up to 1.4 times as large; 256
and 512 codes for 32 pictures: above 1.7."""
UNSUPPORTED = 10
"""Positions of the training set per code below which no comparison with held-out items is needed."""
EVEN, COARSE = 0.85, 0.15
"""Perplexity over the number of codes, and quantization error over the latents' variance. Runs with two
codes: above 0.93 and 0.3; sound runs with even use (up to 0.89) have errors up to 0.05."""
STILL_FALLING = 0.1
"""Part of the whole fall of the training loss that the last fifth of the logged steps brought."""


Rule = Callable[[Codebook], Finding | None]


def find_faults(measurements: Measurements, by_own_loss: bool = True) -> list[Finding]:
    """Return the faults of a run, worst first; empty if nothing is wrong.

    Args:
        measurements: of the run.
        by_own_loss: whether the model was trained by its own loss, whose terms are then compared.
    """
    return sorted(_all(measurements, by_own_loss), key=lambda each: SEVERITIES.index(each.severity))


def _all(measurements: Measurements, by_own_loss: bool) -> Iterator[Finding]:
    latents = [codebook.latents for codebook in measurements.codebooks]
    if not (math.isfinite(measurements.distortion) and all(bool(each.isfinite().all()) for each in latents)):
        yield Finding(
            "diverged",
            "error",
            "",
            "the latents or the loss are not finite, so that nothing else can be measured",
            "lower training.learning_rate, or set training.clip_norm=1, and train again",
        )
        return
    for codebook in measurements.codebooks:
        for rule in RULES if by_own_loss else [each for each in RULES if each not in BALANCE]:
            finding = rule(codebook)
            if finding is not None:
                yield finding
    yield from adversarial_faults(measurements.metrics)
    unfinished = still_falling(measurements.metrics)
    if unfinished is not None:
        yield unfinished


def collapse(codebook: Codebook) -> Finding | None:
    """One code takes nearly all positions."""
    if not _is_collapsed(codebook):
        return None
    return Finding(
        "collapse",
        "error",
        codebook.name,
        f"one code takes {codebook.use.top_share:.1%} of the positions: the codes say almost nothing about "
        "the signal",
        _joined(
            _raised(codebook, "entropy_weight", 0.1),
            _revival(codebook),
            _set(codebook, "commitment_weight", 0.25) if _value(codebook, "commitment_weight") > 1 else "",
            "lower training.learning_rate",
        ),
    )


def outgrown(codebook: Codebook) -> Finding | None:
    """The latents are much longer than the codes that replace them."""
    geometry = codebook.geometry
    if geometry is None or _is_collapsed(codebook):
        return None
    if not geometry.latent_length > OUTGROWN * geometry.code_length:
        return None
    return Finding(
        "latents-outgrow-codes",
        "error",
        codebook.name,
        f"the latents outgrow the codes: their length is {geometry.latent_length:.3g}, that of their codes "
        f"{geometry.code_length:.3g}",
        _joined(
            _raised(codebook, "commitment_weight", 0.25),
            "" if _averages(codebook) else _following(codebook),
            "lower training.learning_rate",
        ),
    )


def out_of_balance(weight: str, noun: str) -> Rule:
    """Return the rule for a term of the quantizer's loss whose gradient dominates that of the distortion.

    Args:
        weight: the term's setting.
        noun: the term's name.
    """

    def rule(codebook: Codebook) -> Finding | None:
        own, distortion = codebook.gradients.get(weight, 0.0), codebook.gradients["distortion"]
        if not own or not distortion:
            return None
        ratio, limit = own / distortion, DOMINANT[weight]
        text = f"the gradient of the {noun} at the latents is {ratio:.3g} times that of the reconstruction"
        if weight == "commitment_weight" and codebook.geometry is not None and ratio <= limit:
            # Latents that already stick to their codes have small errors, and with them small gradients.
            ratio, limit = ratio / max(codebook.geometry.relative_error, 1e-12) ** 0.5, STIFF
            text = (
                f"the {noun} holds the latents at their codes: a standard deviation away, its gradient would "
                f"be {ratio:.3g} times that of the reconstruction"
            )
        if ratio <= limit:
            return None
        return Finding(
            f"{noun.partition(' ')[0]}-out-of-balance",
            "error",
            codebook.name,
            text,
            _set(codebook, weight, _value(codebook, weight) / ratio),
        )

    return rule


def too_many(codebook: Codebook) -> Finding | None:
    """The training data cannot support so many codes."""
    if codebook.num_tokens is None:
        return None
    each = codebook.num_tokens / codebook.num_codes
    geometry = codebook.geometry
    held_out = None if geometry is None else geometry.held_out_error
    times = None if geometry is None or held_out is None else held_out / max(geometry.error, 1e-30)
    is_memorized = times is not None and times > MEMORIZED
    if not (each < UNSUPPORTED or (each < SUPPORT and is_memorized)):
        return None
    text = f"the training data has only {each:.1f} positions per code ({codebook.num_tokens:,} positions)"
    if times is not None and is_memorized:
        text += f", and the quantization error is {times:.1f} times as large on held-out items"
    advice = _fewer(codebook, max(2, codebook.num_tokens // SUPPORT))
    return Finding("too-many-codes", "error", codebook.name, text, f"{advice}, or train on more data")


def dead_codes(codebook: Codebook) -> Finding | None:
    """Most codes do not occur."""
    dead = 1 - codebook.use.usage
    limit = DEAD if "num_codes" in _fields(codebook.config) else DEAD_COMBINATIONS
    if dead <= limit or codebook.use.num_tokens < COUNTED * codebook.num_codes or _is_collapsed(codebook):
        return None
    fewer = _fewer(codebook, max(2, round(2 * codebook.use.perplexity)))
    return Finding(
        "dead-codes",
        "error",
        codebook.name,
        f"{dead:.0%} of the {codebook.num_codes:,} codes are never used; the perplexity is "
        f"{codebook.use.perplexity:.1f}",
        _joined(_raised(codebook, "entropy_weight", 0.1), _revival(codebook), fewer),
    )


def lagging(codebook: Codebook) -> Finding | None:
    """The codes are not where their latents are."""
    geometry = codebook.geometry
    if geometry is None or _is_collapsed(codebook) or outgrown(codebook) is not None:
        return None
    if geometry.lag < LAG or geometry.lag * geometry.relative_error < LAG_OF_VARIANCE:
        return None
    return Finding(
        "codes-lag-behind",
        "warning",
        codebook.name,
        f"the codes lag behind their latents: moving each code to the mean of its latents would remove "
        f"{geometry.lag:.0%} of the quantization error",
        _joined(_following(codebook), "train for more steps, or with a larger training.learning_rate"),
    )


def too_few(codebook: Codebook) -> Finding | None:
    """All codes are in even use, and much of the latents is lost."""
    geometry = codebook.geometry
    if geometry is None or codebook.use.perplexity < EVEN * codebook.num_codes:
        return None
    if geometry.relative_error < COARSE or geometry.lag >= LAG or _is_collapsed(codebook):
        return None
    return Finding(
        "too-few-codes",
        "warning",
        codebook.name,
        f"all {codebook.num_codes:,} codes are in even use (perplexity {codebook.use.perplexity:.1f}), and "
        f"{geometry.relative_error:.0%} of the variance of the latents is lost",
        f"use more codes ({_size(codebook, 4 * codebook.num_codes)}), several codes per position, or a finer "
        "grid (smaller model.encoder.strides)",
    )


def still_falling(metrics: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The training stopped while its loss fell."""
    # With an objective, the model's is one of several phases.
    found = [line.get("loss", line.get("model/loss")) for line in metrics if line.get("split") == "train"]
    losses = [float(loss) for loss in found if loss is not None]
    fifth = len(losses) // 5
    if fifth < 2:
        return None
    begin = losses[0]
    before, last = (sum(part) / fifth for part in (losses[-2 * fifth : -fifth], losses[-fifth:]))
    if not before - last > STILL_FALLING * (begin - last) > 0:
        return None
    return Finding(
        "still-falling",
        "note",
        "",
        f"the training loss still fell when the training stopped, by {before - last:.3g} in the last fifth "
        "of the steps",
        "train on with a larger training.steps",
    )


BALANCE: tuple[Rule, ...] = (
    out_of_balance("commitment_weight", "commitment loss"),
    out_of_balance("entropy_weight", "entropy loss"),
)
RULES: tuple[Rule, ...] = (
    collapse,
    outgrown,
    *BALANCE,
    too_many,
    dead_codes,
    lagging,
    too_few,
)
"""In the order in which findings of the same severity are reported: causes before their effects."""


def _is_collapsed(codebook: Codebook) -> bool:
    return codebook.use.top_share >= COLLAPSED


def _fields(config: object) -> Mapping[str, Any]:
    return type(config).model_fields if isinstance(config, Configuration) else {}


def _value(codebook: Codebook, field: str) -> float:
    """Value of a setting of the quantizer; 0 if it has no such setting."""
    return float(getattr(codebook.config, field)) if field in _fields(codebook.config) else 0.0


def _set(codebook: Codebook, field: str, value: float) -> str:
    """Advise a value for a setting; empty if the quantizer has no such setting."""
    if field not in _fields(codebook.config):
        return ""
    return f"set model.quantizer.{field}={float(f'{value:.2g}'):g} (now {_value(codebook, field):g})"


def _raised(codebook: Codebook, field: str, least: float) -> str:
    return _set(codebook, field, max(least, 4 * _value(codebook, field)))


def _joined(*advice: str) -> str:
    return "; or ".join(each for each in advice if each)


def _averages(codebook: Codebook) -> bool:
    """Return True if the codes are moving averages with revival of dead codes."""
    return "revive_after" in _fields(getattr(codebook.config, "codebook", None))


def _revival(codebook: Codebook) -> str:
    if _averages(codebook):
        now = float(codebook.config.codebook.revive_after)
        sooner = 20.0 if now == 0 or now > 20 else now / 2
        return f"revive dead codes sooner: model.quantizer.codebook.revive_after={sooner:g}"
    if "codebook" in _fields(codebook.config):
        return "start the codes from the data and revive dead ones: model.quantizer.codebook.kind=ema"
    return ""


def _following(codebook: Codebook) -> str:
    """Advise settings with which codes follow their latents; empty if they are set already."""
    if "codebook" not in _fields(codebook.config):
        return ""
    if not _averages(codebook):
        return "let the codes follow: model.quantizer.codebook.kind=ema"
    inner = codebook.config.codebook
    return _joined(
        f"set model.quantizer.codebook.decay=0.99 (now {inner.decay:g})" if inner.decay > 0.99 else "",
        "" if inner.data_init else "set model.quantizer.codebook.data_init=true",
    )


def _fewer(codebook: Codebook, num: int) -> str:
    """Advise about `num` codes, but at most half of what the codebook has."""
    return f"use fewer codes ({_size(codebook, min(num, codebook.num_codes // 2))})"


def _size(codebook: Codebook, num: int) -> str:
    """Setting for about this number of codes, in powers of two."""
    bits = max(1, (num - 1).bit_length())
    for field, text in {
        "num_codes": f"model.quantizer.num_codes={2**bits}",
        "bits": f"model.quantizer.bits={bits}",
        "levels": f"model.quantizer.levels, whose product should be about {num:,}",
    }.items():
        if field in _fields(codebook.config):
            return text
    return f"about {num:,}"
