"""Quantizers that `smalti compare` knows by name: the settings nearest to a rate, and their loss weights.

One entry per quantizer: a function from a `Target` to the config whose nominal rate is nearest, and the names
of the loss weights that are searched.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from smalti.app.recipes.overrides import override
from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, QuantizerConfig
from smalti.core.suggestions import suggestion
from smalti.quantizers.bsq import BSQConfig
from smalti.quantizers.codebooks.base import CodebookConfig
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.codebooks.simvq import SimVQCodebookConfig
from smalti.quantizers.estimators.diveq import DiVeQConfig
from smalti.quantizers.estimators.nsvq import NSVQConfig
from smalti.quantizers.estimators.rotation import RotationConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.ibq import IBQConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.multi_scale import SCALES, MultiScaleVQConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.residual_fsq import ResidualFSQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import refusal

MOST_TABLE_BITS = 16
"""Bits of the largest codebook that is stored as a table of vectors."""
MOST_CODE_BITS = 22
"""Bits of the largest set of codes that priors, which are tables over all codes, are trained on."""
STAGE_BITS = 10
"""Bits of the largest set of codes of a stage of a residual quantizer: 1,024 codes, as in DAC."""
LOW_DIM = 8
"""Dimension of codes that are compared by direction, as in ViT-VQGAN and DAC."""
LEVELS = range(5, 9)
"""Numbers of levels per channel of FSQ; the paper recommends at least five."""
FEW_LEVELS = range(2, 9)
"""Numbers of levels per channel for rates that `LEVELS` cannot come near to."""
NEAR = 0.1
"""Distance in bits that counts as near."""
EMA, GRADIENT = EMACodebookConfig(), GradientCodebookConfig()


@final
@dataclass(frozen=True)
class Target:
    """Rate to come near to, and the settings of the recipe that a quantizer keeps.

    Attributes:
        bits: bits at each position of the grid.
        grid: code grid of one item.
        code_dim: dimension of a code vector.
        num_codebooks: codes at each position, for vector quantizers.
        steps: of the training, for schedules of a quantizer.
    """

    bits: float
    grid: tuple[int, ...] = (1,)
    code_dim: int = 64
    num_codebooks: int = 1
    steps: int = 10_000


@final
@dataclass(frozen=True)
class Entry:
    """A quantizer to compare.

    Attributes:
        nearest: config whose rate is nearest to a target.
        weights: keys of its loss weights, such as "commitment_weight", whose values are searched.
        is_fixed: True if the config does not depend on the target.
    """

    nearest: Callable[[Target], QuantizerConfig]
    weights: tuple[str, ...] = ()
    is_fixed: bool = False


def vector(
    target: Target,
    codebook: CodebookConfig = EMA,
    least_codebooks: int = 1,
    code_dim: int | None = None,
    **settings: Any,
) -> VectorQuantizerConfig:
    """VQ, with as many codebooks as the recipe, or as tables of 2^16 codes require."""
    num = max(least_codebooks, target.num_codebooks, math.ceil(target.bits / MOST_TABLE_BITS))
    # The latents of a position keep their number of channels if the codebooks can share them.
    shared = max(1, target.code_dim * target.num_codebooks // num)
    return VectorQuantizerConfig(
        num_codebooks=num,
        num_codes=nearest_num_codes(target.bits / num),
        code_dim=code_dim or shared,
        codebook=codebook,
        **settings,
    )


def residual(target: Target, **settings: Any) -> ResidualVQConfig:
    """Residual VQ with at least two stages of at most 2^10 codes."""
    num = num_stages(target.bits)
    return ResidualVQConfig(
        dim=target.code_dim, num_codes=nearest_num_codes(target.bits / num), num_quantizers=num, **settings
    )


def residual_scalar(target: Target) -> ResidualFSQConfig:
    """Residual FSQ with the stages of residual VQ."""
    num = num_stages(target.bits)
    return ResidualFSQConfig(levels=nearest_levels(target.bits / num), num_quantizers=num)


def index(target: Target) -> IBQConfig:
    """IBQ, which has one code at each position.

    Raises:
        InputError: for more bits than a table of vectors can have.
    """
    if target.bits > MOST_TABLE_BITS:
        raise InputError(
            f"expected at most {MOST_TABLE_BITS} bits at each position for ibq, received {target.bits:.4g}: "
            "use fewer bits, smaller strides, or the quantizers vq, product or residual"
        )
    return IBQConfig(dim=target.code_dim, num_codes=nearest_num_codes(target.bits))


def multi_scale(target: Target) -> MultiScaleVQConfig:
    """Multi-scale VQ with VAR's scales, in proportion to the grid; all scales share the bits of the item."""
    sizes = [tuple(max(1, round(side * scale / SCALES[-1])) for side in target.grid) for scale in SCALES]
    scales = tuple(dict.fromkeys(sizes))
    num = sum(math.prod(grid) for grid in scales)
    bits = target.bits * math.prod(target.grid) / num
    return MultiScaleVQConfig(dim=target.code_dim, num_codes=nearest_num_codes(bits), scales=scales)


def signs(target: Target, config: type[LFQConfig] | type[BSQConfig]) -> LFQConfig | BSQConfig:
    """LFQ or BSQ, whose entropy weight falls in the first fifth of a short training."""
    num = max(target.num_codebooks, math.ceil(target.bits / MOST_TABLE_BITS))
    steps = min(config().entropy_anneal_steps, target.steps // 5)
    bits = max(1, round(target.bits / num))
    return config(bits=bits, num_codebooks=num, entropy_anneal_steps=steps)


BETA = ("commitment_weight",)
ENTRIES: dict[str, Entry] = {
    "vq": Entry(vector, BETA),
    "vq-gradient": Entry(lambda target: vector(target, GRADIENT), BETA),
    "vq-l2": Entry(lambda target: vector(target, code_dim=LOW_DIM, normalize="codes"), BETA),
    "simvq": Entry(lambda target: vector(target, SimVQCodebookConfig()), BETA),
    "rotation": Entry(lambda target: vector(target, gradient=RotationConfig()), BETA),
    # These train the codes by the decoder's gradient, without losses of their own.
    "diveq": Entry(lambda target: vector(target, GRADIENT, gradient=DiVeQConfig())),
    "nsvq": Entry(lambda target: vector(target, GRADIENT, gradient=NSVQConfig())),
    "product": Entry(lambda target: vector(target, least_codebooks=2), BETA),
    "residual": Entry(residual, BETA),
    "residual-dac": Entry(
        lambda target: residual(target, codebook=GRADIENT, code_dim=LOW_DIM, normalize="search"), BETA
    ),
    "multi-scale": Entry(multi_scale, BETA),
    "fsq": Entry(lambda target: FSQConfig(levels=nearest_levels(target.bits))),
    "ifsq": Entry(lambda target: FSQConfig(levels=nearest_levels(target.bits), bound="sigmoid")),
    "residual-fsq": Entry(residual_scalar),
    "ibq": Entry(index, (*BETA, "entropy_weight")),
    "lfq": Entry(lambda target: signs(target, LFQConfig), (*BETA, "entropy_weight")),
    "bsq": Entry(lambda target: signs(target, BSQConfig), ("entropy_weight",)),
}


def num_stages(bits: float) -> int:
    """Number of stages of a residual quantizer: at least two, of at most `STAGE_BITS` bits."""
    return max(2, math.ceil(bits / STAGE_BITS))


def nearest_num_codes(bits: float) -> int:
    """Number of codes, at least two, whose logarithm is nearest to `bits`."""
    below = max(2, math.floor(2**bits))
    return min(below, below + 1, key=lambda num: abs(math.log2(num) - bits))


def nearest_levels(bits: float) -> tuple[int, ...]:
    """Numbers of levels, in descending order, with the product nearest to 2^bits.

    Of equally near ones, those with the fewest channels, and then with the most even numbers.

    Raises:
        InputError: for more bits than a prior over single codes can have.
    """
    if bits > MOST_CODE_BITS:
        raise InputError(
            f"expected at most {MOST_CODE_BITS} bits at each position for one scalar quantizer, received "
            f"{bits:.4g}: use fewer bits, smaller strides, or the quantizers vq, product or residual"
        )
    levels = _nearest(LEVELS, bits)
    return levels if abs(_bits(levels) - bits) <= NEAR else _nearest(FEW_LEVELS, bits)


def _nearest(choices: Sequence[int], bits: float) -> tuple[int, ...]:
    most = math.ceil(bits / math.log2(choices[0])) + 1
    candidates = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(reversed(choices), channels)
        for channels in range(1, most + 1)
    )

    def distance(levels: tuple[int, ...]) -> tuple[float, int, int]:
        return round(abs(_bits(levels) - bits), 9), len(levels), levels[0] - levels[-1]

    return min(candidates, key=distance)


def _bits(levels: Sequence[int]) -> float:
    return math.log2(math.prod(levels))


def entries_of(words: Sequence[str]) -> dict[str, Entry]:
    """Quantizers to compare, by name.

    Args:
        words: names of `ENTRIES` separated by commas, settings such as "kind=fsq levels=8,8,8", and JSON
            files with the settings of quantizers by name.

    Raises:
        InputError: for an unknown name, settings that do not fit the kind, a broken file, or a name that
            stands for two quantizers.
    """
    found: dict[str, Entry] = {}
    for word in words:
        if word.startswith("kind="):
            named = {name_of(word): fixed(_configured(word))}
        elif word.lower().endswith(".json"):
            named = {name: fixed(config) for name, config in _of_file(Path(word)).items()}
        else:
            named = {name: _known(name) for name in filter(None, word.split(","))}
        for name, entry in named.items():
            if name in found:
                raise InputError(f"expected each quantizer once, received {name!r} twice: leave one out")
            found[name] = entry
    if not found:
        raise InputError(f"expected quantizers to compare, received none: name some of {', '.join(ENTRIES)}")
    return found


def fixed(config: QuantizerConfig) -> Entry:
    """Entry of a config; its fields that end in `_weight` are searched, unless they are 0."""
    weights = (name for name in type(config).model_fields if name.endswith("_weight"))
    return Entry(lambda target: config, tuple(name for name in weights if getattr(config, name)), True)


def name_of(settings: str) -> str:
    """Name of a quantizer given by its settings, for tables and folders."""
    return re.sub(r"[^\w.=,+-]+", "-", settings.removeprefix("kind=")).strip("-")


def _known(name: str) -> Entry:
    if name not in ENTRIES:
        raise InputError(
            f"expected a quantizer to compare, received {name!r}: {suggestion(name, ENTRIES)}, or give its "
            'settings, as in "kind=fsq levels=8,8,8"'
        )
    return ENTRIES[name]


def _configured(settings: str) -> QuantizerConfig:
    kind, *others = settings.split()
    return override(QUANTIZERS.get(kind.removeprefix("kind="))(), others)


def _of_file(path: Path) -> dict[str, QuantizerConfig]:
    try:
        values: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): check the file") from None
    if not isinstance(values, dict):
        raise InputError(
            f"expected an object with the settings of each quantizer by name in {path}, received a "
            f'{type(values).__name__}: write {{"mine": {{"kind": "fsq", "levels": [8, 8, 8]}}}}'
        )
    found = {}
    for name, settings in values.items():
        if not re.fullmatch(r"\w[\w.=,+-]*", name):
            raise InputError(
                f"expected names of letters, digits, dots and dashes in {path}, received {name!r}: rename it"
            )
        try:
            found[name] = QUANTIZERS.parse(settings)
        except ValidationError as error:
            raise refusal(error, settings, f"the quantizer {name} in {path}: ") from None
    return found
