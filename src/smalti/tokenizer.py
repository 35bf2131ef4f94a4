"""Tokenizer: a trained autoencoder, the priors over its codes, and its modality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.arguments import BATCH, as_path, check_count
from smalti.core.conditioners import shared_conditions
from smalti.core.conditions import Conditions, given_conditions
from smalti.core.hub import upload
from smalti.core.modality import Modality
from smalti.core.precision import full_precision
from smalti.core.priors import Prior, TrainablePrior
from smalti.data.sources.base import Source
from smalti.data.store import Store
from smalti.decoding import checked_codes, cropped, decode_codes
from smalti.encoding import EncodedItem, check_data, check_signals, encode_items, encode_signals
from smalti.models.decoded_windows import decode_parts
from smalti.models.sizes import check_any_size
from smalti.nn.symbols import as_codes
from smalti.priors.batches import continued, drawn_codes, grid_of_length
from smalti.priors.draws import DrawSettings
from smalti.stored_priors import LEARNED
from smalti.streaming import EncodingStream, cropped_blocks, reconstructed_blocks
from smalti.trained import TrainedModel, load_trained


@final
class Tokenizer:
    """Encodes signals (images, audio, clips) to codes, decodes codes, and samples new signals from a prior.

    Args:
        trained: a model with codes, and its priors.
        modality: of the signals; None for that of the model's training.

    Raises:
        InputError: if the model has no codes.
    """

    def __init__(self, trained: TrainedModel, modality: Modality | None = None) -> None:
        self.trained, self.autoencoder = trained, trained.autoencoder
        self.recipe, self.classes, self.actions = trained.recipe, trained.classes, trained.actions
        """Names of the actions in clips, by id."""
        self.directory, self.device = trained.directory, trained.device
        self.modality = modality or trained.modality
        self.priors = trained.priors
        """Priors by name, from the least to the most informed."""

    @classmethod
    def from_pretrained(
        cls, path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
    ) -> Tokenizer:
        """Load a tokenizer from a run, a `save_pretrained` directory, or the Hugging Face Hub.

        Args:
            path_or_hub_name: a directory, a model in this package (`smalti.shipped()`), or `owner/name`.
            device: None selects a GPU if one is available.
            load_priors: False skips the learned priors, unchecked.

        Raises:
            InputError: if the run does not exist, is incomplete or broken, or was written by a newer version.
        """
        return cls(load_trained(path_or_hub_name, device, load_priors))

    def native(self) -> Tokenizer:
        """Return this tokenizer for pictures or clips of any height and width.

        It encodes all pixels of an item, continued by reflection to a multiple of the model's stride, so that
        items have code grids of their own, and `encode`, `decode` and `reconstruct` return lists. `sizes` of
        `decode` removes the continuation.

        Raises:
            InputError: for other signals, or a model that takes signals of its training size only.
        """
        modality = self.modality.native()
        check_any_size(self.autoencoder)
        return Tokenizer(self.trained, modality)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights in memory; stored with codes to match them to their model."""
        return self.trained.fingerprint

    @property
    def learned(self) -> TrainablePrior | None:
        """The default prior for sampling, or None if the run has no learned prior."""
        return self.trained.learned.get(LEARNED)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape `(G, *grid)` of the codes of one item; for audio, of one training crop."""
        return (self.autoencoder.num_codebooks, *self.autoencoder.grid)

    @property
    def stored_code_shape(self) -> tuple[int | None, ...]:
        """`code_shape`, with None for the grid dimensions in which items differ."""
        num_codebooks, *grid = self.code_shape
        stored = self.modality.stored_shape[1:]
        sides = zip(grid, stored, strict=True)
        return (num_codebooks, *(None if side is None else places for places, side in sides))

    def encode(
        self,
        signals: Any,
        batch_size: int = BATCH,
        class_name: str | None = None,
        sample_rate: int | None = None,
    ) -> Any:
        """Encode images, audio or clips to codes.

        Args:
            signals: images: uint8 `(B, C, H, W)` or `(C, H, W)`, floats in [-1, 1], a Pillow image, a path,
                or a list of these. Audio: amplitudes in [-1, 1], `(T,)`, `(1, T)` or `(B, 1, T)`, a path, or
                a list of these. Clips: as images, `(B, C, F, H, W)` or
                `(C, F, H, W)`, a path, or a list of these.
            batch_size: maximum number of items per batch.
            class_name: class (speaker) of all items, for an encoder that pools statistics by speaker; without
                it, each item is its own source (see `smalti.encoding`).
            sample_rate: of tensors and arrays of audio, Hz; None for that of the model. Files have their own.

        Returns:
            For images, int64 `(B, G, h, w)`. For audio, whose lengths differ, a list with one `(1, G, n)`
            tensor per item: the n codes cover the item, padded with silence at its end. For clips, a list of
            `(1, G, n, h, w)` tensors, padded with black frames; for images of a `native` tokenizer, a list of
            `(1, G, h, w)` tensors.

        Raises:
            InputError: if the size or range of a signal does not fit, the class is unknown, or a setting is
                out of range.
        """
        batch_size = check_count("batch_size", batch_size)
        checked = check_signals(self.autoencoder, self.modality, signals, sample_rate)
        label = self.trained.label(class_name)
        items = checked if self.modality.is_ragged else checked.split(1)
        codes = encode_signals(self.autoencoder, self.modality, items, [label] * len(items), batch_size)
        return codes if self.modality.is_ragged else torch.cat(codes)

    def stream(self) -> EncodingStream:
        """Encode one recording or clip while it arrives, block by block; see `EncodingStream`.

        Raises:
            InputError: if codes, or the signal that the model sees, depend on the whole signal.
        """
        return EncodingStream(self.autoencoder, self.modality)

    def encode_items(
        self,
        data: Source | Store,
        split: str = "all",
        *,
        batch_size: int = BATCH,
        skipped: list[dict[str, str]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[EncodedItem]:
        """Encode every item of a source or store, in order; see `smalti.encoding.encode_items`.

        Raises:
            InputError: for other data, or if no item of a source can be read.
        """
        check_data(data)
        return encode_items(
            self.autoencoder,
            self.modality,
            data,
            split,
            labels=self.trained.label_ids,
            batch_size=check_count("batch_size", batch_size),
            skipped=skipped,
            progress=progress,
        )

    def decode(
        self,
        codes: Any,
        batch_size: int = BATCH,
        class_name: str | None = None,
        seed: int | None = 0,
        temperature: float = 1.0,
        conditions: Conditions | None = None,
        sizes: Any = None,
    ) -> Any:
        """Decode codes to images and clips (uint8) or audio (amplitudes in [-1, 1]).

        Args:
            codes: `(B, G, *grid)` of any integer type, as a tensor, an array or nested lists, or a list of
                such tensors or arrays for items of different lengths, as `encode` returns it.
            batch_size: items per batch; the draws of a seed depend on it.
            class_name: class (speaker) for a class-conditional decoder.
            seed: of the draws of an autoregressive decoder; None uses a new random seed.
            temperature: of those draws.
            conditions: further conditions that the decoder reads, of each item.
            sizes: original size of each item, such as `(height, width)`, to which its padding is removed; the
                first sides suffice, such as `(frames,)` of a clip.

        Returns:
            A list for a list of tensors or arrays, or with sizes; otherwise a tensor.

        Raises:
            InputError: if codes are out of range or have the wrong shape, the class is unknown, the
                decoder is not class-conditional, it does not read a condition, or a setting is out of range.
        """
        if sizes is not None:
            whole = self.decode(codes, batch_size, class_name, seed, temperature, conditions)
            items = whole if isinstance(whole, list) else list(whole.split(1))
            return cropped(items, sizes)
        if isinstance(codes, list | tuple) and any(hasattr(one, "shape") for one in codes):
            given = given_conditions(conditions, len(codes))
            settings = (batch_size, class_name, seed, temperature)
            return [self.decode(one, *settings, given.part([index])) for index, one in enumerate(codes)]
        signals = self.decode_signals(codes, batch_size, class_name, seed, temperature, conditions)
        with full_precision(self.autoencoder):
            return self.modality.render(signals)

    def decode_signals(
        self,
        codes: Any,
        batch_size: int = BATCH,
        class_name: str | None = None,
        seed: int | None = 0,
        temperature: float = 1.0,
        conditions: Conditions | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Decode codes `(B, G, *grid)` to signals in the model's range; see `decode`."""
        codes = checked_codes(codes, self.stored_code_shape)
        given = self.trained.decoder_conditions(len(codes), class_name, conditions)
        return decode_codes(self.autoencoder, codes, given, batch_size, seed, temperature)

    def decode_blocks(
        self,
        codes: Any,
        class_name: str | None = None,
        seed: int | None = 0,
        temperature: float = 1.0,
        conditions: Conditions | None = None,
        size: Sequence[int] | None = None,
    ) -> Iterator[Float[Tensor, "1 c _ *size"]]:
        """Decode one recording or clip block by block, in bounded memory if `has_blocks`; see `decode`.

        Args:
            codes: `(1, G, *grid)`.
            class_name, seed, temperature, conditions: as for `decode`.
            size: of the original, along its first axes, to which the padding is removed.

        Returns:
            Blocks along time, in the model's range, for `Modality.save_blocks`. Joined, they are the signal
            that `decode_signals` returns, bit for bit.

        Raises:
            InputError: as `decode`.
        """
        codes = checked_codes(codes, self.stored_code_shape)
        given = self.trained.decoder_conditions(1, class_name, conditions)
        if self.has_blocks:
            blocks = decode_parts(self.autoencoder, [codes], given.to(self.device))
        else:
            blocks = iter([decode_codes(self.autoencoder, codes, given, 1, seed, temperature)])
        return cropped_blocks(blocks, size)

    def reconstruct_blocks(
        self, blocks: Iterable[Any], class_name: str | None = None
    ) -> Iterator[Float[Tensor, "1 c _ *size"]]:
        """Encode and decode one recording or clip block by block, in bounded memory; see `decode_blocks`.

        Args:
            blocks: the parts of the signal, as for `stream`.
            class_name: as for `decode`.

        Raises:
            InputError: for a model whose codes, or whose decoded positions, depend on the whole signal.
        """
        given = self.trained.decoder_conditions(1, class_name, None).to(self.device)
        return reconstructed_blocks(self.autoencoder, self.modality, blocks, given)

    @property
    def has_blocks(self) -> bool:
        """True if each decoded position depends on a bounded part of the codes of a recording or clip."""
        return self.modality.spec.has_time and self.autoencoder.decoded_field is not None

    def reconstruct(
        self,
        signals: Any,
        batch_size: int = BATCH,
        class_name: str | None = None,
        sample_rate: int | None = None,
    ) -> Any:
        """Encode and decode signals; audio and clips keep their own length, images of a `native` tokenizer
        their own size.

        Args:
            signals: as in `encode`.
            batch_size: maximum number of images per batch; items of different sizes are decoded one by one.
            class_name: class (speaker) for a class-conditional decoder, as in `decode`.
            sample_rate: as in `encode`.

        Returns:
            For images, a tensor; for items of different sizes, a list with one tensor each (see `decode`).

        Raises:
            InputError: as `encode` and `decode`.
        """
        batch_size = check_count("batch_size", batch_size)
        if not self.modality.is_ragged:
            codes = self.encode(signals, batch_size, sample_rate=sample_rate)
            return self.decode(codes, batch_size, class_name)
        checked = check_signals(self.autoencoder, self.modality, signals, sample_rate)
        return [self.modality.render(self.through_codes(one, class_name)) for one in checked]

    def through_codes(
        self,
        signal: Float[Tensor, "1 c *size"],
        class_name: str | None = None,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> Float[Tensor, "1 c *size"]:
        """Encode and decode one signal in the model's range, keeping its size; see `decode`."""
        (codes,) = encode_signals(self.autoencoder, self.modality, [signal])
        decoded = self.decode_signals(codes, class_name=class_name, seed=seed, temperature=temperature)
        (cropped_to_signal,) = cropped([decoded], [signal.shape[2:]])
        return cropped_to_signal

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
        prior: str | Prior = LEARNED,
        progress: Callable[[int, int], None] | None = None,
        length: int | None = None,
        conditions: Conditions | None = None,
        guidance: float = 1.0,
    ) -> Int64[Tensor, "b g *grid"]:
        """Sample code grids from the learned prior, or from one of your own.

        Args:
            num: number of grids.
            class_name: one of `classes`; with None, the prior chooses one.
            temperature, top_k, top_p: of each draw.
            seed: None uses a new random seed.
            batch_size: grids per batch; the draws of a seed depend on it.
            prior: name of the learned prior, or any `Prior` over the codes of this model.
            progress: called with (symbols drawn, total symbols), by learned priors.
            length: codes along the time axis, for items that differ in length, from a prior that draws any
                length; None for the training length.
            conditions: further conditions that the prior reads, of each grid.
            guidance: weight of classifier-free guidance towards the class or actions; 1 for none.

        Raises:
            InputError: if there is no learned prior or no such class, the prior does not read a condition or
                draws no such length, or a setting is out of range.
        """
        chosen, num = self.trained.chosen_prior(prior), check_count("num", num)
        grid = grid_of_length(length, self.modality, self.autoencoder.grid)
        given = self.trained.prior_conditions(chosen, num, class_name, conditions).to(self.device)
        settings = (temperature, top_k, top_p)
        return drawn_codes(chosen, num, given, settings, guidance, grid, batch_size, seed, progress)

    def rollout(
        self,
        given: Any,
        actions: Sequence[str | None],
        before: Sequence[str | None] | None = None,
        num: int = 1,
        *,
        prior: str = LEARNED,
        **settings: Unpack[DrawSettings],
    ) -> Int64[Tensor, "b g all *grid"]:
        """Continue a clip's codes under actions: one code frame per action, without decoding to pixels.

        Args:
            given: codes of the clip's first F frames, `(1, G, F, *grid)`.
            actions: actions at the last given frame and at every generated frame except the last; None leaves
                an action unspecified.
            before: actions at the given frames except the last, F - 1 of them; None leaves all unspecified.
            num: number B of continuations.
            prior: name of the learned prior.
            settings: temperature, top_k, top_p, seed, batch_size, progress and guidance as in `sample_codes`.

        Returns:
            The given frames followed by one frame per action, `(B, G, F + len(actions), *grid)`.

        Raises:
            InputError: if there is no learned prior that continues codes, the model has no clips, the codes
                or actions do not fit, or a setting is out of range.
        """
        learned, codes = self.trained.learned_prior(prior), as_codes(given).to(self.device)
        signal = self.autoencoder.signal
        return continued(learned, signal, self.actions, codes, actions, before, num, **settings)

    def sample(
        self, num: int, class_name: str | None = None, conditions: Conditions | None = None, **settings: Any
    ) -> Any:
        """Sample new items in the format of `decode`; arguments as in `sample_codes`.

        Prior and decoder each get the conditions that they read; one of them must read each.
        """
        num, prior = check_count("num", num), settings.get("prior", LEARNED)
        readers = self.trained.chosen_prior(prior), self.autoencoder
        of_prior, of_decoder = shared_conditions(given_conditions(conditions, num), *readers)
        codes = self.sample_codes(num, class_name, conditions=of_prior, **settings)
        decoder_class = class_name if self.autoencoder.num_label_classes else None
        return self.decode(codes, class_name=decoder_class, seed=settings.get("seed"), conditions=of_decoder)

    def label(self, class_name: str) -> int:
        """Label of a class; raises `InputError` if it does not exist."""
        return self.trained.label(class_name)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the configuration, weights and priors as they are in memory, in the format that `load` reads.

        Raises:
            InputError: if the directory holds a training run, which could not be resumed afterwards.
        """
        self.trained.save(as_path(directory))

    def export(self, directory: str | Path) -> None:
        """Write `encode.pt2` and `decode.pt2`, `torch.export` programs that run without this package.

        See `smalti.models.programs.programs` for their inputs and outputs.

        Raises:
            InputError: if the decoder is autoregressive.
        """
        from smalti.models.programs import save_programs

        save_programs(self.autoencoder, as_path(directory))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hugging Face Hub and return the URL.

        Args:
            repository: `owner/name`.
            private: whether to make a newly created repository private.
            token: access token; None uses the stored login.
        """
        return upload(self.save_pretrained, repository, "Upload a smalti tokenizer", private, token)


load = Tokenizer.from_pretrained
