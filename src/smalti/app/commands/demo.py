"""`smalti demo`: train, sample and evaluate on generated letters, and write an HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti import __version__
from smalti.app.commands.evaluate import evaluate, note_of_lossless, show
from smalti.app.commands.train import train
from smalti.app.commands.train_prior import train_prior
from smalti.app.console import amount, note
from smalti.app.letters import LettersSource, write_folder
from smalti.app.pages.page import inline, write_page
from smalti.app.provenance import device
from smalti.core.conditions import Conditions
from smalti.data.loader import split_indices
from smalti.evaluation.figures import code_maps, code_pixels
from smalti.modalities.image.modality import ImageModality
from smalti.modalities.image.pictures import to_picture
from smalti.stored_priors import PRIOR_DIRECTORY
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RunDirectory

SAMPLES_PER_CLASS = 4
SHOWN = 24
WORD = "smalti"
"""Letters whose first samples stand in the first row of the page."""
TEMPERATURE, GUIDANCE = 0.8, 2.0
"""Sampling settings; without guidance, a third of the samples are illegible."""


def write_pictures(directory: Path, num: int, split: str = "train", quiet: bool = False) -> None:
    """Write letters as a folder of pictures with one subfolder per class; "test" uses held-out fonts.

    Raises:
        InputError: when the directory is not empty, or `num` is below 1.
    """
    write_folder(directory, num, split=split)
    train = f"train image --data {directory} --out runs/{directory.name}"
    command = train if split == "train" else f"evaluate RUN --data {directory}"
    note(f"{directory} holds {amount(num, 'pictures')}. Next: smalti {command}", quiet)


def demo(out: Path, assignments: Sequence[str] = (), quiet: bool = False) -> Path:
    """Train an autoencoder and a prior on letters, evaluate on held-out fonts, and write an HTML report.

    Args:
        out: directory of the run and of `index.html`.
        assignments: `key=value` texts; keys that begin with `prior.` configure the prior.
        quiet: hide progress.

    Returns:
        Path of the page.
    """
    to_prior = [text.removeprefix("prior.") for text in assignments if text.startswith("prior.")]
    to_autoencoder = [text for text in assignments if not text.startswith("prior.")]
    run = out / "run"
    train("letters", None, run, to_autoencoder, quiet, suggest=False)
    train_prior(run, to_prior, quiet, suggest=False)
    report = evaluate(str(run), "letters", "test", quiet=quiet)
    if not quiet:
        show(report)
    page = out / "index.html"
    _write(page, load(run), report)
    note(f"The page is {page}: open it in a browser.", quiet)
    return page


def _write(page: Path, tokenizer: Tokenizer, report: dict[str, Any]) -> None:
    run, modality, autoencoder = tokenizer.directory, _modality(tokenizer), tokenizer.autoencoder
    source = LettersSource()
    originals = torch.stack(
        [
            torch.from_numpy(modality.decode(np.asarray(source.item("test", index).content)))
            for index in range(SHOWN)
        ]
    )
    figures = run / "figures"
    reconstructions = tokenizer.reconstruct(originals)
    codes = tokenizer.encode(originals[:8])
    code_maps(codes, autoencoder.num_codes, figures / "codes_demo.png", originals=originals[:8])
    samples = _samples(tokenizer)
    positions = autoencoder.num_codebooks * math.prod(autoencoder.grid)
    spec = autoencoder.signal
    code_bits = round(positions * math.log2(autoencoder.num_codes))
    raw_bits = round(spec.dims * math.log2(spec.levels))
    training, held_out = split_indices(source.count("train"), tokenizer.recipe.validation_fraction)
    best = min(report["bits_per_dim"], key=lambda name: report["bits_per_dim"][name]["bits_per_dim"])
    reconstruction, use = report["reconstruction"], report["codebook"]
    write_page(
        page,
        "demo.html.j2",
        version=__version__,
        num_train=f"{len(training):,}",
        num_validation=f"{len(held_out):,}",
        num_test=f"{report['num']:,}",
        num_codes=autoencoder.num_codes,
        num_codebooks=autoencoder.num_codebooks,
        positions=positions,
        dims=f"{spec.dims:,}",
        grid="x".join(str(n) for n in autoencoder.grid),
        code_bits=f"{code_bits:,}",
        raw_bits=f"{raw_bits:,}",
        ratio=f"{raw_bits / code_bits:.0f}",
        **_glance(originals[0], codes[0, 0], reconstructions[0], autoencoder.num_codes),
        word=WORD,
        new_letters=modality.preview([torch.stack([samples[letter][0] for letter in WORD])], 3, scale=3),
        reconstructions=modality.preview([originals, reconstructions], columns=8),
        psnr=f"{reconstruction['psnr']:.1f}",
        ssim=f"{reconstruction['ssim']:.3f}",
        codes=figures / "codes_demo.png",
        samples=[
            (name, inline(modality.preview([drawn], columns=2, scale=2))) for name, drawn in samples.items()
        ],
        temperature=TEMPERATURE,
        guidance=f"{GUIDANCE:g}",
        rows=[
            {"name": name, "best": name == best, **{key: _figure(value) for key, value in row.items()}}
            for name, row in report["bits_per_dim"].items()
        ],
        files=[(name, _figure(bits)) for name, bits in report["lossless_bits_per_dim"].items()],
        note=note_of_lossless(report),
        usage=figures / "usage_evaluation.png",
        usage_text=f"The held-out letters use {use['usage']:.0%} of the {autoencoder.num_codes} codes "
        f"(perplexity {use['perplexity']:.0f}).",
        autoencoder_seconds=f"{RunDirectory(run).seconds:.0f}",
        prior_seconds=f"{RunDirectory(run / PRIOR_DIRECTORY).seconds:.0f}",
        autoencoder_curves=figures / "learning_curves.png",
        prior_curves=run / PRIOR_DIRECTORY / "figures" / "learning_curves.png",
        device=device(),
        protocol=report["protocol"],
    )


def _glance(original: Tensor, codes: Tensor, reconstruction: Tensor, num_codes: int) -> dict[str, Any]:
    """Draw one letter, its codes and its reconstruction, all of one size."""
    letter, decoded = (to_picture(one.movedim(0, -1).numpy()) for one in (original, reconstruction))
    code_map = Image.fromarray(code_pixels(codes, num_codes)).resize(letter.size, Image.Resampling.NEAREST)
    return {"original": letter, "code_map": code_map, "reconstruction": decoded}


def _samples(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Draw a few pictures of each class."""
    num_classes = len(tokenizer.classes)
    labels = torch.arange(num_classes).repeat_interleave(SAMPLES_PER_CLASS)
    codes = tokenizer.sample_codes(
        len(labels), conditions=Conditions(label=labels), seed=0, temperature=TEMPERATURE, guidance=GUIDANCE
    )
    drawn = torch.as_tensor(tokenizer.decode(codes))
    return dict(zip(tokenizer.classes, drawn.split(SAMPLES_PER_CLASS), strict=True))


def _modality(tokenizer: Tokenizer) -> ImageModality:
    modality = tokenizer.modality
    assert isinstance(modality, ImageModality)
    return modality


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
