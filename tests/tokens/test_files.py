"""Files of tokens, read back by readers of their own that follow the formats' descriptions."""

from __future__ import annotations

import io
import json
import mmap
import struct
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo
from smalti.tokens import TokenLayout, files
from smalti.tokens.files import WRITERS, write_tokens

NUM = 23
Item = tuple[str, np.ndarray, str | None]


def items(num_codes: int) -> Iterator[Item]:
    rng = np.random.default_rng(0)
    for index in range(NUM):
        codes = rng.integers(0, num_codes, (2, int(rng.integers(1, 5)), 3))
        yield f"Ärger/{index}.png", codes, ("cat", None)[index % 2]


def layout_of(num_codes: int) -> TokenLayout:
    return TokenLayout.of(
        CodesInfo(grid=(None, 3), num_codebooks=2, num_codes=num_codes, model="0" * 16), ["bos", "eos", "row"]
    )


Sequences = list[np.ndarray]


def read_parquet(folder: Path) -> Sequences:
    frame = pd.read_parquet(folder / "tokens.parquet")
    check_names(folder / "tokens.parquet")
    return list(frame["tokens"])


def read_webdataset(folder: Path) -> Sequences:
    """Group the members of tar files by the part of their names before the first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, ending = member.name.split(".", 1)
                content = tar.extractfile(member)
                assert content is not None
                samples.setdefault(key, {})[ending] = content.read()
    expected = [(name, label, list(codes.shape[1:])) for name, codes, label in items(9)]
    rows = [json.loads(sample["json"]) for sample in samples.values()]
    assert [(row["name"], row["label"], row["grid"]) for row in rows] == expected
    return [np.load(io.BytesIO(sample["npy"])) for sample in samples.values()]


def read_megatron(folder: Path) -> Sequences:
    """Parse an indexed data set by the description of its format, without the code that wrote it."""
    content = (folder / "tokens.idx").read_bytes()
    assert content[:9] == b"MMIDIDX\x00\x00"
    version, code = struct.unpack_from("<QB", content, 9)
    assert version == 1
    kinds = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
    num_sequences, num_documents = struct.unpack_from("<QQ", content, 18)
    place = 34
    lengths = np.frombuffer(content, "<i4", num_sequences, place)
    place += 4 * num_sequences
    pointers = np.frombuffer(content, "<i8", num_sequences, place)
    place += 8 * num_sequences
    documents = np.frombuffer(content, "<i8", num_documents, place)
    assert place + 8 * num_documents == len(content)
    # As Megatron's reader asserts of them.
    assert len(lengths) == documents[-1]
    assert documents.tolist() == list(range(num_sequences + 1))
    check_names(folder / "items.parquet")
    with (
        (folder / "tokens.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return [
            np.frombuffer(data, kinds[code], length, pointer).copy()
            for length, pointer in zip(lengths, pointers, strict=True)
        ]


def read_npy(folder: Path) -> Sequences:
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    check_names(folder / "items.parquet")
    offsets = np.load(folder / "offsets.npy")
    assert offsets[-1] == len(tokens)
    return [np.array(tokens[begin:end]) for begin, end in pairwise(offsets)]


def check_names(table: Path) -> None:
    rows = pq.read_table(table, columns=["name", "label", "grid"]).to_pylist()
    assert [(row["name"], row["label"], row["grid"]) for row in rows] == [
        (name, label, list(codes.shape[1:])) for name, codes, label in items(9)
    ]


READERS = {
    "parquet": read_parquet,
    "webdataset": read_webdataset,
    "megatron": read_megatron,
    "npy": read_npy,
}


def test_every_format_has_a_reader() -> None:
    assert READERS.keys() == WRITERS.keys()


@pytest.mark.parametrize("num_codes", [9, 300, 70_000])
@pytest.mark.parametrize("kind", READERS)
def test_tokens_are_read_back(kind: str, num_codes: int, tmp_path: Path) -> None:
    layout = layout_of(num_codes)
    with mock.patch.object(files, "ITEMS_AT_ONCE", 4), mock.patch.object(files, "ITEMS_PER_TAR", 10):
        assert write_tokens(tmp_path / "tokens", layout, items(num_codes), kind) == NUM
    read = READERS[kind](tmp_path / "tokens")
    assert len(read) == NUM
    described = TokenLayout.read(tmp_path / "tokens" / "tokens.json")
    for tokens, (_, codes, _) in zip(read, items(num_codes), strict=True):
        assert np.array_equal(described.codes(tokens), codes)
        assert tokens.dtype == (np.int32 if kind == "megatron" and num_codes == 70_000 else layout.dtype)


@pytest.mark.parametrize("kind", READERS)
def test_equal_codes_give_equal_files(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tokens(tmp_path / name, layout_of(9), items(9), kind)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("kind", READERS)
def test_nothing_is_left_of_a_failure(kind: str, tmp_path: Path) -> None:
    def spoiled() -> Iterator[Item]:
        yield from items(9)
        yield "bad", np.full((2, 1, 3), 9), None

    for bad in (spoiled(), iter(())):
        with pytest.raises(InputError):
            write_tokens(tmp_path / "tokens", layout_of(9), bad, kind)
        assert not list(tmp_path.iterdir())


def test_webdataset_reads_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    write_tokens(tmp_path / "tokens", layout_of(9), items(9), "webdataset")
    samples = list(
        webdataset.WebDataset(str(tmp_path / "tokens" / "tokens-000000.tar"), shardshuffle=False).decode()
    )
    assert [sample["json"]["name"] for sample in samples] == [name for name, _, _ in items(9)]


def test_datasets_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset

    write_tokens(tmp_path / "tokens", layout_of(9), items(9), "parquet")
    table = Dataset.from_parquet(
        str(tmp_path / "tokens" / "tokens.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert table["name"] == [name for name, _, _ in items(9)]
