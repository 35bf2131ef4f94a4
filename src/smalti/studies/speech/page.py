"""HTML page with players: recordings, their reconstructions and conversions, and samples of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smalti.app.pages.page import inline, sound, write_page
from smalti.core.errors import InputError
from smalti.studies.speech.figures import f0_curves, spectrograms
from smalti.studies.speech.pitch import f0
from smalti.tokenizer import Tokenizer

PLAYED = 4
"""Number of utterances on the page."""


def rate_of(tokenizer: Tokenizer) -> int:
    """Return the sample rate of the run's audio, Hz.

    Raises:
        InputError: when the run is not over audio.
    """
    if tokenizer.modality.sample_rate_hz is None:
        raise InputError(f"expected a run over sounds, received one over {tokenizer.modality.plural_name}")
    return tokenizer.modality.sample_rate_hz


def write_speech_page(
    tokenizer: Tokenizer, spoken: Sequence[tuple[str, dict[str, np.ndarray]]], seed: int
) -> None:
    """Write the page as `index.html` in the run, with its figures.

    Args:
        tokenizer: tokenizer of a run over audio, with a prior.
        spoken: name of each utterance, and its waveforms `(T,)` by title; only the first few are shown.
        seed: seed of the samples.
    """
    rate_hz = rate_of(tokenizer)
    seconds = tokenizer.modality.seconds(tokenizer.autoencoder.stride)
    assert seconds is not None
    figures = tokenizer.directory / "figures"
    rows = []
    for index, (name, waveforms) in enumerate(spoken[:PLAYED]):
        pictures = figures / f"conversion{index}.png", figures / f"conversion{index}_f0.png"
        spectrograms(waveforms, rate_hz, pictures[0])
        f0_curves({title: f0(w, rate_hz) for title, w in waveforms.items()}, 0.01, pictures[1])
        rows.append(
            {
                "name": name,
                "sounds": [(title, sound(w, rate_hz)) for title, w in waveforms.items()],
                "pictures": [inline(picture) for picture in pictures],
            }
        )
    drawn = tokenizer.sample_codes(6, seed=seed, temperature=0.9)
    signals = tokenizer.decode_signals(drawn, seed=seed)
    samples = [sound(w[0].numpy(), rate_hz) for w in tokenizer.modality.render(signals)]
    picture = figures / "speech_samples.png"
    tokenizer.modality.preview([signals]).save(picture)
    write_page(
        tokenizer.directory / "index.html",
        "speech.html.j2",
        package="smalti.studies.speech",
        title=f"{tokenizer.recipe.name}: {tokenizer.trained.model.title}",
        codes_per_second=f"{1 / seconds:g}",
        num_codes=tokenizer.autoencoder.num_codes,
        speakers=", ".join(tokenizer.classes[:12]) + (", ..." if len(tokenizer.classes) > 12 else ""),
        rows=rows,
        samples=samples,
        samples_picture=picture,
        curves=figures / "learning_curves.png",
    )
