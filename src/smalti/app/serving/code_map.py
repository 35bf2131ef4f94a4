"""The map of an item's codes: hover to see what a code stands for, click to choose it, paint to change it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr
from jaxtyping import Int64
from torch import Tensor

from smalti.app.console import amount
from smalti.app.serving.atlas import Atlas

HOLE = -1
"""Stands for a code that is to be drawn."""


def code_map(elem_id: str) -> gr.HTML:
    """Return the component, whose value is made by `planes`.

    Its event `select` carries `place` and `code`, its event `input` carries `edits`: pairs of place and code.
    A place is an index into the codes `(G, *grid)` of one item, flattened.
    """
    template, style, script = (page_file(f"code_map.{kind}") for kind in ("html", "css", "js"))
    return gr.HTML(
        value=None,
        html_template=template,
        css_template=style,
        js_on_load=script,
        apply_default_css=False,
        elem_id=elem_id,
    )


def page_file(name: str) -> str:
    """Read a file of the page."""
    return files("smalti.app.serving").joinpath(name).read_text(encoding="utf-8")


def planes(
    codes: Int64[Tensor, "1 g *grid"],
    num_codes: int,
    atlas: Atlas | None = None,
    is_editable: bool = True,
    has_holes: bool = False,
    part: str = "codebook",
) -> dict[str, Any]:
    """Describe codes for a `code_map`: one plane for each codebook, and for each frame of a clip.

    Args:
        codes: of one item; `HOLE` where there is none.
        num_codes: number K of codes in each codebook.
        atlas: what the codes stand for.
        is_editable: whether codes can be painted.
        has_holes: whether codes can be removed.
        part: what the codes of a position are called: codebooks, or parts of the codes of several grids.
    """
    num_codebooks, *grid = codes.shape[1:]
    is_band = len(grid) == 1
    if is_band:  # one line for each codebook
        rows, titles = num_codebooks, [f"{amount(num_codebooks, 'codes')} at each of {grid[0]} steps of time"]
    else:
        rows = grid[-2]
        frames = range(1, grid[0] + 1) if len(grid) == 3 else [0]
        books = range(1, num_codebooks + 1)
        titles = [_title(part, book if num_codebooks > 1 else 0, frame) for book in books for frame in frames]
    return {
        "codes": codes[0].flatten().tolist(),
        "rows": rows,
        "cols": grid[-1],
        "titles": titles,
        "is_band": is_band,
        "num_codes": num_codes,
        "num_codebooks": num_codebooks,
        "is_editable": is_editable,
        "has_holes": has_holes,
        "tiles": atlas.sprite if atlas else None,
        "shares": atlas.shares if atlas else None,
    }


def edited(codes: Int64[Tensor, "1 g *grid"], edits: Any, num_codes: int) -> Int64[Tensor, "1 g *grid"]:
    """Return codes with edits of a `code_map`, of which those that are out of range are left out."""
    flat = codes.flatten().clone()
    for place, code in edits or ():
        if 0 <= int(place) < len(flat) and HOLE <= int(code) < num_codes:
            flat[int(place)] = int(code)
    return flat.view(codes.shape)


def _title(part: str, number: int, frame: int) -> str:
    words = [f"{part} {number}"] if number else []
    return ", ".join([*words, *([f"frame {frame}"] if frame else [])]) or "codes"
