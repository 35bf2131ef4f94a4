"""Part of `smalti evaluate`: the size of real files beside the bound."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from smalti.app.console import counting
from smalti.coding.archive import ENDING, Archive
from smalti.coding.codec import Codec
from smalti.coding.files import compress, restore, signal_of
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior
from smalti.data.store import Store
from smalti.evaluation.bounds import PriorDensity
from smalti.tokenizer import Tokenizer

PROTOCOL = (
    "the items written losslessly to one archive by the prior with the lowest bound, headers included, read "
    "again and compared; the bound is that of the table"
)


def check_files(tokenizer: Tokenizer) -> None:
    """Check that the values of a model can be coded, before anything is measured.

    Args:
        tokenizer: on the CPU.

    Raises:
        InputError: if they cannot, such as those of continuous data.
    """
    prior = next(prior for prior in tokenizer.priors.values() if _codes(prior))
    _ = Codec(tokenizer.autoencoder, prior, lossless=True).arithmetic


def measure_files(
    tokenizer: Tokenizer, store: Store, density: dict[str, PriorDensity], scratch: Path, quiet: bool
) -> dict[str, Any]:
    """Compress a store losslessly, restore it, and return sizes and times.

    Args:
        tokenizer: on the CPU.
        store: the items.
        density: their bounds by prior.
        scratch: directory for the archive.
        quiet: hide progress.

    Returns:
        `prior`, `bytes`, `bits_per_dim` of the archive, `bound` of the prior on these items, `encode_s` and
        `decode_s`.

    Raises:
        InputError: if the model has no exact levels, no prior can code, or a value does not come back.
    """
    bounds = {
        name: row["bits_per_dim"]
        for name, row in density.items()
        if "bits_per_dim" in row and _codes(tokenizer.priors.get(name))
    }
    if not bounds:
        raise InputError(
            "expected a model of exact levels with a prior that can code, received none: leave out --files"
        )
    name = min(bounds, key=lambda each: bounds[each])
    codec = Codec(tokenizer.autoencoder, tokenizer.priors[name], lossless=True)
    path = scratch / f"files{ENDING}"
    began = time.perf_counter()
    with counting("Compressing", quiet) as count:
        written = compress(path, codec, tokenizer.modality, store, tokenizer.trained.label_ids, count)
    encoded = time.perf_counter()
    with Archive(path) as archive, counting("Decompressing", quiet) as count:
        codec.check(archive.info, tokenizer.modality.is_ragged)
        for block in restore(archive, codec):
            assert block.levels is not None
            stored = tokenizer.modality.to_stored(signal_of(block.levels, tokenizer.modality)).numpy()
            for number, values in zip(block.numbers, stored, strict=True):
                if not np.array_equal(values, store.item(number)):
                    raise InputError(
                        f"expected the exact values of {store.names[number]}, received others: report this "
                        "as a fault of smalti"
                    )
            count(block.numbers[-1] + 1, store.count)
    return {
        "prior": name,
        "bytes": written.size,
        "bits_per_dim": 8 * written.size / written.dims,
        "bound": bounds[name],
        "encode_s": encoded - began,
        "decode_s": time.perf_counter() - encoded,
    }


def _codes(prior: object) -> bool:
    """True if a prior defines the probabilities of codes one after another."""
    return isinstance(prior, DensityPrior) and type(prior).code is not DensityPrior.code


def note_of_files(report: dict[str, Any]) -> str | None:
    """Return a sentence on the files of a report; None if it has none."""
    files = report.get("files")
    if not files:
        return None
    more = 100 * (files["bits_per_dim"] / files["bound"] - 1)
    return (
        f"As one real file with the prior {files['prior']}: {files['bytes']:,} bytes, "
        f"{files['bits_per_dim']:.4f} bits/dim, {more:.2f} % above the bound; all values came back exactly. "
        f"Coding took {files['encode_s']:.1f} s, decoding {files['decode_s']:.1f} s."
    )
