"""`smalti rollout`: continue a clip in code space, conditioned on given actions."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from smalti.app.console import amount, counting, note
from smalti.app.data import open_data, pick_split
from smalti.app.files import prior_fingerprint, stamp, write_table
from smalti.app.outputs import OutputFolder
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.actions import parse_actions
from smalti.data.sources import Item, UnreadableItem
from smalti.modalities.image.pixels import as_levels, picture_grid
from smalti.modalities.video.modality import VideoModality
from smalti.stored_priors import LEARNED
from smalti.tokenizer import load

GIVEN = 6
"""Default number of context frames, as in van den Oord et al. 2017, section 4.4."""
DRAWN = 10
"""Default number of generated frames without actions."""


def rollout(
    run: str,
    clip: str,
    out: Path,
    actions: str | None = None,
    frames: int | None = None,
    num: int = 4,
    given: int = GIVEN,
    start: int | None = None,
    item: int = 0,
    split: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    prior: str = LEARNED,
    guidance: float = 1.0,
    quiet: bool = False,
) -> int:
    """Write continuations of a clip as MP4 and GIF, their codes, and a strip of all their frames.

    Args:
        run: a run over clips with a learned prior.
        clip: a file, or a source of several clips.
        out: output directory.
        actions: actions such as "forward*10 left*3"; None generates without actions.
        frames: number of frames to generate without actions.
        num: number of continuations.
        given: number of context frames.
        start: index of the first context frame; None uses the clip's last frames.
        item: index of the clip in the source.
        split: split of the source.
        temperature, top_k, top_p, seed, prior, guidance: sampling settings.
        quiet: hide progress.

    The same command completes a stopped one.

    Returns:
        The number of continuations.

    Raises:
        InputError: for a user error.
    """
    per_frame = _actions_per_frame(actions, frames)
    if num < 1 or given < 1:
        raise InputError(f"expected --num and --given of at least 1, received {num} and {given}")
    tokenizer = load(run)
    modality = tokenizer.modality
    if not isinstance(modality, VideoModality) or tokenizer.autoencoder.stride != 1:
        raise InputError(
            f"expected a run over clips with one code grid per frame, received {run} over "
            f"{modality.plural_name}: train one with smalti train walks"
        )
    chosen, frames_of_clip, begin = chosen_context(clip, modality, split, item, given, start)
    levels = torch.from_numpy(frames_of_clip)
    length = levels.shape[1]
    before = None
    # Without actions for the new frames, the actions of the context frames are ignored too.
    if any(per_frame) and chosen.actions is not None and len(chosen.actions) == length:
        known = (name if name in tokenizer.actions else None for name in chosen.actions)
        before = list(known)[begin : begin + given - 1]
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    settings |= {} if guidance == 1 else {"guidance": guidance}
    folder = OutputFolder(
        out,
        "rollout",
        model=tokenizer.fingerprint,
        prior=prior_fingerprint(tokenizer, prior),
        clip=stamp([chosen]),
        actions=per_frame,
        num=num,
        given=given,
        begin=begin,
        **settings,
    )
    names = [f"{index:05d}" for index in range(num)]
    table, strip = out / "codes.parquet", out / "strip.png"
    folder.check([table, strip, *(out / f"{name}{ending}" for name in names for ending in (".mp4", ".gif"))])
    (codes,) = tokenizer.encode(levels[:, begin : begin + given])
    with counting("Sampling", quiet) as count:
        drawn = tokenizer.rollout(codes, per_frame, before, num, prior=prior, progress=count, **settings)
    clips = modality.to_stored(tokenizer.decode_signals(drawn))
    for name, pixels in zip(names, clips, strict=True):
        for ending in (".mp4", ".gif"):
            folder.save(out / f"{name}{ending}", partial(modality.save, pixels))
    real = torch.full_like(clips[0], 255)
    seen = levels[:, begin : begin + clips.shape[2]]
    real[:, : seen.shape[1]] = seen
    strips = [as_levels(one.transpose(0, 1)) for one in (real, *clips)]
    folder.save(strip, picture_grid(strips, clips.shape[2]).save)
    write_table(folder, table, tokenizer, [f"{name}.mp4" for name in names], drawn)
    note(
        f"{out} holds {amount(num, 'continuations')} of {chosen.name} by {amount(len(per_frame), 'frames')}, "
        "as MP4 and GIF; strip.png shows the original clip above them.",
        quiet,
    )
    return num


def _actions_per_frame(actions: str | None, frames: int | None) -> tuple[str | None, ...]:
    """Return the action of each generated frame, None for no action."""
    if actions is None:
        count = DRAWN if frames is None else frames
        if count < 1:
            raise InputError(f"expected --frames of at least 1, received {count}")
        return (None,) * count
    if frames is not None:
        raise InputError("expected --actions or --frames, received both: leave one of them out")
    return parse_actions(actions)


def chosen_context(
    clip: str, modality: Modality, split: str | None, number: int, given: int, start: int | None
) -> tuple[Item, UInt8[np.ndarray, "c f h w"], int]:
    """Read one clip of a file or source.

    Args:
        clip: the file or source.
        modality: reads clips.
        split: split of the source.
        number: index of the clip.
        given: number of context frames.
        start: index of the first one; None for the clip's last frames.

    Returns:
        The item, all its frames, and the index of the first context frame.

    Raises:
        InputError: if there is no such clip, it cannot be read, or it has too few frames.
    """
    chosen = _item(clip, modality, split, number)
    try:
        frames = modality.decode(chosen.content)
    except UnreadableItem as error:
        raise InputError(f"{chosen.name} cannot be read as a clip: {error}; check the file") from error
    length = frames.shape[1]
    begin = length - given if start is None else start
    if not 0 <= begin <= length - given:
        raise InputError(
            f"expected {given} context frames, {chosen.name} has {length}: lower --given or --start"
        )
    return chosen, frames, begin


def _item(clip: str, modality: Modality, split: str | None, number: int) -> Item:
    source = open_data(clip, modality)
    name = pick_split(source, split, "test", "validation")
    found = next(itertools.islice(source.items(name), max(number, 0), None), None)
    if found is None or number < 0:
        raise InputError(
            f"expected --item from 0 to {source.count(name) - 1} for {source.description}, received {number}"
        )
    return found
