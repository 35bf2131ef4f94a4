"""Draws from priors in batches: whole code grids, and continuations of a clip under actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.arguments import BATCH, check_count
from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.precision import full_precision
from smalti.core.priors import Prior, TrainablePrior
from smalti.core.signals import SignalSpec
from smalti.core.suggestions import suggestion
from smalti.priors.draws import Progress, draw_in_batches


def drawn_codes(
    prior: Prior,
    num: int,
    conditions: Conditions,
    settings: tuple[float, int | None, float | None],
    guidance: float,
    grid: Sequence[int] | None,
    batch_size: int,
    seed: int | None,
    progress: Progress | None,
) -> Int64[Tensor, "b g *grid"]:
    """Draw code grids in batches, on the CPU; see `Tokenizer.sample_codes` for the other arguments.

    Args:
        prior: over the codes.
        num: number of grids.
        conditions: of each grid, on the device of the prior.
        settings: temperature, top_k and top_p.
        guidance: weight of classifier-free guidance; 1 for none.
        grid: size to draw; None for the prior's own.

    Raises:
        InputError: if the prior draws grids of another size only.
    """

    @full_precision(prior)
    def draw(items: slice, generator: torch.Generator, progress: Progress | None) -> Tensor:
        own, size = conditions.part(items), items.stop - items.start
        guided: dict[str, Any] = {} if guidance == 1 else {"guidance": guidance}
        return prior.sample_grids(size, own, *settings, generator, progress, grid, **guided)

    return draw_in_batches(draw, num, batch_size, seed, progress)


def grid_of_length(length: int | None, modality: Modality, grid: Sequence[int]) -> tuple[int, ...] | None:
    """Grid to draw for a length along the time axis; None for None.

    Args:
        length: in codes.
        modality: of the signals.
        grid: of the model's training.

    Raises:
        InputError: if the signals do not differ in length, or it is out of range.
    """
    if length is None:
        return None
    length = check_count("length", length)
    if not (modality.is_ragged and modality.spec.has_time):
        raise InputError(
            f"expected no length for {modality.plural_name} of one size, received {length}: leave it out"
        )
    return (length, *grid[1:])


def continued(
    prior: TrainablePrior,
    signal: SignalSpec,
    names: Sequence[str],
    given: Int64[Tensor, "_ g given *grid"],
    actions: Sequence[str | None],
    before: Sequence[str | None] | None,
    num: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    batch_size: int = BATCH,
    progress: Progress | None = None,
    guidance: float = 1.0,
) -> Int64[Tensor, "b g all *grid"]:
    """Draw one code frame per action after given frames; see `Tokenizer.rollout` for the other arguments.

    Args:
        prior: over the codes of clips, which continues given ones.
        signal: what the codes are of.
        names: names of the actions, by id.
        given: on the device of the prior.

    Raises:
        InputError: if the codes are not of one clip, the prior cannot continue them, or the actions do not
            fit or are unknown.
    """
    for name, value in (("actions", actions), ("before", before or ())):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(
                f"expected {name} as a list of names, received {value!r}: pass one name or None per frame"
            )
    num = check_count("num", num)
    frames = given.shape[2] if given.ndim == 5 else 0
    if not signal.is_clip or frames < 1 or len(given) != 1 or not actions:
        raise InputError(
            "expected codes (1, G, frames, rows, columns) of a clip and at least one action, received "
            f"{tuple(given.shape)} and {len(actions)}: pass codes that encode returned for a clip"
        )
    if before is not None and len(before) != frames - 1:
        raise InputError(
            f"expected {frames - 1} actions before the last of {frames} frames, received {len(before)}: "
            "pass one action per given frame except the last"
        )
    done = [*(before or [None] * (frames - 1)), *actions, None]
    reads_actions = "action" in readable_conditions(prior)
    ids = [-1 if name is None else _action(name, names, reads_actions) for name in done]
    grid = (len(done), *prior.grid[1:])

    @full_precision(prior)
    def draw(items: slice, **settings: Any) -> Tensor:
        size = items.stop - items.start
        each = torch.tensor([ids] * size, device=given.device)
        conditions = Conditions(action=each if reads_actions else None)
        begun = given.repeat(size, 1, 1, 1, 1)
        settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        # A prior without guidance need not know the setting.
        settings |= {} if guidance == 1 else {"guidance": guidance}
        return prior.sample_grids(size, conditions, grid=grid, given=begun, **settings)

    return draw_in_batches(draw, num, batch_size, seed, progress)


def _action(name: str, names: Sequence[str], is_read: bool) -> int:
    if not is_read or name not in names:
        hint = suggestion(name, names, "the actions are") if is_read else "this prior does not read actions"
        raise InputError(f"expected an action of this model, received {name!r}: {hint}")
    return names.index(name)
