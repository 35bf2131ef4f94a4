"""The tab "Codebook": how codes are used, which are alike, and what each stands for."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.app.serving.atlas import MOST_TILES, code_counts, single_codes, sound_of
from smalti.app.serving.figures import use_figure
from smalti.app.serving.media import sentence, shown
from smalti.app.serving.models import Served
from smalti.app.serving.wiring import on
from smalti.core.errors import InputError
from smalti.evaluation.codebook import CodebookUse

MOST_VECTORS = 16_384
SHOWN = 256
NEIGHBOURS = 12
TILE = 44
"""Side of a tile of the atlas, pixels."""


def add_codebook(models: Mapping[str, Served]) -> None:
    """Add the tab's components and events to the page that is being built."""
    first = next(iter(models.values()))
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            model = gr.Dropdown(list(models), value=first.name, label="Model", elem_id="codebook-model")
            show = gr.Button("Show the codebook", variant="primary", elem_id="codebook-show")
            book = gr.Number(1, label="Codebook", precision=0, minimum=1)
            code = gr.Number(0, label="Code", precision=0, minimum=0, elem_id="codebook-code")
            near = gr.Button("Codes near it", elem_id="codebook-near")
        with gr.Column(scale=3):
            neighbours = gr.HTML(elem_id="codebook-neighbours")
            use = gr.HTML(elem_id="codebook-use")
            atlas = gr.HTML(elem_id="codebook-atlas")

    on(model.change, lambda _: ("", "", ""), [model], [use, atlas, neighbours])
    on(show.click, lambda name: (use_of(models[name]), atlas_of(models[name])), [model], [use, atlas])
    on(
        near.click,
        lambda name, *chosen: neighbours_of(models[name], *chosen),
        [model, book, code],
        [neighbours],
    )


def use_of(served: Served) -> str:
    """Describe the use of each codebook in the training split, as HTML."""
    counts = code_counts(served.tokenizer)
    if counts is None:
        return sentence("The codes of the training split were not counted: smalti evaluate counts them.")
    lines = []
    use = CodebookUse(*counts.shape)
    use.counts = counts
    for number, (row, perplexity) in enumerate(zip(counts, use.perplexities(), strict=True), 1):
        used = int((row > 0).sum())
        lines.append(f"Codebook {number}: {used:,} of {len(row):,} codes used, perplexity {perplexity:,.0f}.")
    figure = use_figure(counts) if counts.shape[1] <= MOST_TILES else ""
    return figure + "".join(map(sentence, lines))


def atlas_of(served: Served) -> str:
    """Show the most frequent codes of each codebook as tiles, as HTML."""
    sprite, counts = served.atlas.sprite, code_counts(served.tokenizer)
    if sprite is None:
        if served.is_sound:
            return sentence("“Codes near it” plays a code, and the codes nearest to it.")
        return sentence(
            f"No tiles: there are more than {MOST_TILES:,} codes, or they stand for no place of a picture."
        )
    num = served.tokenizer.autoencoder.num_codes
    parts = []
    for book in range(served.tokenizer.autoencoder.num_codebooks):
        order = torch.arange(num) if counts is None else counts[book].argsort(descending=True, stable=True)
        tiles = "".join(tile(served, book, code) for code in order[:SHOWN].tolist())
        which = "first" if counts is None else "most frequent"
        title = f"Codebook {book + 1}: its {min(SHOWN, num)} {which} codes, each decoded alone."
        parts.append(f'{sentence(title)}<div style="display:flex;flex-wrap:wrap;gap:3px">{tiles}</div>')
    return _with_sheet(served, "".join(parts))


def tile(served: Served, book: int, code: int) -> str:
    """Show one code as HTML that cuts its tile out of the picture of all tiles."""
    sprite, shares = served.atlas.sprite, served.atlas.shares
    entry = book * served.tokenizer.autoencoder.num_codes + code
    words = f"code {code}" + (f", {shares[entry]:.2%} of the training codes" if shares else "")
    if sprite is None:
        return sentence(words)
    zoom = TILE / max(sprite["width"], sprite["height"])
    width, height = (round(sprite[side] * zoom) for side in ("width", "height"))
    left, top = entry % sprite["columns"] * width, entry // sprite["columns"] * height
    style = (
        f"width:{width}px;height:{height}px;image-rendering:pixelated;background:var(--sheet) "
        f"-{left}px -{top}px / {sprite['columns'] * width}px {sprite['rows'] * height}px"
    )
    return f'<div class="tile" title="{html.escape(words)}" style="{style}"></div>'


def neighbours_of(served: Served, book: int | None, code: int | None) -> str:
    """Show the codes whose vectors are nearest to that of a code, with their distances, as HTML.

    Raises:
        InputError: for a codebook or code that the model does not have, or too many codes.
    """
    model = served.tokenizer.autoencoder
    book, code = (book or 1) - 1, code or 0
    if not 0 <= book < model.num_codebooks or not 0 <= code < model.num_codes:
        raise InputError(
            f"expected a codebook of 1 to {model.num_codebooks} and a code of 0 to {model.num_codes - 1}, "
            f"received {book + 1} and {code}"
        )
    order, distances = nearest(code_vectors(served)[book], code)
    parts = []
    for other, distance in zip(order, distances, strict=True):
        words = f"code {other}: distance {distance:.3g}" if other != code else f"code {other}"
        parts.append(f"<figure>{_one(served, book, other)}<figcaption>{words}</figcaption></figure>")
    shown_codes = f'<div class="items">{"".join(parts)}</div>'
    return sentence(f"Codes nearest to code {code}:") + _with_sheet(served, shown_codes)


def code_vectors(served: Served) -> Float[Tensor, "g k d"]:
    """Return the latents of each code, beside the most frequent codes of the other codebooks.

    Raises:
        InputError: for a model without one quantizer, or with too many codes.
    """
    model = served.tokenizer.autoencoder
    quantizer = getattr(model, "quantizer", None)
    if (
        not getattr(quantizer, "is_per_position", False)
        or model.num_codebooks * model.num_codes > MOST_VECTORS
    ):
        raise InputError(
            f"expected a model with a code at each position and at most {MOST_VECTORS:,} codes, received "
            f"{served.name}: choose another one"
        )
    assert quantizer is not None
    with torch.no_grad():
        vectors = quantizer.decode(single_codes(served.tokenizer, (1,)).to(served.tokenizer.device))
    return vectors[..., 0].cpu().unflatten(0, (model.num_codebooks, model.num_codes))


def nearest(vectors: Float[Tensor, "k d"], code: int) -> tuple[list[int], list[float]]:
    """Return the codes whose vectors are nearest to that of `code`, itself first, and their distances."""
    distances = (vectors - vectors[code]).norm(dim=1)
    distances[code] = -1
    order = distances.argsort(stable=True)[: NEIGHBOURS + 1]
    return order.tolist(), distances[order].clamp(min=0).tolist()


def _with_sheet(served: Served, content: str) -> str:
    """Give tiles in a piece of HTML the picture that they are cut out of."""
    sprite = served.atlas.sprite
    return content if sprite is None else f'<div style="--sheet:url({sprite["src"]})">{content}</div>'


def _one(served: Served, book: int, code: int) -> str:
    """Show one code: its tile, or its sound."""
    if not served.is_sound:
        return tile(served, book, code)
    tokenizer = served.tokenizer
    around: Int64[Tensor, "1 g 1"] = single_codes(tokenizer, (1,))[
        book * tokenizer.autoencoder.num_codes + code
    ][None]
    alone: Any = sound_of(tokenizer, book, code, around, served.decoder_class(None))
    return shown(tokenizer.modality, alone)
