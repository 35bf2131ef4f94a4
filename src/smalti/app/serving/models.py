"""The models that a page serves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from smalti.app.serving.atlas import Atlas, atlas
from smalti.core.errors import InputError
from smalti.tokenizer import Tokenizer, load


@final
@dataclass
class Served:
    """A model, its name on the page, and its atlas.

    Attributes:
        name: on the page.
        tokenizer: the model.
    """

    name: str
    tokenizer: Tokenizer
    _atlas: Atlas | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def atlas(self) -> Atlas:
        """Tiles and frequencies of its codes, computed at the first use."""
        with self._lock:
            if self._atlas is None:
                self._atlas = atlas(self.tokenizer)
            return self._atlas

    @property
    def is_sound(self) -> bool:
        """True for a model of sounds."""
        return self.tokenizer.modality.sample_rate_hz is not None

    @property
    def is_clip(self) -> bool:
        """True for a model of clips."""
        return self.tokenizer.autoencoder.signal.is_clip

    @property
    def item(self) -> str:
        """Name of one of its items."""
        return "recording" if self.is_sound else "clip" if self.is_clip else "picture"

    @property
    def decoder_classes(self) -> list[str]:
        """Classes (speakers) that its decoder reads; empty for a decoder that reads none."""
        return list(self.tokenizer.classes) if self.tokenizer.autoencoder.num_label_classes else []

    def decoder_class(self, chosen: str | None) -> str | None:
        """Return the class to decode with: the chosen one, or the first, for a decoder that reads classes."""
        return (chosen or self.decoder_classes[0]) if self.decoder_classes else None


def load_models(runs: Sequence[str]) -> dict[str, Served]:
    """Load runs, by the names under which a page shows them.

    Raises:
        InputError: if one cannot be loaded, or is of codes or volumes, which a page cannot show.
    """
    served: dict[str, Served] = {}
    for run in runs:
        tokenizer = load(run)
        spec = tokenizer.autoencoder.signal
        is_picture = spec.has_pictures and not spec.is_continuous and spec.channels in (1, 3)
        if tokenizer.modality.sample_rate_hz is None and not is_picture:
            raise InputError(
                f"expected a run of pictures, recordings or clips to serve, received {run} of "
                f"{tokenizer.modality.plural_name}: leave it out"
            )
        name = _unused(Path(run).resolve().name if Path(run).exists() else run, served)
        served[name] = Served(name, tokenizer)
    return served


def _unused(name: str, taken: dict[str, Served]) -> str:
    """Return the name, with a number if it is taken."""
    number, unused = 2, name
    while unused in taken:
        unused, number = f"{name} ({number})", number + 1
    return unused
