"""`smalti play`: what each action does in a learned world, from the same frame on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from smalti.app.commands.rollout import GIVEN, chosen_context
from smalti.app.console import amount, counting, note
from smalti.app.files import prior_fingerprint, stamp
from smalti.app.outputs import OutputFolder
from smalti.core.errors import InputError
from smalti.modalities.image.pixels import picture_grid
from smalti.rollouts import Rollouts
from smalti.stored_priors import LEARNED
from smalti.tokenizer import load

STRIP = "actions.png"
TEXT_SIZE, MARGIN = 16, 8
"""Height of the names beside the rows of the strip, and the space around them, pixels."""


def play(
    run: str,
    clip: str,
    out: Path,
    frames: int = 16,
    given: int = GIVEN,
    start: int | None = None,
    item: int = 0,
    split: str | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    prior: str = LEARNED,
    guidance: float = 1.0,
    quiet: bool = False,
) -> int:
    """Write one clip per action, as MP4 and GIF, in which that action is taken at every frame.

    Args:
        run: a run over clips with actions, and a learned prior.
        clip: a file, or a source of several clips.
        out: output directory.
        frames: number of frames to draw for each action.
        given: number of context frames.
        start: index of the first context frame; None uses the clip's last frames.
        item: index of the clip in the source.
        split: split of the source.
        temperature, seed, prior, guidance: sampling settings.
        quiet: hide progress.

    Returns:
        The number of actions.

    Raises:
        InputError: for a user error.
    """
    if frames < 1 or given < 1:
        raise InputError(f"expected --frames and --given of at least 1, received {frames} and {given}")
    tokenizer = load(run)
    names = tokenizer.actions
    rollouts = Rollouts(tokenizer, max(1, len(names)), prior, temperature, guidance)
    chosen, levels, begin = chosen_context(clip, tokenizer.modality, split, item, given, start)
    context = np.ascontiguousarray(levels[:, begin : begin + given])
    folder = OutputFolder(
        out,
        "play",
        model=tokenizer.fingerprint,
        prior=prior_fingerprint(tokenizer, prior),
        clip=stamp([chosen]),
        frames=frames,
        given=given,
        begin=begin,
        temperature=temperature,
        seed=seed,
        **({} if guidance == 1 else {"guidance": guidance}),
    )
    folder.check([out / STRIP, *(out / f"{name}{ending}" for name in names for ending in (".mp4", ".gif"))])
    rows, generator = range(len(names)), torch.Generator().manual_seed(seed)
    rollouts.begin(rows, context, _known(chosen.actions, names, levels.shape[1], begin, given))
    drawn = [rollouts.frames(rows)]
    with counting("Frames", quiet) as count:
        for done in range(1, frames + 1):
            rollouts.advance(rows, rows, generator)
            drawn.append(rollouts.frames(rows))
            count(done, frames)
    clips = np.stack(drawn, 1)
    for name, pixels in zip(names, clips, strict=True):
        signal = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
        for ending in (".mp4", ".gif"):
            folder.save(out / f"{name}{ending}", partial(tokenizer.modality.save, signal))
    folder.save(out / STRIP, _strip(names, clips).save)
    note(f"{out} holds a clip for each of {amount(len(names), 'actions')}; {STRIP} shows all frames.", quiet)
    return len(names)


def _known(
    actions: tuple[str | None, ...] | None, names: tuple[str, ...], length: int, begin: int, given: int
) -> list[int]:
    """Return the ids of the actions at all context frames but the last; -1 for unknown ones."""
    if actions is None or len(actions) != length:
        return []
    return [names.index(name) if name in names else -1 for name in actions[begin : begin + given - 1]]


def _strip(names: tuple[str, ...], clips: np.ndarray) -> Image.Image:
    """Draw one row of frames per action, with its name on the left."""
    grid = picture_grid([np.moveaxis(clip, -1, 1) for clip in clips], clips.shape[1]).convert("RGB")
    font = ImageFont.load_default(TEXT_SIZE)
    left = round(max(font.getlength(name) for name in names)) + 2 * MARGIN
    canvas = Image.new("RGB", (left + grid.width, grid.height), "white")
    canvas.paste(grid, (left, 0))
    height = grid.height / len(names)
    for row, name in enumerate(names):
        place = (left - MARGIN, round((row + 0.5) * height))
        ImageDraw.Draw(canvas).text(place, name, fill="black", font=font, anchor="rm")
    return canvas
