"""Equal items have equal fingerprints; any change of a value, the type or the shape gives another."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.fingerprints import FILE, fingerprints, read_fingerprints, write_fingerprints
from smalti.data.store import Store


def store_of(directory: Path, *items: np.ndarray, ragged: bool = False) -> Store:
    shape = (items[0].shape[0], None, *items[0].shape[2:]) if ragged else items[0].shape
    named = [(str(index), item, None) for index, item in enumerate(items)]
    return Store.write(directory, named, shape, items[0].dtype)


def test_a_fingerprint_is_a_hash_of_type_shape_and_values(tmp_path: Path) -> None:
    item = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    (own,) = fingerprints(store_of(tmp_path / "store", item))
    digest = blake2b(b"|u1 (1, 3, 4)" + item.tobytes(), digest_size=8).digest()
    assert own == int.from_bytes(digest, "little", signed=True)


def test_other_items_have_other_fingerprints(tmp_path: Path) -> None:
    item = np.arange(12, dtype=np.int16).reshape(1, 3, 4)
    changed = item + (item == 5)
    first, again, other = fingerprints(store_of(tmp_path / "a", item, item.copy(), changed))
    assert first == again
    variants = (item.reshape(1, 4, 3), item.view(np.uint16), item.astype(np.int32))
    found = {first, other}
    for index, variant in enumerate(variants):
        found |= set(fingerprints(store_of(tmp_path / str(index), variant)).tolist())
    assert len(found) == 2 + len(variants)


def test_clips_are_hashed_whole_whatever_is_stored_beside_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (3, frames, 4, 4), dtype=np.uint8) for frames in (2, 5, 3)]
    together = fingerprints(store_of(tmp_path / "all", *clips, ragged=True))
    alone = [
        int(fingerprints(store_of(tmp_path / str(index), clip, ragged=True))[0])
        for index, clip in enumerate(clips)
    ]
    assert together.tolist() == alone
    assert fingerprints(Store.open(tmp_path / "all"), [2, 0]).tolist() == [alone[2], alone[0]]


def test_fingerprints_of_a_run(tmp_path: Path) -> None:
    assert read_fingerprints(tmp_path) is None
    write_fingerprints(tmp_path, np.array([5, -(2**63), 5, 2**63 - 1]))
    read = read_fingerprints(tmp_path)
    assert read is not None
    assert read.tolist() == [-(2**63), 5, 2**63 - 1]
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(InputError):
        read_fingerprints(tmp_path)
