"""The tab "Generate": draw new items from a prior, and fill the holes of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from smalti.app.serving.code_map import HOLE, code_map
from smalti.app.serving.media import MOST_FRAMES, MOST_SECONDS, gallery, read_upload
from smalti.app.serving.models import Served
from smalti.app.serving.session import Item, encoded
from smalti.app.serving.wiring import on
from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.precision import full_precision
from smalti.core.priors import Prior
from smalti.data.actions import parse_actions
from smalti.priors.draws import seeded_generator
from smalti.priors.labelled import LabelledPrior

ANY = "any"
MOST_ITEMS = 16
MOST_LENGTHS = 4
"""Items of the greatest length in one draw."""
EMPTY: tuple[Any, ...] = ("", ANY, "", 1, 0.0, 1.0, 0, 1.0, 1.0, 0)
"""Settings of a `Request` whose fields are empty."""
MOST_SEED = 1 << 32
NO_ITEM = "expected codes with holes: draw an item or choose a file, then make holes in its codes"
State = Item | None


@dataclass(frozen=True)
class Request:
    """Settings of a draw, as the page has them.

    Attributes:
        prior: its name.
        class_name: class of the items; `ANY` leaves it to the prior.
        actions: actions of the frames of a clip, such as "forward*5 left*3"; "" for none.
        num: number of items.
        length: seconds of a recording or frames of a clip; 0 for the model's.
        temperature, top_k, top_p, guidance, seed: of the draws; `top_k` 0 for no limit.
    """

    prior: str
    class_name: str
    actions: str
    num: int
    length: float
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    seed: int

    @classmethod
    def of(cls, *values: Any) -> Request:
        """Return the settings; a field that the user cleared has its default."""
        return cls(
            *(value if value is not None else default for value, default in zip(values, EMPTY, strict=True))
        )

    @property
    def chosen_class(self) -> str | None:
        """The class; None if the prior chooses."""
        return None if self.class_name in (ANY, "", None) else self.class_name


def add_generate(models: Mapping[str, Served]) -> None:
    """Add the tab's components and events to the page that is being built."""
    first = next(iter(models.values()))
    item = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            model = gr.Dropdown(list(models), value=first.name, label="Model", elem_id="generate-model")
            prior = gr.Dropdown(priors(first), value=priors(first)[-1], label="Prior")
            category = gr.Dropdown(classes(first), value=ANY, label="Class", elem_id="generate-class")
            actions = gr.Textbox(label="Actions of the frames", placeholder="forward*8 left*4", visible=False)
            num = gr.Slider(1, MOST_ITEMS, value=4, step=1, label="Number")
            length = gr.Number(0, label=length_label(first), minimum=0, visible=is_ragged(first))
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED - 1)
            draw = gr.Button("Draw", variant="primary", elem_id="generate-draw")
            with gr.Accordion("More settings", open=False):
                temperature = gr.Slider(0, 2, value=1, step=0.05, label="Temperature")
                top_k = gr.Number(0, label="Top k (0: all)", precision=0, minimum=0)
                top_p = gr.Slider(0.01, 1, value=1, step=0.01, label="Top p")
                guidance = gr.Slider(
                    0, 8, value=1, step=0.25, label="Guidance towards the class or the actions (1: none)"
                )
        with gr.Column(scale=3):
            codes = code_map(elem_id="generate-codes")
            with gr.Row():
                fill = gr.Button("Fill the holes", elem_id="generate-fill")
                restore = gr.Button("Undo the holes")
            drawn = gr.HTML(elem_id="generate-drawn")
            upload = gr.File(
                label="Or make holes in the codes of a file",
                type="filepath",
                height=110,
                elem_id="generate-upload",
            )
    settings = [prior, category, actions, num, length, temperature, top_k, top_p, guidance, seed]

    def choose(name: str) -> tuple[Any, ...]:
        chosen = models[name]
        names = priors(chosen)
        return (
            gr.Dropdown(choices=names, value=names[-1]),
            gr.Dropdown(choices=classes(chosen), value=ANY),
            gr.Textbox(value="", visible=bool(chosen.tokenizer.actions)),
            gr.Number(value=0, label=length_label(chosen), visible=is_ragged(chosen)),
            None,
            "",
            None,
        )

    def generate(name: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        served, request = models[name], Request.of(*values)
        stage = None
        for stage in stages(served, request):
            yield None, stage_item(served, stage, request).map(is_editable=False), ""
        assert stage is not None
        shown = stage_item(served, stage[:1], request)
        yield shown, shown.map(has_holes=True), pictures(served, stage, request)

    def read(name: str, path: str | None, category: str) -> tuple[Any, ...]:
        if path is None:
            raise InputError("expected a file: choose one")
        served = models[name]
        voice = None if category == ANY else category
        new = encoded(served, read_upload(served, Path(path)), class_name=voice)
        return (
            new,
            new.map(has_holes=True),
            gallery(new.tokenizer.modality, [new.decoded()], ["from the codes"]),
        )

    def filled(name: str, item: State, *values: Any) -> Iterator[tuple[Any, ...]]:
        if item is None or not item.has_holes or item.served is not models[name]:
            raise InputError(NO_ITEM)
        served, request = models[name], Request.of(*values)
        stage = None
        for stage in stages(served, request, item.codes):
            yield item, stage_item(served, stage, request).map(is_editable=False), ""
        assert stage is not None
        # The map keeps its holes, so that they can be filled again.
        yield item, item.map(has_holes=True), pictures(served, stage, request)

    on(model.change, choose, [model], [prior, category, actions, length, item, drawn, codes])
    on(draw.click, generate, [model, *settings], [item, codes, drawn])
    on(upload.upload, read, [model, upload, category], [item, codes, drawn])
    on(codes.input, painted, [item], [item], is_each_counted=True)
    on(fill.click, filled, [model, item, *settings], [item, codes, drawn])
    on(restore.click, restored, [item], [item, codes])


def painted(item: State, event: gr.EventData) -> State:
    """Apply a stroke on the map of codes."""
    return None if item is None else item.changed(event.edits)


def restored(item: State) -> tuple[State, Any]:
    """Return to the codes without holes."""
    if item is None:
        raise InputError(NO_ITEM)
    item = item.reset()
    return item, item.map(has_holes=True)


def priors(served: Served) -> list[str]:
    """Names of the priors that can be drawn from, the default last."""
    found = served.tokenizer.priors
    names = [name for name, prior in found.items() if not isinstance(prior, LabelledPrior)]
    default = [name for name in names if name == "learned"]
    return [name for name in names if name not in default] + default


def classes(served: Served) -> list[str]:
    """Names of the classes to choose from."""
    return [ANY, *served.tokenizer.classes]


def is_ragged(served: Served) -> bool:
    """True if items differ in length."""
    return served.tokenizer.modality.is_ragged and served.tokenizer.autoencoder.signal.has_time


def length_label(served: Served) -> str:
    """Label of the length of new items."""
    return f"Length, {'seconds' if served.is_sound else 'frames'} (0: as in training)"


def stage_item(served: Served, codes: Tensor, request: Request) -> Item:
    """Return the first of some drawn grids as an item."""
    codes = codes[:1].cpu()
    voice = served.decoder_class(request.chosen_class)
    return Item(served, codes, codes, None, served.tokenizer, voice)


def pictures(served: Served, codes: Tensor, request: Request) -> str:
    """Decode grids of codes, and show them."""
    voice = served.decoder_class(request.chosen_class)
    signals = served.tokenizer.decode_signals(codes, class_name=voice, seed=request.seed)
    return gallery(served.tokenizer.modality, list(signals.split(1)), [str(i + 1) for i in range(len(codes))])


def stages(served: Served, request: Request, codes: Tensor | None = None) -> Iterator[Tensor]:
    """Draw items, or the holes of one, and yield their codes as the grids fill; the last ones are whole.

    Args:
        served: the model.
        request: settings of the draw.
        codes: `(1, G, *grid)` of an item whose holes are to be drawn; None for new items.

    Raises:
        InputError: if the prior cannot draw this, or a setting is out of range.
    """
    tokenizer, num = served.tokenizer, int(request.num)
    prior = tokenizer.priors.get(request.prior)
    if prior is None or not 1 <= num <= MOST_ITEMS:
        raise InputError(f"expected a prior of this model and 1 to {MOST_ITEMS} items: choose them again")
    grid = _grid(served, request, prior) if codes is None else tuple(codes.shape[2:])
    given = _conditions(served, prior, request, num, grid).to(tokenizer.device)
    shape = (num, tokenizer.autoencoder.num_codebooks, *grid)
    holes = (torch.full(shape, HOLE) if codes is None else codes.expand(shape)).to(tokenizer.device)
    filling = prior.stages(
        holes.clamp(min=0),
        holes != HOLE,
        given,
        temperature=request.temperature,
        top_k=int(request.top_k) or None,
        top_p=request.top_p if request.top_p < 1 else None,
        # With the seed of the item, its holes would be filled with the codes that were removed.
        generator=seeded_generator((int(request.seed) + (codes is not None)) % MOST_SEED),
        guidance=request.guidance,
    )
    while True:
        # Not around a yield: each stage may be computed in another thread.
        with torch.no_grad(), full_precision(prior):
            stage = next(filling, None)
        if stage is None:
            return
        drawn, hidden = stage
        yield drawn.masked_fill(hidden, HOLE).cpu()


def _grid(served: Served, request: Request, prior: Prior) -> tuple[int, ...]:
    """Grid of new items, of the length that was asked for."""
    model, modality = served.tokenizer.autoencoder, served.tokenizer.modality
    if not request.length or not is_ragged(served):
        return getattr(prior, "grid", model.grid)
    most = MOST_SECONDS if served.is_sound else MOST_FRAMES
    if not 0 < request.length <= most or request.length * request.num > MOST_LENGTHS * most:
        raise InputError(
            f"expected a length of at most {most}, and {MOST_LENGTHS * most} of all items, received "
            f"{request.num} of {request.length:g}: lower it"
        )
    whole = modality.seconds(model.signal.size[0]) if served.is_sound else model.signal.size[0]
    return (max(1, round(model.grid[0] * request.length / (whole or 1))), *model.grid[1:])


def _conditions(
    served: Served, prior: Prior, request: Request, num: int, grid: tuple[int, ...]
) -> Conditions:
    """Return the class and the actions of each item, for a prior that reads them."""
    tokenizer, given = served.tokenizer, None
    if request.actions.strip():
        if "action" not in readable_conditions(prior):
            raise InputError(
                f"expected no actions for the prior {request.prior}, which reads none: clear them"
            )
        names = parse_actions(request.actions)
        unknown = {name for name in names if name is not None} - set(tokenizer.actions)
        if unknown:
            raise InputError(
                f"expected actions of this model ({', '.join(tokenizer.actions)}), received "
                f"{', '.join(sorted(unknown))}: correct them"
            )
        ids = [-1 if name is None else tokenizer.actions.index(name) for name in names[: grid[0]]]
        ids += [-1] * (grid[0] - len(ids))
        given = Conditions(action=torch.tensor([ids] * num))
    chosen = request.chosen_class if prior.num_labels else None
    if request.chosen_class and not prior.num_labels and not served.decoder_classes:
        raise InputError(
            f"expected any class for the prior {request.prior}, which reads none: choose {ANY!r}"
        )
    return tokenizer.trained.prior_conditions(prior, num, chosen, given)
