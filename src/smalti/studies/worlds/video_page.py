"""HTML page of rollouts: real clips, generated clips under different actions, and quality by frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from smalti.app.commands.rollout import DRAWN, GIVEN
from smalti.app.pages.page import gif, inline, write_page
from smalti.evaluation.figures import horizon_curves
from smalti.modalities.image.pixels import as_levels, picture_grid
from smalti.studies.worlds.video_figures import LENGTH, Windows
from smalti.tokenizer import Tokenizer

SHOWN = 3
"""Number of windows on the page."""
GIF_MS = 120
"""Duration of a frame in animated GIFs, slower than real time for readability."""


def write_video_page(
    tokenizer: Tokenizer,
    folder: Path,
    chosen: Windows,
    constant: dict[str, Float[Tensor, "b c f h w"]],
    followed: Float[Tensor, "b c f h w"],
    horizon: dict[str, dict[str, Any]],
    seed: int,
    guidance: float,
) -> None:
    """Write the page with strips and animated clips, and its figures.

    Args:
        tokenizer: the run.
        folder: folder of `index.html` and `figures`.
        chosen: held-out windows.
        constant: generated clips by constant action.
        followed: clips generated under the true actions.
        horizon: metrics by frame of each entry.
        seed: seed of the unconditional samples.
        guidance: weight of the guidance of the generated clips.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    at = torch.linspace(0, len(chosen.levels) - 1, SHOWN + 2).round().long()[1:-1].tolist()
    real = chosen.signal(tokenizer)
    shown = []
    for index, number in enumerate(at):
        rows = {"real": real[number], "generated, true actions": followed[number]}
        rows |= {f"generated, {name}": clips[number] for name, clips in constant.items()}
        strip = figures / f"rollout{index}.png"
        levels = [tokenizer.modality.to_stored(clip.unsqueeze(0))[0] for clip in rows.values()]
        picture_grid([as_levels(clip.transpose(0, 1)) for clip in levels], LENGTH, scale=1).save(strip)
        shown.append(
            {
                "strip": strip,
                "clips": [(name, _animated(clip)) for name, clip in zip(rows, levels, strict=True)],
            }
        )
    names = {"psnr": "PSNR to real frames, dB", "sharpness": "sharpness, real frames = 1"}
    curves = {
        title: {name: metrics[key] for name, metrics in horizon.items()} for key, title in names.items()
    }
    horizon_curves(curves, figures / "horizon.png")
    drawn = tokenizer.decode_signals(tokenizer.sample_codes(6, seed=seed))
    samples = [_animated(clip) for clip in tokenizer.modality.to_stored(drawn)]
    write_page(
        folder / "index.html",
        "video.html.j2",
        package="smalti.studies.worlds",
        title=tokenizer.recipe.name,
        given=GIVEN,
        drawn=DRAWN,
        guidance=f"{guidance:g}",
        reconstructions=tokenizer.directory / "figures" / "reconstructions.png",
        shown=[{"strip": inline(row["strip"]), "clips": row["clips"]} for row in shown],
        horizon=figures / "horizon.png",
        samples=samples,
    )


def _animated(levels: UInt8[Tensor, "c f h w"], scale: int = 2) -> str:
    """Return an enlarged animated GIF of a clip as a data URL."""
    pixels = levels.permute(1, 2, 3, 0).numpy().repeat(scale, 1).repeat(scale, 2)
    first, *others = (Image.fromarray(frame.squeeze()) for frame in pixels)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=GIF_MS, loop=0)
    return gif(buffer.getvalue())
