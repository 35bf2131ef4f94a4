"""Every recipe is complete: it builds, it shrinks, and it says what it costs and what to expect."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch

from smalti.app.recipes import RECIPES, get_recipe
from smalti.app.recipes.overrides import override
from smalti.autoregressive.hierarchy import HierarchicalPixelCNN
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.modalities.audio.waveforms import SoundConfig
from smalti.modalities.codes.modality import CodeGridConfig
from smalti.modalities.image.modality import ImageConfig, ImageModality
from smalti.modalities.video.modality import VideoConfig
from smalti.models.hierarchy import Hierarchy, HierarchyConfig
from smalti.models.vae import VAE
from smalti.models.vimco import VIMCO
from smalti.models.vqvae import VQVAE
from smalti.priors.autoregressive import LearnedPrior
from smalti.stored_priors import new_prior

IMAGES = [name for name in RECIPES if isinstance(get_recipe(name).data, ImageConfig)]
LEVELS = [name for name in IMAGES if isinstance(get_recipe(name).model, HierarchyConfig)]
PICTURES = [name for name in IMAGES if name not in LEVELS]
CLIPS = [name for name in RECIPES if isinstance(get_recipe(name).data, VideoConfig)]
GRIDS = [name for name in RECIPES if isinstance(get_recipe(name).data, CodeGridConfig)]
SOUNDS = [name for name in RECIPES if isinstance(get_recipe(name).data, SoundConfig)]
SMALL_PIXELCNN = ("channels=8", "layers=2", "head_channels=8")
SMALL = [
    *(
        f"model.{part}.{width}"
        for part in ("encoder", "decoder")
        for width in ("channels=8", "residual_channels=4")
    ),
    "model.quantizer.num_codes=16",
    "model.quantizer.code_dim=4",
    *(f"prior.network.{width}" for width in SMALL_PIXELCNN),
]
WAVENET = ("channels=8", "gate_channels=8", "skip_channels=8", "head_channels=8", "layers=2", "stacks=1")
SMALL_WAVENET = [f"prior.network.{width}" for width in WAVENET]
SMALL_SOUNDS = [
    "model.quantizer.num_codes=16",
    "model.quantizer.code_dim=4",
    "model.decoder.channels=8",
]
SMALL_TRANSFORMER = ["prior.network.channels=8", "prior.network.layers=2", "prior.network.heads=2"]
SMALL_LEVELS = [
    *(f"prior.network.{level}.{width}" for level in ("coarsest", "finer") for width in SMALL_PIXELCNN),
    "prior.network.condition_channels=8",
    "prior.network.condition_blocks=1",
]
SMALL_FRAMES = [
    "prior.network.frame.channels=8",
    "prior.network.frame.layers=2",
    "prior.network.frame.head_channels=8",
    "prior.network.memory_channels=8",
    "prior.network.memory_layers=2",
]
SMALL_PARTS = {
    "log_mel encoder": ["model.encoder.network.channels=8", "model.encoder.network.residual_channels=4"],
    "conv encoder": ["model.encoder.channels=8", "model.encoder.residual_channels=4"],
    "context encoder": ["model.encoder.channels=8"],
    "spectral encoder": ["model.encoder.channels=8", "model.encoder.layers=1"],
    "conv decoder": ["model.decoder.residual_channels=4"],
    "wavenet decoder": [
        "model.decoder.residual_channels=4",
        *(f"model.decoder.network.{width}" for width in WAVENET),
    ],
    "harmonic decoder": ["model.decoder.layers=1"],
}
"""Settings that only some encoders and decoders have."""


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_how_to_run_it_what_it_costs_and_what_to_expect(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"Command: smalti train {name} " in text
    for heading in ("Cost:", "Expect:"):
        assert len(text.split(heading)[1].strip()) > 10
    assert get_recipe(name).name == name


def built(name: str) -> tuple[Autoencoder, LearnedPrior]:
    """Both stages at their full size, without memory."""
    recipe = get_recipe(name)
    with torch.device("meta"):
        model = recipe.model.build(ImageModality(recipe.data).spec)
        assert isinstance(model, Autoencoder)
        return model, new_prior(recipe.prior, model, {"label": 10})


@pytest.mark.parametrize("name", PICTURES)
def test_its_codes_are_those_that_it_says(name: str) -> None:
    model, prior = built(name)
    text = inspect.getdoc(RECIPES[name]) or ""
    said = re.search(r"(\d+)x\1 (?:codes|positions)|(\d+)x\2x(\d+) latents", text)
    assert said, text
    side, deep_side, num_codebooks = said.groups()
    assert model.grid == (int(side or deep_side),) * 2
    if num_codebooks:
        assert model.num_codebooks == int(num_codebooks)
    out_of = re.search(r"out of (\d+)", text)
    assert out_of is None or model.num_codes == int(out_of[1])
    assert prior.network.num_classes == 10


@pytest.mark.parametrize(
    ("name", "times"), [("cifar10", 32 * 32 * 3 * 8 / (8 * 8 * 10 * 7)), ("imagenet128", 42.7)]
)
def test_it_compresses_as_much_as_the_paper_says(name: str, times: float) -> None:
    model, _ = built(name)
    bits = model.num_codebooks * math.prod(model.grid) * math.log2(model.num_codes)
    assert model.signal.dims * 8 / bits == pytest.approx(times, abs=0.05)


@pytest.mark.parametrize("name", PICTURES)
def test_it_shrinks_and_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    has_residuals = get_recipe(name).model.encoder.kind == "conv"
    words = [word for word in SMALL if has_residuals or "residual" not in word]
    recipe = override(get_recipe(name), words)
    model = recipe.model.build(ImageModality(recipe.data).spec)
    assert isinstance(model, Autoencoder)
    signal = torch.rand(2, model.signal.channels, *model.signal.size).mul(255).round().div(127.5).sub(1)
    prior = new_prior(recipe.prior, model)
    for module, data in ((model, signal), (prior, model.encode(signal))):
        loss = module.loss(Batch(data)).total
        loss.backward()
        assert loss.isfinite()
        assert all(
            p.grad is not None and bool(p.grad.isfinite().all())
            for p in module.parameters()
            if p.requires_grad
        )


@pytest.mark.parametrize("name", LEVELS)
def test_codes_of_levels_are_those_that_it_says(name: str) -> None:
    model, prior = built(name)
    assert isinstance(model, Hierarchy)
    text = inspect.getdoc(RECIPES[name]) or ""
    said = re.search(r"to (\d+)x\1 codes out of (\d+), plus (\d+)x\3 codes", text)
    assert said
    coarse, num_codes, fine = map(int, said.groups())
    assert model.levels.grids(model.grid) == [(coarse, coarse), (fine, fine)]
    assert model.num_codes == num_codes
    names = ("no", "one", "two", "three", "four", "five")
    assert f"Each coarse position has {names[model.num_codebooks]} codes" in text
    assert isinstance(prior.network, HierarchicalPixelCNN)
    assert prior.network.layout == model.levels


@pytest.mark.parametrize("name", LEVELS)
def test_that_of_levels_shrinks_and_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    words = ["data.size=16", "model.factors=2", *SMALL[:6], *SMALL_LEVELS]
    recipe = override(get_recipe(name), words)
    model = recipe.model.build(ImageModality(recipe.data).spec)
    assert isinstance(model, Hierarchy)
    prior = new_prior(recipe.prior, model)
    signal = torch.rand(2, 3, 16, 16) * 2 - 1
    for module, data in ((model, signal), (prior, model.encode(signal))):
        loss = module.loss(Batch(data)).total
        loss.backward()
        assert loss.isfinite()
        assert any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize("name", GRIDS)
def test_codes_of_code_grids_are_those_that_it_says(name: str) -> None:
    recipe = get_recipe(name)
    with torch.device("meta"):
        model = recipe.model.build(recipe.data.build().spec)
    assert isinstance(model, Autoencoder)
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"over {'x'.join(map(str, model.signal.size))} code grids" in text
    bits = model.num_codebooks * math.log2(model.num_codes)
    assert model.grid == (1, 1)
    assert f"three codes ({bits:g} bits)" in text


@pytest.mark.parametrize("name", SOUNDS)
def test_codes_of_sounds_are_those_that_it_says(name: str) -> None:
    recipe = get_recipe(name)
    modality = recipe.data.build()
    model = recipe.model.build(modality.spec, {"label": 10})
    assert isinstance(model, Autoencoder)
    text = " ".join((inspect.getdoc(RECIPES[name]) or "").split())
    said = re.search(r"(\d+) (?:codes )?per second|(\d+)x", text)
    assert said, text
    seconds = modality.seconds(model.stride)
    assert seconds is not None
    if said[1]:
        assert 1 / seconds == pytest.approx(int(said[1]))
    else:
        assert model.stride == int(said[2])
    out_of = re.search(r"(\d+) codes(?:,| of| out)", text)
    assert out_of is None or int(out_of[1]) in (model.num_codes, recipe.prior.length)
    assert model.num_label_classes == (0 if name == "speech-codec" else 10)
    prior = new_prior(recipe.prior, model, {"label": 10})
    assert prior.grid == (recipe.prior.length,)
    crop = modality.seconds(modality.spec.size[-1])
    assert crop is not None
    assert recipe.prior.length is not None
    assert recipe.prior.length * seconds >= crop / 2, "a prior sees about as much as a crop, or more"


@pytest.mark.parametrize("name", SOUNDS)
def test_that_of_sounds_shrinks_and_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    recipe = get_recipe(name)
    kinds = f"{recipe.model.encoder.kind} encoder", f"{recipe.model.decoder.kind} decoder"
    words = [*SMALL_SOUNDS, *(s for kind in kinds for s in SMALL_PARTS[kind])]
    words += SMALL_TRANSFORMER if recipe.prior.network.kind == "transformer" else SMALL_WAVENET
    recipe = override(recipe, words)
    modality = recipe.data.build()
    model = recipe.model.build(modality.spec, {"label": 3})
    assert isinstance(model, Autoencoder)
    levels = torch.randint(256, (2, modality.spec.channels, *modality.spec.size), dtype=torch.uint8)
    signal, conditions = modality.to_model(levels), Conditions(label=torch.tensor([0, 2]))
    prior = new_prior(recipe.prior, model, {"label": 3})
    for module, data in ((model, signal), (prior, model.encode(signal))):
        loss = module.loss(Batch(data, conditions)).total
        loss.backward()
        assert loss.isfinite()
        for parameter in module.parameters():
            assert not parameter.requires_grad or parameter.grad is None or parameter.grad.isfinite().all()
        assert any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize("name", CLIPS)
def test_codes_of_clips_are_those_that_it_says(name: str) -> None:
    recipe = get_recipe(name)
    with torch.device("meta"):
        model = recipe.model.build(recipe.data.build().spec)
        assert isinstance(model, Autoencoder)
        prior = new_prior(recipe.prior, model, {"label": 10})
    text = " ".join((inspect.getdoc(RECIPES[name]) or "").split())
    said = re.search(r"each frame to (\d+)x\1 codes out of (\d+)(, from two codebooks)?", text)
    frames = re.search(r"chunks of (\d+) frames", text)
    assert said
    assert frames
    assert model.stride == 1
    assert model.grid[1:] == (int(said[1]), int(said[1]))
    assert model.num_codes == int(said[2])
    assert model.num_codebooks == (2 if said[3] else 1)
    assert prior.grid == (int(frames[1]), *model.grid[1:])


@pytest.mark.parametrize("more", [[], ["model.encoder.per_frame=false", "model.encoder.time_strides=1,2,2"]])
@pytest.mark.parametrize("name", CLIPS)
def test_that_of_clips_shrinks_and_takes_a_step(name: str, more: list[str]) -> None:
    torch.manual_seed(0)
    words = ["data.size=16", "data.frames=4", *SMALL[:6]]
    network = {"transformer": SMALL_TRANSFORMER, "frame_pixelcnn": SMALL_FRAMES}
    recipe = get_recipe(name)
    recipe = override(recipe, [*words, *network[recipe.prior.network.kind], *more])
    modality = recipe.data.build()
    model = recipe.model.build(modality.spec)
    assert isinstance(model, Autoencoder)
    assert model.grid == (1 if more else 4, 2, 2)
    signal = modality.to_model(torch.randint(256, (2, 3, *modality.spec.size), dtype=torch.uint8))
    prior = new_prior(recipe.prior, model)
    for module, data in ((model, signal), (prior, model.encode(signal))):
        loss = module.loss(Batch(data)).total
        loss.backward()
        assert loss.isfinite()
        assert any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (VQVAE, ["num_codebooks=2", "num_codes=9"]),
        (VAE, ["latent_dim=6"]),
        (VIMCO, ["num_codebooks=2", "num_codes=9", "num_samples=3"]),
    ],
)
@pytest.mark.parametrize("name", ["letters", "cifar10"])
def test_every_kind_of_model_in_a_recipe(
    name: str, kind: type[LatentVariableModel], settings: list[str]
) -> None:
    """The networks and the likelihood are those of the recipe, whatever the model."""
    recipe = get_recipe(name)
    words = [f"model.kind={kind.__name__.lower()}", *settings]
    other = override(recipe, words, leave_out=("prior",))
    with torch.device("meta"):
        model = other.model.build(ImageModality(other.data).spec)
    assert type(model) is kind
    for part in ("encoder", "decoder", "likelihood"):
        assert getattr(other.model, part) == getattr(recipe.model, part)
    if isinstance(model, Autoencoder):
        assert (model.num_codebooks, model.num_codes) == (2, 9)
    assert other.model_copy(update={"model": recipe.model}) == recipe


def test_unknown_recipe() -> None:
    with pytest.raises(InputError, match=r"received 'lsun': .*image, photos, hierarchy"):
        get_recipe("lsun")
