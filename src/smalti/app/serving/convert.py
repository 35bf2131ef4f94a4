"""The tab "Convert": a recording in the voice of another speaker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from torch import Tensor

from smalti.app.serving.media import gallery, read_upload
from smalti.app.serving.models import Served
from smalti.app.serving.session import encoded
from smalti.app.serving.wiring import on
from smalti.core.errors import InputError


def add_convert(models: Mapping[str, Served]) -> None:
    """Add the tab's components and events; the models have decoders that read a speaker."""
    first = next(iter(models.values()))
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            model = gr.Dropdown(list(models), value=first.name, label="Model")
            recording = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording",
                elem_id="convert-recording",
            )
            speaker = gr.Dropdown(first.decoder_classes, value=first.decoder_classes[0], label="Voice of")
            convert = gr.Button("Convert", variant="primary", elem_id="convert-run")
        with gr.Column(scale=3):
            converted = gr.HTML(elem_id="convert-result")
    signal = gr.State(None, time_to_live=3600)

    def choose(name: str) -> tuple[gr.Dropdown, None, str]:
        voices = models[name].decoder_classes
        return gr.Dropdown(choices=voices, value=voices[0]), None, ""

    def read(name: str, path: str | None) -> tuple[tuple[str, Tensor] | None, str]:
        if path is None:
            return None, ""
        return (name, read_upload(models[name], Path(path))), ""

    def run(name: str, kept: tuple[str, Tensor] | None, voice: str) -> str:
        if kept is None or kept[0] != name:
            raise InputError("expected a recording: choose one, or record it, then press Convert")
        served, spoken = models[name], kept[1]
        item = encoded(served, spoken, class_name=voice)
        titles = ["the recording", f"in the voice of {voice}"]
        return gallery(served.tokenizer.modality, [spoken, item.decoded()], titles)

    on(model.change, choose, [model], [speaker, signal, converted])
    for event in (recording.upload, recording.stop_recording):
        on(event, read, [model, recording], [signal, converted])
    on(convert.click, run, [model, signal, speaker], [converted])
