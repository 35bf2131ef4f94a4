"""The tab "Look": an item, its codes, its reconstruction; change codes and see what each does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from smalti.app.serving.atlas import sound_of
from smalti.app.serving.code_map import code_map
from smalti.app.serving.media import read_upload, sentence, shown
from smalti.app.serving.models import Served
from smalti.app.serving.session import Item, encoded, figures
from smalti.app.serving.wiring import on
from smalti.core.errors import InputError

TRAINED, OWN = "the model's size", "its own size"
NO_ITEM = "expected a file first: choose one on the left"
State = Item | None


def add_look(models: Mapping[str, Served]) -> None:
    """Add the tab's components and events to the page that is being built."""
    first = next(iter(models.values()))
    item = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            model = gr.Dropdown(list(models), value=first.name, label="Model", elem_id="look-model")
            upload = gr.File(
                label="Picture, recording or clip", type="filepath", elem_id="look-upload", height=140
            )
            size = gr.Radio([TRAINED, OWN], value=TRAINED, label="Encode in", visible=not first.is_sound)
            speaker = gr.Dropdown(
                first.decoder_classes, label="Decode as", visible=bool(first.decoder_classes)
            )
            reset = gr.Button("Undo all changes of codes", elem_id="look-reset")
            numbers = gr.HTML(elem_id="look-figures")
        with gr.Column(scale=3):
            with gr.Row():
                original = gr.HTML(elem_id="look-original")
                decoded = gr.HTML(elem_id="look-decoded")
            codes = code_map(elem_id="look-codes")
            alone = gr.HTML(elem_id="look-code")

    def choose(name: str) -> tuple[Any, ...]:
        chosen = models[name]
        return (
            None,
            gr.Radio(value=TRAINED, visible=not chosen.is_sound),
            gr.Dropdown(choices=chosen.decoder_classes, value=None, visible=bool(chosen.decoder_classes)),
            *("",) * 4,
            None,
        )

    def look(name: str, path: str | None, chosen: str, voice: str | None) -> tuple[Any, ...]:
        if path is None:
            raise InputError(NO_ITEM)
        served, own = models[name], chosen == OWN
        new = encoded(served, read_upload(served, Path(path), own), own, voice)
        assert new.signal is not None
        # The file is deleted, so the field is free for the next one.
        return new, shown(new.tokenizer.modality, new.signal, "original"), *results(new), new.map(), "", None

    on(model.change, choose, [model], [item, size, speaker, original, decoded, numbers, alone, codes])
    on(
        upload.upload,
        look,
        [model, upload, size, speaker],
        [item, original, decoded, numbers, codes, alone, upload],
    )
    on(codes.input, changed, [item], [item, decoded, numbers], is_each_counted=True)
    on(codes.select, chosen_code, [item], [alone])
    on(reset.click, undone, [item], [item, decoded, numbers, codes])
    on(speaker.input, revoiced, [item, speaker], [item, decoded, numbers])


def results(item: Item) -> tuple[str, str]:
    """Return the reconstruction and the figures of an item, as HTML."""
    decoded = item.decoded()
    return shown(item.tokenizer.modality, decoded, "from the codes"), figures(item, decoded)


def changed(item: State, event: gr.EventData) -> tuple[Item, str, str]:
    """Apply a stroke on the map of codes."""
    if item is None:
        raise InputError(NO_ITEM)
    item = item.changed(event.edits)
    return item, *results(item)


def undone(item: State) -> tuple[Any, ...]:
    """Return to the codes of the encoder."""
    if item is None:
        raise InputError(NO_ITEM)
    item = item.reset()
    return item, *results(item), item.map()


def revoiced(item: State, voice: str | None) -> tuple[Any, ...]:
    """Decode as another class."""
    if item is None:
        return None, "", ""
    item = item.of_class(voice)
    return item, *results(item)


def chosen_code(item: State, event: gr.EventData) -> str:
    """Say how often a code occurs, and play what it stands for."""
    if item is None:
        raise InputError(NO_ITEM)
    served, place, code = item.served, int(event.place), int(event.code)
    if not 0 <= place < item.codes.numel() or not 0 <= code < served.tokenizer.autoencoder.num_codes:
        raise InputError("expected a code of this item: choose one on the map")
    of_book = item.codes[0, place // item.codes[0, 0].numel()]
    here = int((of_book == code).sum())
    words = sentence(f"Code {code} is at {here} of {of_book.numel()} positions. Paint draws with it.")
    if not served.is_sound:
        return words
    sound = sound_of(item.tokenizer, place, code, item.codes, item.class_name)
    return words + shown(served.tokenizer.modality, sound, f"code {code} alone, repeated")
