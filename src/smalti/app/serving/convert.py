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

NO_RECORDING = "expected a recording: choose a file, or record one"


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
            speaker = gr.Dropdown(
                first.decoder_classes,
                value=first.decoder_classes[0],
                label="Voice of",
                elem_id="convert-voice",
            )
            convert = gr.Button("Convert again", variant="primary", elem_id="convert-run")
        with gr.Column(scale=3):
            converted = gr.HTML(elem_id="convert-result")
    signal = gr.State(None, time_to_live=3600)

    def choose(name: str) -> tuple[gr.Dropdown, None, str]:
        voices = models[name].decoder_classes
        return gr.Dropdown(choices=voices, value=voices[0]), None, ""

    def read(name: str, path: str | None, voice: str) -> tuple[tuple[str, Tensor] | None, str, None]:
        if path is None:
            raise InputError(NO_RECORDING)
        kept = name, read_upload(models[name], Path(path))
        # The file is deleted, so the field is free for the next one.
        return kept, run(name, kept, voice), None

    def run(name: str, kept: tuple[str, Tensor] | None, voice: str) -> str:
        if kept is None or kept[0] != name:
            raise InputError(NO_RECORDING)
        served, spoken = models[name], kept[1]
        item = encoded(served, spoken, class_name=voice)
        titles = ["the recording", f"in the voice of {voice}"]
        return gallery(served.tokenizer.modality, [spoken, item.decoded()], titles)

    on(model.change, choose, [model], [speaker, signal, converted])
    for event in (recording.upload, recording.stop_recording):
        on(event, read, [model, recording, speaker], [signal, converted, recording])
    on(convert.click, run, [model, signal, speaker], [converted])
