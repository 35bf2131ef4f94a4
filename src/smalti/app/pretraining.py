"""Pretrain an encoder by masked prediction, then fit its projection and codebook.

The autoencoder is then trained with that encoder frozen. The pretraining run is stored inside the
autoencoder's run and is resumed like any other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti import __version__
from smalti.app.console import Counter, counting, note, watching
from smalti.app.provenance import commit, device
from smalti.app.runs import check_target, log_summary
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.core.weights import load_weights
from smalti.data.crops import CropLoader
from smalti.encoders.context import ContextEncoder
from smalti.encoders.voice import speech_positions
from smalti.models.masked import MaskedPrediction
from smalti.models.vqvae import VQVAE
from smalti.quantizers.codebooks.frozen import FrozenCodebook
from smalti.quantizers.kmeans import kmeans
from smalti.recipe import Pretraining
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import fit

DIRECTORY = "pretraining"
SILENT_CODES = 1 / 20
"""Share of the codes that is reserved for non-speech."""
WHITENING = 0.25
"""Power of the variance by which a principal component is divided; 0.5 would equalize the variances."""


def pretrain(
    recipe: Pretraining,
    model: LatentVariableModel,
    items: CropLoader,
    modality: Modality,
    run: RunDirectory,
    engine: Engine,
    quiet: bool,
) -> None:
    """Train a model's encoder network by masked prediction, and set its projection and codebook.

    Args:
        recipe: the pretraining task and its training settings.
        model: a model with a `ContextEncoder` and a frozen codebook.
        items: the training data.
        modality: the log-mel modality.
        run: run of the model.
        engine: engine that assigns devices and ranks.
        quiet: hide progress.

    Raises:
        InputError: when the model has no such encoder and codebook.
    """
    encoder, codebook = check_parts(model)
    own = RunDirectory(run.path / DIRECTORY)
    check_target(own, recipe)
    torch.manual_seed(recipe.training.seed)
    task = MaskedPrediction(recipe.task, encoder.config, modality.spec)
    if engine.is_main:
        own.write_config(
            {
                "kind": "pretraining",
                "smalti": __version__,
                "recipe": recipe.model_dump(mode="json"),
                "commit": commit(),
                "device": device(),
            }
        )
    with counting("Fitting speaker statistics", quiet) as count:
        _fit_voices(task, items, recipe.training.seed)
        task.cluster(_cepstra(task, items, count), recipe.training.seed)
    log_summary(recipe.training, items.count, task, quiet)
    with watching("Masked prediction", recipe.training.steps, quiet) as watch:
        fit(task, items.batch, recipe.training, own, engine, None, watch)
    load_weights(task, own.read_model(), own.path)
    encoder.network.load_state_dict(task.network.state_dict())
    encoder.voice.load_state_dict(task.voice.state_dict())
    with counting("Fitting the codebook", quiet) as count:
        _set(encoder, codebook, items, recipe.training.seed, count)
    note("The encoder is trained; training the decoder next.", quiet)


def check_parts(model: LatentVariableModel) -> tuple[ContextEncoder, FrozenCodebook]:
    """Return the encoder and the codebook that pretraining sets.

    Raises:
        InputError: when the model has no such encoder and codebook.
    """
    if (
        isinstance(model, VQVAE)
        and isinstance(model.encoder, ContextEncoder)
        and isinstance(model.quantizer.codebook, FrozenCodebook)
        and model.quantizer.num_codebooks == 1
    ):
        return model.encoder, model.quantizer.codebook
    raise InputError(
        "expected a VQ-VAE with encoder.kind=context and one frozen codebook for a recipe that pretrains, "
        f"received {model.title}: use the recipe `units` unchanged, or one without pretraining"
    )


def _fit_voices(task: MaskedPrediction, items: CropLoader, seed: int) -> None:
    """Fit the speaker statistics, and attach each item's statistics to it."""
    device = task.voice.reference.device
    speakers = items.speakers()
    utterances = {
        speaker: [items.whole(position).data[0].to(device) for position in positions]
        for speaker, positions in speakers.items()
    }
    voices = task.voice.fit(utterances, seed)
    rows = {position: voices[speaker] for speaker, positions in speakers.items() for position in positions}
    items.voices = torch.stack([rows[position] for position in range(items.count)]).cpu()


def _cepstra(task: MaskedPrediction, items: CropLoader, report: Counter) -> Float[Tensor, "n d"]:
    """Compute cepstra of the speech in all training items."""
    kept = []
    for done, batch in enumerate(items.sequential(), 1):
        clean = task.voice.normalised(batch.data.cpu(), batch.conditions["voice"].data.cpu())
        kept.append(task.voice.cepstra(clean)[speech_positions(batch.data.cpu(), task.stride)])
        report(done, items.count)
    return torch.cat(kept)


@torch.no_grad()
def _set(
    encoder: ContextEncoder,
    codebook: FrozenCodebook,
    items: CropLoader,
    seed: int,
    report: Counter,
) -> None:
    """Set the projection to principal components of the layer's output on speech; k-means gives the codes."""
    encoder.cpu().eval()
    features, speech = [], []
    for done, batch in enumerate(items.sequential(), 1):
        signal = batch.data.cpu()
        features.append(encoder.features(signal, batch.conditions.to(signal.device))[0].t())
        speech.append(speech_positions(signal, signal.shape[2] // len(features[-1]))[0])
        report(done, items.count)
    x, is_loud = torch.cat(features), torch.cat(speech)
    _, num_codes, dim = codebook.codes.shape
    encoder.mean.copy_(x[is_loud].mean(0))
    centred = (x[is_loud] - encoder.mean).double()
    variances, axes = torch.linalg.eigh(centred.t() @ centred / len(centred))
    dim = min(dim, len(variances))
    axes = axes[:, -dim:] / variances[-dim:].clamp_min(1e-8) ** WHITENING
    # The sign of an axis is arbitrary: make its largest entry positive.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    encoder.projection.zero_()
    encoder.projection[:, :dim] = axes.float()
    latents = (x - encoder.mean) @ encoder.projection
    silent = min(round(num_codes * SILENT_CODES), int((~is_loud).sum()))
    parts = [kmeans(latents[is_loud], num_codes - silent, seed, iterations=40)]
    if silent:
        parts.append(kmeans(latents[~is_loud], silent, seed, iterations=40))
    codebook.set(torch.cat(parts).unsqueeze(0).to(codebook.codes))
