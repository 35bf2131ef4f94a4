"""Lossless files of a run: size beside the bound, times, and the same pixels as PNG, WebP and xz.

Run: python benchmarks/files.py RUN --data SOURCE --dataset NAME (minutes; appends to results/files.jsonl)
"""

from __future__ import annotations

import io
import lzma
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from smalti.app.commands.compress import chosen_prior
from smalti.app.data import open_data, pick_split, prepare
from smalti.app.provenance import commit, described, device
from smalti.coding.archive import Archive
from smalti.coding.codec import Codec
from smalti.coding.files import compress, restore, signal_of
from smalti.core.weights import fingerprint
from smalti.data.store import Store
from smalti.studies.records import read_records, write_records
from smalti.tokenizer import Tokenizer

RECORDS = Path(__file__).parents[1] / "results" / "files.jsonl"


def main(
    run: Annotated[Path, typer.Argument(help="A run's directory.")],
    data: Annotated[str, typer.Option(help="A source of pictures.")],
    dataset: Annotated[str, typer.Option(help="Its name in the record.")],
    prior: Annotated[str | None, typer.Option(help="Default: the most informed one.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the source.")] = None,
    peers: Annotated[bool, typer.Option(help="Whether to measure the other formats, too.")] = True,
) -> None:
    """Measure a run's files, and those of other formats."""
    tokenizer = Tokenizer.from_pretrained(run, "cpu")
    source = open_data(data, tokenizer.modality)
    name = pick_split(source, split, "test", "all")
    with TemporaryDirectory() as scratch:
        store = prepare(Path(scratch) / "data", source, name, tokenizer.modality)
        common = {
            "experiment": "files",
            "dataset": dataset,
            "split": name,
            "measured_on": described(source, name, data),
            "device": device(),
            "commit": commit(),
            "versions": {each: version(each) for each in ("torch", "numpy", "constriction", "pillow")},
        }
        for each in (
            lambda: [_ours(tokenizer, prior, store, Path(scratch))],
            lambda: _others(store) if peers else [],
        ):
            records = [{**common, **record} for record in each()]
            write_records(RECORDS, [*read_records(RECORDS), *records])
            for record in records:
                print(record["codec"], record["prior"], record["metrics"])


def _ours(tokenizer: Tokenizer, prior: str | None, store: Store, scratch: Path) -> dict[str, Any]:
    codec = Codec(tokenizer.autoencoder, chosen_prior(tokenizer.priors, prior), lossless=True)
    weights = [codec.model, codec.prior]
    path = scratch / "files.sma"
    began, processor = time.perf_counter(), time.process_time()
    written = compress(path, codec, tokenizer.modality, store, tokenizer.trained.label_ids)
    encoded, encoding = time.perf_counter(), time.process_time()
    with Archive(path) as archive:
        codec.check(archive.info)
        decoded = list(restore(archive, codec))
    metrics = {
        "num": store.count,
        "bytes": written.size,
        "bits_per_dim_of_files": 8 * written.size / written.dims,
        "bits_per_dim": written.bits / written.dims,
        "rate": written.code_bits / written.dims,
        "encode_s": encoded - began,
        "decode_s": time.perf_counter() - encoded,
        "encode_processor_s": encoding - processor,
        "decode_processor_s": time.process_time() - encoding,
        "model_bytes": sum(each.nbytes for one in weights for each in one.state_dict().values()),
    }
    for block in decoded:
        assert block.levels is not None
        stored = tokenizer.modality.to_stored(signal_of(block.levels, tokenizer.modality)).numpy()
        for number, values in zip(block.numbers, stored, strict=True):
            assert np.array_equal(values, store.item(number)), store.names[number]
    model = {"model": tokenizer.autoencoder.title, "fingerprint": fingerprint(tokenizer.autoencoder)}
    return {"codec": "smalti", "prior": codec.prior.name, **model, "metrics": metrics}


def _others(store: Store) -> list[dict[str, Any]]:
    items = [store.item(number) for number in range(store.count)]
    pictures = [Image.fromarray(item.transpose(1, 2, 0).squeeze()) for item in items]
    dims = sum(item.size for item in items)
    records = []
    for codec, settings in {
        "PNG": {"format": "PNG", "optimize": True},
        "WebP lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    }.items():
        began = time.perf_counter()
        files = [_file(picture, settings) for picture in pictures]
        encoded = time.perf_counter()
        for picture, file in zip(pictures, files, strict=True):
            restored = Image.open(io.BytesIO(file)).convert(picture.mode)  # WebP has no greyscale
            assert np.array_equal(np.asarray(restored), np.asarray(picture))
        decoded = time.perf_counter() - encoded
        records.append(_record(codec, sum(map(len, files)), dims, len(items), encoded - began, decoded))
    began = time.perf_counter()
    whole = lzma.compress(np.stack(items).tobytes(), preset=9 | lzma.PRESET_EXTREME)
    encoded = time.perf_counter()
    lzma.decompress(whole)
    decoded = time.perf_counter() - encoded
    return [*records, _record("xz of all pixels", len(whole), dims, len(items), encoded - began, decoded)]


def _file(picture: Image.Image, settings: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, **settings)
    return file.getvalue()


def _record(codec: str, size: int, dims: int, num: int, encode_s: float, decode_s: float) -> dict[str, Any]:
    metrics = {
        "num": num,
        "bytes": size,
        "bits_per_dim_of_files": 8 * size / dims,
        "encode_s": encode_s,
        "decode_s": decode_s,
        "model_bytes": 0,
    }
    return {"codec": codec, "prior": None, "metrics": metrics}


if __name__ == "__main__":
    typer.run(main)
