"""What an encoder of speech is told of a corpus: each speaker's voice, from all that the speaker says."""

from __future__ import annotations

import torch

from smalti.core.models import LatentVariableModel
from smalti.data.crops import CropLoader
from smalti.data.loader import Loader
from smalti.encoders.context import ContextEncoder
from smalti.encoders.voice import VoiceFinder


def tell_voices(model: LatentVariableModel, loader: Loader | CropLoader) -> None:
    """Let a loader give each item's voice, where the model's encoder wants one.

    Who says what, the labels tell; an utterance without one is a speaker of its own.
    """
    if isinstance(loader, CropLoader) and isinstance(model.encoder, ContextEncoder):
        finder = model.encoder.voice
        set_voices(loader, {name: finder.voice(u) for name, u in utterances_of(loader, finder).items()})


def set_voices(loader: CropLoader, voices: dict[int, torch.Tensor]) -> None:
    """Give these voices to the items of a loader, by speaker."""
    rows = [torch.empty(0)] * loader.count
    for speaker, positions in loader.speakers().items():
        for position in positions:
            rows[position] = voices[speaker].cpu()
    loader.voices = torch.stack(rows)


def utterances_of(loader: CropLoader, finder: VoiceFinder) -> dict[int, list[torch.Tensor]]:
    """The utterances `(M, T)` of each speaker, where the finder is."""
    device = finder.reference.device
    return {
        speaker: [loader.whole(position).data[0].to(device) for position in positions]
        for speaker, positions in loader.speakers().items()
    }
