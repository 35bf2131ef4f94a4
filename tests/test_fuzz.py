"""Damaged and edited codes, configs and weights of strangers: a value, or an `InputError`."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import smalti
from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo, read_codes, write_codes
from smalti.data.packed import PackedInfo, pack, unpack
from smalti.quantizers.vq import VectorQuantizer
from tests.memory import most_memory_kb, run_apart

LONGEST_S = 5
MOST_MEMORY_KB = 1_500_000
NUM, NUM_SLOW = 20, 5_000
"""Files of each kind in the test suite, and in the slow one."""

CPU = torch.device("cpu")
DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]
ODD = [
    None, True, -1, 0, 1, 2, 7, 255, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**30), 0.5, -1.5, 1e300,
    float("nan"), float("inf"), "", "x", "vq", "conv", "ema", "\0", "é" * 300, "../..", "a\nb", [], [[]],
    [1] * 10_000, [10**9], {}, {"kind": 3}, {"kind": "vq"}, {"kind": "fsq", "levels": [1000] * 30},
    {"kind": "transformer"}, {"a": {"b": {}}}, DEEP,
]  # fmt: skip


def places(values: Any) -> list[tuple[Any, Any]]:
    """Every container inside JSON values with each of its keys."""
    inner = (
        list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else []
    )
    found = [(values, key) for key in inner]
    return found + [place for key in inner for place in places(values[key])]


def edited(values: Any, rng: random.Random) -> Any:
    """JSON values with one to three entries replaced, removed, renamed or moved."""
    values = copy.deepcopy(values)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(places(values))
        action = rng.randrange(6)
        if action < 3:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif action == 3:
            del container[key]
        elif action == 4 and isinstance(container, dict):
            container[rng.choice(("kind", "x", ""))] = container[key]
        else:
            other, name = rng.choice(places(values))
            container[key] = copy.deepcopy(other[name])
        if not places(values):
            break
    return values


def damaged(content: bytes, rng: random.Random, header: int = 400) -> bytes:
    """A file with flipped bytes (half of them in the header), cut short, or with a part twice."""
    data = bytearray(content)
    action = rng.randrange(4)
    last = len(data) if rng.random() < 0.5 else min(header, len(data))
    if action < 2:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(last)] = rng.randrange(256)
    elif action == 2:
        del data[rng.randrange(len(data)) :]
    else:
        begin = rng.randrange(len(data))
        data[rng.randrange(len(data)) :] = data[begin:]
    return bytes(data)


def as_json(values: Any, rng: random.Random) -> bytes:
    text = json.dumps(values, ensure_ascii=rng.random() < 0.5).encode()
    return damaged(text, rng, len(text)) if rng.random() < 0.2 else text


def packed(folder: Path, rng: random.Random) -> None:
    grid = (3, 4)
    info = PackedInfo(num_codes=500, num_codebooks=2, grid=grid, model="ab", name="n", label="x", size=(9,))
    content = pack(np.arange(24).reshape(2, *grid), info)
    if rng.random() < 0.5:
        # A header that is well-formed, with other values.
        head = as_json(edited(json.loads(info.model_dump_json()), rng), rng)
        content = (
            content[:8] + len(head).to_bytes(4, "little") + head + content[12 + len(info.model_dump_json()) :]
        )
    unpack(damaged(content, rng) if rng.random() < 0.5 else content, "file")


def table(folder: Path, rng: random.Random) -> None:
    info = CodesInfo(grid=(None, 2), num_codebooks=1, num_codes=16, model="ab")
    path = folder / "codes.parquet"
    write_codes(path, info, [(["a", "b"], np.arange(8).reshape(2, 1, 2, 2), ["x", None])])
    if rng.random() < 0.6:
        whole = pq.read_table(path)
        metadata = edited({"smalti": json.loads(whole.schema.metadata[b"smalti"])}, rng).get("smalti")
        columns = dict(zip(whole.column_names, whole.columns, strict=True))
        if rng.random() < 0.5:
            name = rng.choice(list(columns))
            columns[name] = rng.choice(
                [
                    pa.array([1, 2]),
                    pa.array([None, None]),
                    pa.array([b"\xff\xfe", b"x"]),
                    pa.array([[1, 2, 3], []]),
                    pa.array([[1.5, 2.0, 3.0, 4.0]] * 2),
                    pa.array([[[1, 2]], [[3, 4]]]),
                    pa.array([[2**40] * 4] * 2),
                    pa.array([[None, 1, 2, 3]] * 2),
                    pa.array(["a", "b"]).dictionary_encode(),
                    pa.array([{"a": 1}, {"a": 2}]),
                    pa.Array.from_buffers(
                        pa.string(),
                        2,
                        [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")],
                    ),
                ]
            )
        names = list(columns)
        if rng.random() < 0.3:
            names[rng.randrange(3)] = rng.choice(names)
        made = pa.table(list(columns.values()), names=names)
        pq.write_table(made.replace_schema_metadata({"smalti": as_json(metadata, rng)}), path)
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    for names, codes, *_ in read_codes(path)[1]:
        assert len(names) == len(codes)


def run_of(name: str, kind: str) -> Callable[[Path, random.Random], None]:
    """Load a run in which one file was changed."""

    def load(folder: Path, rng: random.Random) -> None:
        file = folder / "run" / name
        before = file.read_bytes()
        try:
            file.write_bytes(changed(before, kind, rng))
            smalti.load(folder / "run", CPU)
        finally:
            file.write_bytes(before)

    return load


def part(folder: Path, rng: random.Random) -> None:
    VectorQuantizer(dim=4, num_codes=8).save_pretrained(folder / "part")
    name, kind = rng.choice([("config.json", "json"), ("model.safetensors", "weights")])
    file = folder / "part" / name
    file.write_bytes(changed(file.read_bytes(), kind, rng))
    try:
        VectorQuantizer.from_pretrained(folder / "part")
    finally:
        shutil.rmtree(folder / "part")


def changed(content: bytes, kind: str, rng: random.Random) -> bytes:
    if kind == "json":
        return as_json(edited(json.loads(content), rng), rng)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    if rng.random() < 0.6:
        values = edited(json.loads(header), rng)
        values.pop("__metadata__", None) if rng.random() < 0.7 else None
        header = as_json(values, rng)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    return damaged(content, rng, 8 + length)


SUBJECTS: dict[str, Callable[[Path, random.Random], None]] = {
    "packed": packed,
    "table": table,
    "config": run_of("config.json", "json"),
    "prior": run_of("prior/config.json", "json"),
    "counts": run_of("unigram.json", "json"),
    "weights": run_of("model.safetensors", "weights"),
    "part": part,
}


def run(trained: str, num: int, seed: int, subjects: list[str]) -> None:
    """Read `num` changed files of each kind."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("state", "data", "codes"))
        for name in subjects:
            for index in range(num):
                begin = time.process_time()
                try:
                    SUBJECTS[name](folder, random.Random(f"{seed} {name} {index}"))
                except InputError as error:
                    text = str(error)
                    assert text.isprintable(), (name, index, text[:500])
                    assert len(text) < 3000, (name, index, text[:500])
                except BaseException:
                    print(f"{name} {seed} {index}: {traceback.format_exc()}", file=sys.stderr)
                seconds = time.process_time() - begin
                assert seconds < LONGEST_S, (name, index, seconds)
    most = most_memory_kb()
    assert most < MOST_MEMORY_KB, most


def apart(trained: Path, num: int, seed: int, subjects: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, whose memory is that of the readers, and which may crash."""
    command = f"from tests.test_fuzz import run; run({str(trained)!r}, {num}, {seed}, {subjects})"
    return run_apart(command)


def test_changed_files_of_strangers(trained: Path) -> None:
    done = apart(trained, NUM, 0, list(SUBJECTS))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_many_changed_files_of_strangers(subject: str, trained: Path) -> None:
    done = apart(trained, NUM_SLOW, 1, [subject])
    assert (done.returncode, done.stderr) == (0, "")
