"""Random damage to tables and archives: our errors or items, in bounded time, and nothing else."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source

EXTENSIONS = (".wav",)
MOST_SECONDS = 5.0


def table(rng: random.Random) -> bytes:
    separator = rng.choice(",\t|;")
    header = rng.choice([("file", "label", "split"), ("a", "b", "c"), ("path", "client_id", "text")])
    rows = [(f"{n}.wav", rng.choice("xy"), rng.choice(["train", "test"])) for n in range(rng.randint(0, 6))]
    return "\n".join(separator.join(row) for row in (header, *rows)).encode()


def archive(rng: random.Random) -> bytes:
    raw = io.BytesIO()
    form = rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for number in range(rng.randint(0, 4)):
            member = tarfile.TarInfo(rng.choice(["", "train/", "é" * 70 + "/"]) + f"{number}.wav")
            member.size = rng.randint(0, 700)
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return gzip.compress(raw.getvalue(), 1) if rng.random() < 0.5 else raw.getvalue()


def columns(rng: random.Random) -> bytes:
    """Parquet with a column of sounds and one of labels."""
    num = rng.randint(0, 5)
    sounds = [{"bytes": bytes(rng.randint(0, 50)), "path": "a.wav"} for _ in range(num)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    raw = io.BytesIO()
    pq.write_table(
        pa.table({"audio": pa.array(sounds, kind), "label": pa.array(range(num), pa.int64())}), raw
    )
    return raw.getvalue()


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, or insert bytes that separate, quote or end something."""
    data = bytearray(raw)
    for _ in range(rng.randint(0, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 600)]
            case 3:
                data[at:at] = rng.choice(
                    [b'"', b"\0", b"\r", b"\n", b",", b"|", b"\xff", b"../", b"\\", b"'"]
                )
            case _:
                del data[at : at + rng.randint(1, 40)]
    return bytes(data)


def attack(folder: Path, name: str, make: Callable[[random.Random], bytes], seeds: range) -> int:
    """Open and read damaged files; return how many gave items."""
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(b"sound")
    file = folder / name
    opened = 0
    for seed in seeds:
        rng = random.Random(seed)
        file.write_bytes(damaged(make(rng), rng))
        start = time.process_time()
        try:
            source = open_source(str(file), EXTENSIONS)
            opened += bool([item for split in source.splits for item in source.items(split)])
        except InputError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed} of {name}: {error!r}") from error
        assert time.process_time() - start < MOST_SECONDS, seed
    return opened


CASES = [
    ("list.csv", table),
    ("metadata.tsv", table),
    ("sounds.tar", archive),
    ("sounds.tar.gz", archive),
    ("a.parquet", columns),
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_damage_gives_items_or_a_sentence(
    tmp_path: Path, name: str, make: Callable[[random.Random], bytes]
) -> None:
    assert 0 < attack(tmp_path, name, make, range(150)) < 150


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), CASES)
def test_more_damage(tmp_path: Path, name: str, make: Callable[[random.Random], bytes]) -> None:
    attack(tmp_path, name, make, range(1_000, 11_000))
