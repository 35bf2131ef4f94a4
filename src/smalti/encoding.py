"""Encoding of data to codes: the one path that every command and study uses.

An encoder may be conditioned on statistics of all items of a label, such as a speaker's voice
(`smalti.encoders.pooling`). Which statistics an item gets:

1. an item with a label of the training data: the statistics computed and saved in training;
2. an item with another label: those of all items with that label in the same source (or store);
3. an item without a label, or a signal encoded on its own: its own statistics.

Codes do not depend on the other items of a batch. Items that may differ in length are encoded in windows
(`smalti.models.windows`) if their codes have a bounded receptive field, and one by one if not. In the first
case, long files are encoded while they are decoded, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.arguments import BATCH
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import Autoencoder
from smalti.core.precision import in_full_precision
from smalti.data.arrivals import Arriving, ItemCounter, decoded_items, joined, part_of
from smalti.data.columns import Columns
from smalti.data.ingest import readable
from smalti.data.padding import padded, whole_size
from smalti.data.sources.base import Source, UnreadableItem
from smalti.data.store import Store
from smalti.data.store_layout import Actions, Decoded
from smalti.encoders.pooling import PoolingEncoder, item_statistics
from smalti.models.windows import Read, encode_each
from smalti.streaming import EncodingStream, is_local

AHEAD_BYTES = 64 << 20
"""Maximum bytes of items that are read before they are encoded, not counting the last one."""

NO_LABELS: Mapping[str, int] = {}


@final
@dataclass(frozen=True)
class EncodedItem:
    """Codes of one item, with its metadata from the source.

    Attributes:
        name: name in the source.
        codes: `(G, *grid)`, on the CPU.
        label: class name used by the source; None if unlabelled.
        size: size of the signal, without padding.
        actions: actions of a clip, one per frame; None if the source has none.
        columns: further conditions of the item, by name; see `smalti.data.columns`.
    """

    name: str
    codes: Int64[Tensor, " g *grid"]
    label: str | None
    size: tuple[int, ...]
    actions: Actions | None = None
    columns: Columns = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Length of the signal along its first axis, without padding."""
        return self.size[0]


@torch.no_grad()
def encode_items(
    model: Autoencoder,
    modality: Modality,
    data: Source | Store,
    split: str = "all",
    *,
    labels: Mapping[str, int] = NO_LABELS,
    indices: Int64[np.ndarray, " m"] | None = None,
    view: int = 0,
    batch_size: int = BATCH,
    generator: torch.Generator | None = None,
    skipped: list[dict[str, str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[EncodedItem]:
    """Encode every item of a source or store, in order.

    The codes of an item do not depend on the batch size or on the other items.

    Args:
        model: in evaluation mode.
        modality: of the signals.
        data: a source, whose items are decoded, or a store of decoded items.
        split: of a source.
        labels: the model's label of each class, by the class name used in the data.
        indices: items of a store to encode; None for all. Statistics of a label still cover all its items.
        view: variant of each item of a store to encode; see `Modality.view`.
        batch_size: maximum number of items per batch.
        generator: draws codes from the posterior, as training data for a prior; None selects the most
            probable codes. For a deterministic encoder there is no difference.
        skipped: list to which {"name", "reason"} of each unreadable item is appended.
        progress: called with (items processed, including unreadable ones; total items).

    Raises:
        InputError: if no item of a source can be read.
    """
    if isinstance(data, Store):
        yield from _encode_store(
            model, modality, data, indices, view, labels, batch_size, generator, progress
        )
        return
    skipped = [] if skipped is None else skipped
    decoded = decoded_items(modality, data, split, batch_size, skipped, is_local(model))
    if not isinstance(model.encoder, PoolingEncoder):
        counter = ItemCounter(data.count(split), skipped, progress)
        settings = (labels, batch_size, generator, skipped)
        yield from _batched(model, modality, decoded, counter, None, *settings)
        return
    # Statistics of a label need all its items first; decoding them once to a store is faster than twice.
    counter = ItemCounter(data.count(split), skipped, part_of(progress, 0))
    with TemporaryDirectory(prefix="smalti-") as scratch:
        dtype = modality.spec.domain.dtype
        counted = counter.each(each for each in decoded if isinstance(each, Decoded))
        store = Store.write(Path(scratch) / "data", counted, modality.stored_shape, dtype, split=split)
        second = part_of(progress, 1)
        yield from _encode_store(model, modality, store, None, 0, labels, batch_size, generator, second)


def same_shape(items: Iterable[EncodedItem], most: int = BATCH) -> Iterator[list[EncodedItem]]:
    """Group consecutive items whose codes have the same shape, at most `most` per group."""
    run: list[EncodedItem] = []
    for item in items:
        if run and (len(run) == most or run[0].codes.shape != item.codes.shape):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


@torch.no_grad()
@in_full_precision
def encode_signals(
    model: Autoencoder,
    modality: Modality,
    signals: Sequence[Float[Tensor, "1 c *_"]],
    labels: Sequence[int] | None = None,
    batch_size: int = BATCH,
) -> list[Int64[Tensor, "1 g *grid"]]:
    """Encode signals in memory, each as its own source (rule 3 of this module).

    Args:
        model: in evaluation mode.
        modality: of the signals.
        signals: in the model's range.
        labels: the model's label of each signal, -1 for none; None if no signal has a label.
        batch_size: maximum number of items per batch.
    """
    ids = [-1] * len(signals) if labels is None else labels
    if modality.is_ragged:
        reads = [_reader(modality, one, model.strides) for one in signals]
        sizes = [tuple(one.shape[2:]) for one in signals]
        return [codes.unsqueeze(0) for codes in _ragged_codes(model, reads, sizes, ids)]
    codes: list[Tensor] = []
    for begin in range(0, len(signals), batch_size):
        batch = torch.cat([*signals[begin : begin + batch_size]]).to(_device(model))
        codes += _encoded(model, batch, None, ids[begin : begin + batch_size]).split(1)
    return codes


def check_data(data: object) -> None:
    """Check that data is a source or a store.

    Raises:
        InputError: if it is neither.
    """
    if not isinstance(data, Source | Store):
        raise InputError(
            f"expected a source or a store, received a {type(data).__name__}: open a folder with "
            "smalti.data.sources.open_source, or pass files to encode"
        )


@in_full_precision
def check_signals(
    model: Autoencoder, modality: Modality, signals: Any, sample_rate: int | None = None
) -> Any:
    """Validate signals of a user, and convert them to the model's range; see `Modality.check`.

    Args:
        model: of the signals; its precision is that of the result.
        modality: of the signals.
        signals: as for `Tokenizer.encode`.
        sample_rate: of tensors and arrays of audio, Hz; None for that of the modality.

    Raises:
        InputError: for other signals, or a sample rate of signals that have none.
    """
    if sample_rate is not None:
        if modality.sample_rate_hz is None:
            raise InputError(
                f"expected no sample_rate for {modality.plural_name}, received {sample_rate!r}: leave it out"
            )
        from smalti.modalities.audio.waveforms import at_rate

        signals = at_rate(signals, sample_rate, modality.sample_rate_hz)
    return modality.check(signals)


def _encode_store(
    model: Autoencoder,
    modality: Modality,
    store: Store,
    indices: Int64[np.ndarray, " m"] | None,
    view: int,
    labels: Mapping[str, int],
    batch_size: int,
    generator: torch.Generator | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[EncodedItem]:
    chosen = np.arange(store.count) if indices is None else indices
    statistics = item_statistics(model, modality, store, labels)
    rows = None if statistics is None else statistics[chosen]
    size = None if modality.is_ragged else modality.spec.size

    def items() -> Iterator[Decoded]:
        for index in chosen.tolist():
            label = int(store.labels[index])
            class_name = store.classes[label] if label >= 0 else None
            yield Decoded(
                store.names[index],
                modality.view(store.item(index, size), view),
                class_name,
                store.actions_of(index),
                store.columns_of(index),
            )

    counter = ItemCounter(len(chosen), [], progress)
    yield from _batched(model, modality, items(), counter, rows, labels, batch_size, generator, [])


def _batched(
    model: Autoencoder,
    modality: Modality,
    items: Iterable[Decoded | Arriving],
    counter: ItemCounter,
    statistics: Float[Tensor, "n v"] | None,
    labels: Mapping[str, int],
    batch_size: int,
    generator: torch.Generator | None,
    skipped: list[dict[str, str]],
) -> Iterator[EncodedItem]:
    """Encode items a batch at a time, in order; long ones one by one."""
    batch: list[Decoded] = []
    begin = num_bytes = 0

    def flush() -> Iterator[EncodedItem]:
        if not batch:
            return
        rows = None if statistics is None else statistics[begin : begin + len(batch)]
        codes = _codes_of(model, modality, batch, rows, labels, generator)
        counter.add(len(batch))
        for item, one in zip(batch, codes, strict=True):
            yield EncodedItem(item.name, one, item.label, item.array.shape[1:], item.actions, item.columns)

    for item in items:
        if isinstance(item, Arriving):
            yield from flush()
            begin, num_bytes, batch = begin + len(batch), 0, []
            try:
                yield _streamed(model, modality, item, labels)
                counter.add(1)
            except UnreadableItem as error:
                skipped.append({"name": item.name, "reason": readable(str(error))})
            continue
        batch.append(item)
        num_bytes += item.array.nbytes
        if len(batch) == batch_size or (modality.is_ragged and num_bytes >= AHEAD_BYTES):
            yield from flush()
            begin, num_bytes, batch = begin + len(batch), 0, []
    yield from flush()
    counter.add(0)


def _streamed(
    model: Autoencoder, modality: Modality, item: Arriving, labels: Mapping[str, int]
) -> EncodedItem:
    """Encode a long item while it is decoded.

    Raises:
        UnreadableItem: if it cannot be read to its end, or is too short.
    """
    label = -1 if item.label is None else labels.get(item.label, -1)
    stream = EncodingStream(model, modality, Conditions(label=_ids(model, [label])))
    try:
        parts = [stream.push(block) for block in joined(item.blocks)]
        codes = torch.cat([*parts, stream.flush()], 2)[0]
    except InputError as error:
        raise UnreadableItem(str(error)) from error
    return EncodedItem(item.name, codes, item.label, stream.size, item.actions, item.columns)


@in_full_precision
def _codes_of(
    model: Autoencoder,
    modality: Modality,
    items: Sequence[Decoded],
    statistics: Float[Tensor, "n v"] | None,
    labels: Mapping[str, int],
    generator: torch.Generator | None,
) -> list[Int64[Tensor, " g *grid"]]:
    """Codes of each item, in order."""
    ids = [-1 if (name := item.label) is None else labels.get(name, -1) for item in items]
    if modality.is_ragged:
        reads = [_level_reader(modality, item.array, model.strides) for item in items]
        return _ragged_codes(
            model, reads, [item.array.shape[1:] for item in items], ids, statistics, generator
        )
    levels = torch.from_numpy(np.stack([item.array for item in items]))
    signal = modality.to_model(levels.to(_device(model)))
    return list(_encoded(model, signal, statistics, ids, generator))


def _ragged_codes(
    model: Autoencoder,
    reads: Sequence[Read],
    sizes: Sequence[tuple[int, ...]],
    labels: Sequence[int],
    statistics: Float[Tensor, "n v"] | None = None,
    generator: torch.Generator | None = None,
) -> list[Int64[Tensor, " g *grid"]]:
    """Codes of each signal, in order, none of which depends on the others.

    Args:
        model: in evaluation mode.
        reads: returns a part of each signal.
        sizes: of each signal, before it is padded to whole codes.
        labels: the model's label of each signal, -1 for none.
        statistics: of each signal, for a pooling encoder.
        generator: draws codes from the posterior.
    """
    whole = [whole_size(size, model.strides) for size in sizes]
    if not is_local(model):
        rows = [None] * len(reads) if statistics is None else statistics.unsqueeze(1)
        return [
            _encoded(model, read(0, size[0]).unsqueeze(0).to(_device(model)), row, [label], generator)[0]
            for read, size, label, row in zip(reads, whole, labels, rows, strict=True)
        ]
    codes = encode_each(model, reads, whole, Conditions(label=_ids(model, labels)))
    return [one.cpu() for one in codes]


def _level_reader(modality: Modality, levels: np.ndarray, strides: Sequence[int]) -> Read:
    """Return a function that reads parts of an item's stored levels, in the model's range."""
    if not modality.spec.has_time:
        whole = torch.from_numpy(np.array(levels)).unsqueeze(0)
        return _reader(modality, modality.to_model(whole), strides)

    def read(begin: int, end: int) -> Tensor:
        part = torch.from_numpy(np.ascontiguousarray(levels[:, begin:end])).unsqueeze(0)
        return padded(modality, modality.to_model(part), strides)[0]

    return read


def _reader(modality: Modality, signal: Float[Tensor, "1 c *size"], strides: Sequence[int]) -> Read:
    """Return a function that reads parts of a signal in the model's range."""
    size = tuple(signal.shape[2:])
    if modality.spec.has_time and size != whole_size(size, strides):
        return lambda begin, end: padded(modality, signal[:, :, begin:end], strides)[0]
    whole = padded(modality, signal, strides)[0]  # what its end is continued by may lie before a part
    return lambda begin, end: whole[:, begin:end]


def _encoded(
    model: Autoencoder,
    signal: Float[Tensor, "b c *size"],
    statistics: Float[Tensor, "b v"] | None,
    labels: Sequence[int],
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "b g *grid"]:
    """CPU codes of one batch, given its labels and the statistics for a pooling encoder."""
    encoder = model.encoder
    if statistics is None and isinstance(encoder, PoolingEncoder):
        each = ((encoder.known(label), one) for label, one in zip(labels, signal, strict=True))
        statistics = torch.stack([encoder.pool([one]) if known is None else known for known, one in each])
    conditions = Conditions(
        label=_ids(model, labels), voice=None if statistics is None else statistics.to(signal.device)
    )
    if generator is None:
        return model.encode(signal, conditions).cpu()
    return model.draw_codes(signal, generator, conditions).cpu()


def _ids(model: Autoencoder, labels: Sequence[int]) -> Int64[Tensor, " b"] | None:
    return torch.tensor(labels, device=_device(model)) if any(label >= 0 for label in labels) else None


def _device(model: Autoencoder) -> torch.device:
    return next(model.parameters()).device
