"""Figures and code counts of a run that has finished training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.app.console import counting, note
from smalti.app.runs import DATA_DIRECTORY, draw_learning_curves
from smalti.app.training_items import TrainingItems
from smalti.core.conditions import Batch
from smalti.core.models import Autoencoder
from smalti.core.plugins import plugin_options
from smalti.data.loader import evenly_spaced
from smalti.data.store import Store
from smalti.data.stream import StreamLoader
from smalti.encoding import encode_items, same_shape
from smalti.evaluation.codebook import counts_by_codebook
from smalti.evaluation.figures import code_maps, usage_histogram
from smalti.priors.unigram import UnigramPrior
from smalti.stored_priors import UNIGRAM_FILE, write_unigram
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RunDirectory

SHOWN_ITEMS = 16


def finish(run: RunDirectory, items: TrainingItems, quiet: bool, suggest: bool) -> None:
    """Write the figures of a finished run; for a model with codes, count the codes of the training items."""
    trained = TrainedModel.load(run.path, load_priors=False)
    modality = trained.modality
    run.figures_path.mkdir(exist_ok=True)
    looked_at = items.held_out or items.training
    near = SHOWN_ITEMS if isinstance(looked_at, StreamLoader) else looked_at.count
    batch = looked_at.items(evenly_spaced(np.arange(min(near, looked_at.count)), SHOWN_ITEMS))
    shown, conditions = batch.data.to(trained.device), batch.conditions.to(trained.device)
    generator = torch.Generator().manual_seed(trained.recipe.training.seed)
    with torch.no_grad():
        reconstructed = trained.model.reconstruct(shown, conditions, generator).cpu()
    modality.preview([shown.cpu(), reconstructed]).save(run.figures_path / "reconstructions.png")
    draw_learning_curves(run)
    next_step = ""
    if isinstance(trained.model, Autoencoder):
        _count_codes(run, trained, items, quiet)
        codes = trained.model.encode(shown, conditions)[:8].cpu()
        code_maps(codes, trained.model.num_codes, run.figures_path / "codes.png")
        next_step = f" Next: smalti train-prior {run.path}{plugin_options()}" if suggest else ""
    note(f"The run is in {run.path}.{next_step}", quiet)


def _count_codes(run: RunDirectory, trained: TrainedModel, items: TrainingItems, quiet: bool) -> None:
    """Save the number of occurrences of each code in the training items."""
    model = trained.autoencoder
    unigram = UnigramPrior(model.num_codes, model.num_codebooks, model.grid)
    generator = torch.Generator().manual_seed(trained.recipe.training.seed)
    with counting("Counting codes", quiet) as count:
        if isinstance(items.training, StreamLoader):
            total = min(items.training.count, trained.recipe.data.stream_buffer)
            batches = items.training.sequential(total)
            drawn = (codes for each in batches for codes in _codes_without_padding(trained, each, generator))
        else:
            total = len(items.training_indices)
            encoded = encode_items(
                model,
                trained.modality,
                Store.open(run.path / DATA_DIRECTORY),
                indices=items.training_indices,
                labels=trained.label_ids,
                batch_size=256,
                generator=generator,
            )
            drawn = (torch.stack([item.codes for item in group]) for group in same_shape(encoded, 256))
        done = 0
        for codes in drawn:
            unigram.count(codes.cpu())
            done += len(codes)
            count(done, total)
    write_unigram(run.path / UNIGRAM_FILE, unigram, trained.fingerprint)
    counts = counts_by_codebook(unigram.counts, model.codebook_ids)
    usage_histogram(counts, run.figures_path / "usage.png")
    used = (counts > 0).float().mean().item()
    note(f"{used:.1%} of the codes are used on the training data ({model.title}).", quiet)


def _codes_without_padding(
    trained: TrainedModel, batch: Batch, generator: torch.Generator
) -> Iterator[Int64[Tensor, "n g *grid"]]:
    """Codes of a batch, together, or those of each item that cover it if some are padded."""
    model = trained.autoencoder
    codes = model.draw_codes(batch.data.to(trained.device), generator, batch.conditions.to(trained.device))
    if batch.lengths is None:
        yield codes
        return
    stride = batch.data.shape[2] // codes.shape[2]
    for item, length in zip(codes, batch.lengths.tolist(), strict=True):
        yield item[None, :, : -(-length // stride)]
