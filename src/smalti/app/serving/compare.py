"""The tab "Compare": one item through several models, their learning curves, and rate against distortion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from smalti.app.serving.figures import curves_figure, rate_figure
from smalti.app.serving.media import gallery, grid_table, read_upload, sentence
from smalti.app.serving.models import Served
from smalti.app.serving.session import encoded
from smalti.app.serving.wiring import on
from smalti.core.errors import InputError
from smalti.evaluation.reconstruction import Reconstruction
from smalti.training.checkpoints import RunDirectory

HEAD = ("model", "codes", "bits", "bits per value", "PSNR, dB", "SSIM")


def add_compare(models: Mapping[str, Served]) -> None:
    """Add the tab's components and events to the page that is being built."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            chosen = gr.CheckboxGroup(list(models), value=[], label="Models", elem_id="compare-models")
            upload = gr.File(
                label="Picture, recording or clip", type="filepath", height=140, elem_id="compare-upload"
            )
            curves = gr.Button("Learning curves", elem_id="compare-curves")
        with gr.Column(scale=3):
            results = gr.HTML(elem_id="compare-results")
            drawn = gr.HTML(elem_id="compare-drawn")

    def run(names: Sequence[str], path: str | None) -> tuple[str, None]:
        return compared([models[name] for name in names], path), None

    on(upload.upload, run, [chosen, upload], [results, upload])
    on(curves.click, lambda names: learning_curves([models[name] for name in names]), [chosen], [drawn])


def compared(models: Sequence[Served], path: str | None) -> str:
    """Encode and decode a file with each of the models, and return pictures, figures and a plot as HTML.

    Raises:
        InputError: if there is no file, the models are not of one medium, or the file is none of their items.
    """
    if path is None:
        raise InputError("expected a file: choose one")
    file = Path(path)
    try:
        if not models:
            raise InputError("expected at least one model: choose some on the left, then the file again")
        kinds = {served.item for served in models}
        if len(kinds) != 1:
            raise InputError(
                f"expected one model or several of the same medium, received models of {len(kinds)} media: "
                "choose them again"
            )
        content = file.read_bytes()
        parts, rows, points = [], [], {}
        for served in models:
            file.write_bytes(content)
            signal = read_upload(served, file)
            item = encoded(served, signal)
            decoded, modality = item.decoded(), item.tokenizer.modality
            titles = [f"{served.name}: original", f"{served.name}: from the codes"]
            parts.append(gallery(modality, [signal, decoded], titles))
            measured = Reconstruction(item.tokenizer.autoencoder.signal)
            measured.update(signal, decoded)
            figures = measured.compute()
            bits = item.codes.numel() * math.log2(item.tokenizer.autoencoder.num_codes)
            rate = bits / signal.numel()
            rows.append(
                [served.name, f"{item.codes.numel():,}", f"{bits:,.0f}", f"{rate:.4f}", *_quality(figures)]
            )
            if figures.get("psnr") is not None:
                points[served.name] = (rate, figures["psnr"])
    finally:
        file.unlink(missing_ok=True)
    plot = rate_figure(points, "bits per value of the signal", "PSNR, dB,") if points else ""
    return grid_table(HEAD, rows) + "".join(parts) + plot


def learning_curves(models: Sequence[Served]) -> str:
    """Plot the learning curves of some models, as HTML.

    Raises:
        InputError: if no model is chosen.
    """
    if not models:
        raise InputError("expected at least one model: choose some on the left")
    lines = {served.name: RunDirectory(served.tokenizer.directory).metrics() for served in models}
    figure = curves_figure(lines)
    without = [name for name, each in lines.items() if not each]
    note = (
        f"Without learning curves, since only their weights were kept: {', '.join(without)}."
        if without
        else ""
    )
    return figure + (sentence(note) if note else "")


def _quality(figures: Mapping[str, Any]) -> list[str]:
    return ["-" if figures.get(name) is None else f"{figures[name]:.3f}" for name in ("psnr", "ssim")]
