"""Archives of stores: compress every item with a codec, and read items back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.coding.archive import Archive, ArchiveWriter
from smalti.coding.codec import Codec
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.store import Store
from smalti.encoding import EncodedItem, encode_items
from smalti.likelihoods.levels import from_levels, to_levels

NO_LABELS: Mapping[str, int] = {}


@final
@dataclass
class Written:
    """Size of an archive.

    Attributes:
        num: number of items.
        size: bytes of the file, headers included.
        code_bits: information content of the codes under the prior, before they are rounded to the coder's
            precision.
        bits: that of codes and levels: the bound on the size.
        dims: number of values of all items.
    """

    num: int = 0
    size: int = 0
    code_bits: float = 0.0
    bits: float = 0.0
    dims: int = 0


@final
@dataclass(frozen=True)
class Restored:
    """Items of one block of an archive.

    Attributes:
        numbers: of the items in the archive.
        codes: `(B, G, *grid)`.
        levels: `(B, C, *size)`; None if the archive holds codes only.
        length: first side of the items.
        labels: of the items, -1 for none.
    """

    numbers: list[int]
    codes: Int64[Tensor, "b g *grid"]
    levels: Int64[Tensor, "b c *size"] | None
    length: int
    labels: list[int]


def compress(
    path: str | Path,
    codec: Codec,
    modality: Modality,
    store: Store,
    labels: Mapping[str, int] = NO_LABELS,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write all items of a store to an archive, in order.

    Args:
        path: of the archive; an existing file is replaced.
        codec: of the model and a prior.
        modality: of the model.
        store: the decoded items.
        labels: the model's label of each class, by the class name of the store.
        progress: called with (items processed, total items).

    Raises:
        InputError: for values that are no levels of the model, such as missing ones, for an item that is too
            large, or if the disk is full.
    """
    written = Written()
    with ArchiveWriter(path, codec.info(modality.is_ragged)) as writer:
        encoded = encode_items(codec.model, modality, store, labels=labels)
        begin = 0
        for items in _blocks(encoded, codec):
            levels = None
            if codec.lossless:
                arrays = [store.item(begin + index) for index in range(len(items))]
                levels = torch.cat(
                    [_levels(modality, array, item.name) for array, item in zip(arrays, items, strict=True)]
                )
            ids = [-1 if item.label is None else labels.get(item.label, -1) for item in items]
            codes = torch.stack([item.codes for item in items])
            codec.shapes(len(items), codes.shape[2], items[0].length)  # no file that cannot be read again
            coded = codec.encode(codes, levels, ids)
            names = [item.name for item in items]
            length = items[0].length
            own = ids if codec.reads_labels else ()
            writer.add(names, coded.content, coded.digest, codes.shape[2], length, own)
            written.num += len(items)
            written.code_bits += coded.code_bits
            written.bits += coded.bits
            signal = modality.spec
            written.dims += len(items) * signal.dims // signal.size[0] * length
            begin += len(items)
            if progress is not None:
                progress(begin, store.count)
    written.size = writer.size
    return written


def restore(archive: Archive, codec: Codec, numbers: Collection[int] | None = None) -> Iterator[Restored]:
    """Decode the items of an archive, block by block.

    Args:
        archive: checked by `Codec.check`.
        codec: of the model and the prior.
        numbers: of the items to decode; None for all. Blocks without any of them are not read.

    Raises:
        InputError: if the file is damaged.
    """
    wanted = None if numbers is None else set(numbers)
    for index, block in enumerate(archive.blocks):
        items = archive.items(index)
        own = [number for number in range(items.start, items.stop) if wanted is None or number in wanted]
        if not own:
            continue
        labels = archive.labels[items] if archive.labels else [-1] * block.num
        try:
            codes, levels = codec.decode(
                archive.read(index), block.num, block.grid_length, block.length, labels, block.digest
            )
        except InputError as error:
            raise InputError(f"block {index} of {archive.path} cannot be decoded: {error}") from error
        places = [number - items.start for number in own]
        chosen = None if levels is None else levels[places]
        yield Restored(own, codes[places], chosen, block.length, [labels[place] for place in places])


def signal_of(levels: Int64[Tensor, "b c *size"], modality: Modality) -> Float[Tensor, "b c *size"]:
    """Convert levels to the range of a model, from which `Modality.to_stored` restores the exact values."""
    return from_levels(levels, modality.spec.levels)


def _levels(modality: Modality, array: object, name: str) -> Int64[Tensor, "1 c *size"]:
    stored = torch.as_tensor(array).unsqueeze(0)
    levels = to_levels(modality.to_model(stored), modality.spec.levels)
    if not torch.equal(modality.to_stored(signal_of(levels, modality)).to(stored.dtype), stored):
        raise InputError(
            f"expected values that are exact levels of the model, {name} has others, such as missing ones: "
            "leave out --lossless"
        )
    return levels


def _blocks(items: Iterable[EncodedItem], codec: Codec) -> Iterator[list[EncodedItem]]:
    """Group consecutive items with codes of one shape and one length."""
    block: list[EncodedItem] = []
    for item in items:
        is_other = block and (item.codes.shape, item.length) != (block[0].codes.shape, block[0].length)
        if is_other or len(block) >= codec.block_items(item.length):
            if block:
                yield block
            block = []
        block.append(item)
    if block:
        yield block
