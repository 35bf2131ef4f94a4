"""A trained tokenizer: an autoencoder, the priors over its codes, and the modality that it was made for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.hub import locate, upload
from smalti.core.pretrained import CONFIG_FILE, WEIGHTS_FILE
from smalti.data.sources.base import Source
from smalti.data.store import Store
from smalti.encoding import BATCH, EncodedItem, encode_items, encode_signals
from smalti.priors.autoregressive import LearnedPrior
from smalti.trained import LEARNED, PRIOR_DIRECTORY, UNIGRAM_FILE, TrainedModel

FILES = (CONFIG_FILE, WEIGHTS_FILE)
PATTERNS = (*FILES, UNIGRAM_FILE, *(f"{PRIOR_DIRECTORY}*/{file}" for file in FILES))
"""What `load` reads of a repository on the Hub."""

Codes = Int64[Tensor, "b g *grid"] | list[Tensor]
"""Codes of items of one size, or a list with `(1, G, n, ...)` for each of items that differ in length."""


def load(path_or_hub_name: str | Path, device: str | torch.device | None = None) -> Tokenizer:
    """Load a tokenizer from a run, from what `save_pretrained` wrote, or from the Hugging Face Hub.

    Args:
        path_or_hub_name: a directory, or `owner/name`.
        device: None is a GPU if there is one.

    Raises:
        InputError: when there is no such run, it is half written, broken, or from a newer version.
    """
    return Tokenizer.from_pretrained(path_or_hub_name, device)


def load_trained(
    path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
) -> TrainedModel:
    """A run, or what is on the Hub, with or without codes; see `load`."""
    return TrainedModel.load(locate(path_or_hub_name, PATTERNS), device, load_priors)


@final
class Tokenizer:
    """Signals (pictures, sounds, clips) to codes, codes to signals, and new signals from a prior.

    Args:
        trained: a model with codes, and its priors.

    Raises:
        InputError: when the model has no codes.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained, self.autoencoder = trained, trained.autoencoder
        self.recipe, self.classes, self.actions = trained.recipe, trained.classes, trained.actions
        """Names of what is done in clips, by id."""
        self.directory, self.modality, self.device = trained.directory, trained.modality, trained.device
        self.priors = trained.priors
        """By name, from the least to the most informed."""

    @classmethod
    def from_pretrained(
        cls, path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
    ) -> Tokenizer:
        """See `load`; without `load_priors` the learned priors are left alone, whatever their state."""
        return cls(load_trained(path_or_hub_name, device, load_priors))

    @property
    def fingerprint(self) -> str:
        """What identifies the model's weights as they are in memory: codes carry it."""
        return self.trained.fingerprint

    @property
    def learned(self) -> LearnedPrior | None:
        """The prior that samples are drawn from, unless another is named."""
        return self.trained.learned.get(LEARNED)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """`(G, *grid)`: shape of the codes of one item; of sounds, of one training crop."""
        return (self.autoencoder.num_codebooks, *self.autoencoder.grid)

    @property
    def stored_code_shape(self) -> tuple[int | None, ...]:
        """`code_shape`, with None as the first side of its grid where items differ in it."""
        num_codebooks, first, *others = self.code_shape
        return (num_codebooks, None if self.modality.is_ragged else first, *others)

    def encode(self, signals: Any, batch_size: int = BATCH, class_name: str | None = None) -> Any:
        """Codes of pictures, sounds or clips.

        Args:
            signals: pictures: uint8 `(B, C, H, W)` or `(C, H, W)`, floats in [-1, 1], a picture of Pillow, a
                path, or a list of these. Sounds: amplitudes in [-1, 1] at the model's rate, `(T,)`, `(1, T)`
                or `(B, 1, T)`, a path, or a list of these. Clips: as pictures, `(B, C, F, H, W)` or
                `(C, F, H, W)`, a path, or a list of these.
            batch_size: items at a time.
            class_name: class (speaker) of all of them, for an encoder that pools statistics of a speaker;
                without one each item is a source of its own (see `smalti.encoding`).

        Returns:
            For pictures int64 `(B, G, h, w)`. For sounds, whose lengths differ, a list with `(1, G, n)` for
            each: n codes cover the item, whose end is padded with silence. For clips likewise
            `(1, G, n, h, w)`, padded with black.

        Raises:
            InputError: for another size or range, or an unknown class.
        """
        checked = self.modality.check(signals)
        label = -1 if class_name is None else self.label(class_name)
        items = checked if self.modality.is_ragged else checked.split(1)
        codes = encode_signals(self.autoencoder, self.modality, items, [label] * len(items), batch_size)
        return codes if self.modality.is_ragged else torch.cat(codes)

    def encode_items(
        self,
        data: Source | Store,
        split: str = "all",
        *,
        batch_size: int = BATCH,
        skipped: list[dict[str, str]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[EncodedItem]:
        """Codes of every item of a source or store, in order; see `smalti.encoding.encode_items`."""
        return encode_items(
            self.autoencoder,
            self.modality,
            data,
            split,
            labels=self.trained.label_ids,
            batch_size=batch_size,
            skipped=skipped,
            progress=progress,
        )

    def shown_class(self, label: str | None) -> str | None:
        """The model's name for a class, by the name that a source has for it."""
        return None if label is None else self.recipe.class_names.get(label, label)

    def decode(
        self,
        codes: Codes,
        batch_size: int = BATCH,
        class_name: str | None = None,
        seed: int | None = 0,
        temperature: float = 1.0,
    ) -> Any:
        """Pictures and clips (uint8) or sounds (amplitudes in [-1, 1]) of codes.

        Args:
            codes: as `encode` gives them, a tensor or a list of tensors.
            batch_size: items at a time; it is part of what a seed draws.
            class_name: a class (speaker) that the decoder is told, where it takes one.
            seed: of the draws of an autoregressive decoder; None draws differently each time.
            temperature: of those draws.

        Returns:
            A tensor for a tensor, a list for a list.

        Raises:
            InputError: for codes out of range or of another shape, or a class that there is not.
        """
        if isinstance(codes, list):
            decoded = [self.decode_signals(one, batch_size, class_name, seed, temperature) for one in codes]
            return [self.modality.render(signal) for signal in decoded]
        return self.modality.render(self.decode_signals(codes, batch_size, class_name, seed, temperature))

    @torch.no_grad()
    def decode_signals(
        self,
        codes: Int64[Tensor, "b g *grid"],
        batch_size: int = BATCH,
        class_name: str | None = None,
        seed: int | None = 0,
        temperature: float = 1.0,
    ) -> Float[Tensor, "b c *size"]:
        """`decode`, in the model's range."""
        fits = codes.ndim == 1 + len(self.code_shape) and all(
            expected in (None, side)
            for expected, side in zip(self.stored_code_shape, codes.shape[1:], strict=True)
        )
        if not fits:
            sides = ["?" if side is None else str(side) for side in self.stored_code_shape]
            raise InputError(
                f"expected codes of shape (B, {', '.join(sides)}), received "
                f"{tuple(codes.shape)}: give codes that this model made"
            )
        generator = _generator(seed)
        label = -1 if class_name is None else self.label(class_name)
        if class_name is not None and not self.autoencoder.num_label_classes:
            raise InputError(
                f"expected no class to decode as, this decoder is told none, received {class_name!r}: leave "
                "it out, or train a decoder that is told (kind=wavenet, or decoder.use_labels=true)"
            )
        parts = []
        for part in codes.split(batch_size):
            labels = torch.full((len(part),), label, device=self.device) if self.classes else None
            decoded = self.autoencoder.decode(
                part.to(self.device), Conditions(label=labels), generator, temperature
            )
            parts.append(decoded.cpu())
        return torch.cat(parts)

    def reconstruct(self, signals: Any, batch_size: int = BATCH, class_name: str | None = None) -> Any:
        """`decode(encode(signals))`; of a sound or a clip, in its own length."""
        if not self.modality.is_ragged:
            return self.decode(self.encode(signals, batch_size), batch_size, class_name)
        return [
            self.modality.render(self.through_codes(one, class_name)) for one in self.modality.check(signals)
        ]

    def through_codes(
        self,
        signal: Float[Tensor, "1 c *size"],
        class_name: str | None = None,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> Float[Tensor, "1 c *size"]:
        """One signal in the model's range, encoded and decoded, in its own length; see `decode`."""
        (codes,) = encode_signals(self.autoencoder, self.modality, [signal])
        decoded = self.decode_signals(codes, class_name=class_name, seed=seed, temperature=temperature)
        return decoded[:, :, : signal.shape[2]]

    def sample_codes(
        self,
        num: int,
        class_name: str | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch_size: int = BATCH,
        prior: str = LEARNED,
        progress: Callable[[int, int], None] | None = None,
        length: int | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw code grids from the learned prior.

        Args:
            num: how many.
            class_name: one of `classes`; None draws without naming a class.
            temperature, top_k, top_p: of each draw.
            seed: None draws differently each time.
            batch_size: grids at a time; it is part of what a seed draws.
            prior: name of the learned prior.
            progress: called with (symbols drawn, symbols in all), counted once a batch.
            length: codes along the first axis (time), of ragged items; None for as many as the prior knows.

        Raises:
            InputError: when there is no learned prior or no such class, or a setting is out of range.
        """
        learned = self._learned(prior)
        if num < 1:
            raise InputError(f"expected num of at least 1, received {num}; ask for one sample or more")
        if length is not None and not self.modality.is_ragged:
            raise InputError(
                f"expected no length, {self.modality.noun} of this model have one size: leave it out"
            )
        grid = learned.grid if length is None else (length, *learned.grid[1:])
        label = -1 if class_name is None else self.label(class_name)

        def drawn(size: int, **settings: Any) -> Tensor:
            labels = torch.full((size,), label, device=self.device)
            told = Conditions(label=labels if learned.network.num_classes else None)
            return learned.sample(size, told, temperature, top_k, top_p, grid=grid, **settings)

        return _in_batches(drawn, num, batch_size, seed, progress)

    def rollout(
        self,
        given: Int64[Tensor, "_ g given *grid"],
        actions: Sequence[str | None],
        before: Sequence[str | None] | None = None,
        num: int = 1,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch_size: int = BATCH,
        prior: str = LEARNED,
        progress: Callable[[int, int], None] | None = None,
    ) -> Int64[Tensor, "b g all *grid"]:
        """Go on from a clip's codes under actions: one frame of codes for each, all of them before any pixel.

        Args:
            given: codes of the clip's first F frames, `(1, G, F, *grid)`.
            actions: what is done at the last of these, and at each frame that is drawn but the last; None
                leaves it open.
            before: what was done at the given frames but the last, F - 1 actions; None leaves all open.
            num: how many continuations B.
            temperature, top_k, top_p: of each draw.
            seed: None draws differently each time.
            batch_size: clips at a time; it is part of what a seed draws.
            prior: name of the learned prior.
            progress: called with (symbols drawn, symbols in all), counted once a batch.

        Returns:
            The given frames and one for each action, `(B, G, F + len(actions), *grid)`.

        Raises:
            InputError: when there is no learned prior, it is of no clips, codes or actions do not fit, or a
                setting is out of range.
        """
        learned = self._learned(prior)
        frames = given.shape[2] if given.ndim == 5 else 0
        if not self.autoencoder.signal.is_clip or frames < 1 or len(given) != 1 or not actions or num < 1:
            raise InputError(
                "expected codes (1, G, frames, rows, columns) of a clip, at least one action and num of at "
                f"least 1, received {tuple(given.shape)}, {len(actions)} and {num}: give what encode makes "
                "of a clip"
            )
        if before is not None and len(before) != frames - 1:
            raise InputError(
                f"expected {frames - 1} actions before the last of {frames} frames, received {len(before)}"
            )
        done = [*(before or [None] * (frames - 1)), *actions, None]
        ids = [-1 if name is None else self._action(name, learned) for name in done]
        grid, beginning = (len(done), *learned.grid[1:]), given.to(self.device)

        def drawn(size: int, **settings: Any) -> Tensor:
            told = Conditions(action=torch.tensor([ids] * size, device=self.device))
            begun = beginning.repeat(size, 1, 1, 1, 1)
            return learned.sample(size, told, temperature, top_k, top_p, grid=grid, given=begun, **settings)

        return _in_batches(drawn, num, batch_size, seed, progress)

    def _action(self, name: str, prior: LearnedPrior) -> int:
        if not prior.network.num_actions or name not in self.actions:
            known = ", ".join(self.actions) if prior.network.num_actions else "none that this prior is told"
            raise InputError(f"expected an action of this model, received {name!r}: the actions are {known}")
        return self.actions.index(name)

    def sample(self, num: int, class_name: str | None = None, **settings: Any) -> Any:
        """New items, as `decode` gives them; the arguments are those of `sample_codes`."""
        codes = self.sample_codes(num, class_name, **settings)
        told = class_name if self.autoencoder.num_label_classes else None
        return self.decode(codes, class_name=told, seed=settings.get("seed"))

    def _learned(self, name: str) -> LearnedPrior:
        known = self.trained.learned
        if name in known:
            return known[name]
        if name == LEARNED or not known:
            raise InputError(
                f"expected a learned prior in {self.directory / PRIOR_DIRECTORY}, found none: "
                f"run `smalti train-prior {self.directory}` first"
            )
        raise InputError(
            f"expected a learned prior of this run, received {name!r}: there are {', '.join(known)}"
        )

    def label(self, class_name: str) -> int:
        """The label of a class.

        Raises:
            InputError: when there is no such class.
        """
        if class_name not in self.classes:
            known = (
                ", ".join(self.classes) if self.classes else "none: this model was trained without classes"
            )
            raise InputError(
                f"expected a class of this model, received {class_name!r}: the classes are {known}"
            )
        return self.classes.index(class_name)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write configuration and weights as they are in memory, priors included, where `load` finds them.

        Raises:
            InputError: when the directory holds a training run, which could not be resumed afterwards.
        """
        self.trained.save(Path(directory))

    def export(self, directory: str | Path) -> None:
        """Write `encode.pt2` and `decode.pt2`, programs of `torch.export` that run without this package.

        See `smalti.models.programs.programs` for what they take and give.

        Raises:
            InputError: when the decoder draws sample by sample.
        """
        from smalti.models.programs import programs

        for name, program in zip(("encode", "decode"), programs(self.autoencoder), strict=True):
            with atomic_file(Path(directory) / f"{name}.pt2") as temporary:
                torch.export.save(program, temporary)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hugging Face Hub; gives the address.

        Args:
            repository: `owner/name`.
            private: of a repository that does not exist yet.
            token: None takes the one that is logged in.
        """
        return upload(self.save_pretrained, repository, "Upload a smalti tokenizer", private, token)


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return generator


def _in_batches(
    draw: Callable[..., Tensor],
    num: int,
    batch_size: int,
    seed: int | None,
    progress: Callable[[int, int], None] | None,
) -> Int64[Tensor, "b g *grid"]:
    """What `draw` draws of `num` items, so many at a time, from one generator; on the host."""
    generator, parts = _generator(seed), []
    batches = math.ceil(num / batch_size)
    for batch in range(batches):
        size = min(batch_size, num - batch * batch_size)
        told = progress and _of_batch(progress, batch, batches)
        parts.append(draw(size, generator=generator, progress=told).cpu())
    return torch.cat(parts)


def _of_batch(progress: Callable[[int, int], None], batch: int, batches: int) -> Callable[[int, int], None]:
    """What one of several batches of equal work reports, as progress of all of them."""
    return lambda done, total: progress(batch * total + done, batches * total)
