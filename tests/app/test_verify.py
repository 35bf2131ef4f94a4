"""`smalti verify` finds what is wrong with codes, and says nothing of sound ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.app.commands.verify import verify
from smalti.core.errors import InputError
from smalti.data.manifest import checksum
from tests.runs import Result, command

Smalti = Callable[..., Result]


@pytest.fixture(scope="module")
def whole(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "codes"
    words = ["encode", trained, "--data", pictures, "--out", out, "--shards", 4, "--quiet"]
    assert command(*words).status == 0
    return out


@pytest.fixture
def codes(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "codes"))


def file_of(codes: Path, shard: int) -> Path:
    return codes / f"all-{shard:05d}-of-00004.parquet"


def rewrite(codes: Path, shard: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard's table, and state its new checksum and size in the manifest."""
    path = file_of(codes, shard)
    pq.write_table(change(pq.read_table(path)), path)
    line = codes / "manifest" / f"{shard:05d}.json"
    record = json.loads(line.read_text())
    line.write_text(json.dumps(record | {"sha256": checksum(path), "size": path.stat().st_size}))


def test_sound_codes(whole: Path, trained: Path, pictures: Path, smalti: Smalti) -> None:
    result = smalti("verify", whole, "--run", trained, "--data", pictures, "--num", 3)
    assert result.status == 0, result.err
    assert "40 items" in result.err
    assert "3 items encoded again" in result.err


def test_a_single_table(codes: Path, trained: Path, pictures: Path) -> None:
    assert verify(file_of(codes, 1), str(trained), str(pictures), quiet=True) == 10


def missing(codes: Path) -> None:
    file_of(codes, 1).unlink()


def cut(codes: Path) -> None:
    file_of(codes, 1).write_bytes(file_of(codes, 1).read_bytes()[:-9])


def flip(codes: Path) -> None:
    content = bytearray(file_of(codes, 1).read_bytes())
    content[60] ^= 1
    file_of(codes, 1).write_bytes(content)


def out_of_range(codes: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        values = [[99] * len(row) for row in table.column("codes").to_pylist()]
        return table.set_column(2, table.schema.field("codes"), pa.array(values, pa.list_(pa.int32())))

    rewrite(codes, 1, change)


def fewer(codes: Path) -> None:
    rewrite(codes, 1, lambda table: table.slice(1))


def repeated(codes: Path) -> None:
    first = pq.read_table(file_of(codes, 0)).column("name")
    rewrite(codes, 1, lambda table: table.set_column(0, table.schema.field("name"), first))


def another_line(codes: Path) -> None:
    shutil.copy(codes / "manifest" / "00000.json", codes / "manifest" / "00001.json")


@pytest.mark.parametrize(
    "damage", [missing, cut, flip, out_of_range, fewer, repeated, another_line], ids=lambda one: one.__name__
)
def test_damage_is_found(damage: Callable[[Path], None], codes: Path) -> None:
    damage(codes)
    with pytest.raises(InputError):
        verify(codes, quiet=True)


def test_codes_that_are_not_those_of_the_source(codes: Path, trained: Path, pictures: Path) -> None:
    """Codes of the right shape and range, of other items."""
    first = pq.read_table(file_of(codes, 0)).column("codes")
    rewrite(codes, 1, lambda table: table.set_column(2, table.schema.field("codes"), first))
    assert verify(codes, quiet=True) == 40
    with pytest.raises(InputError):
        verify(codes, str(trained), str(pictures), num=4, quiet=True)


def test_what_is_no_output(tmp_path: Path, pictures: Path, whole: Path) -> None:
    for path in (tmp_path, tmp_path / "none", pictures):
        with pytest.raises(InputError):
            verify(path, quiet=True)
    with pytest.raises(InputError):
        verify(whole, data=str(pictures), quiet=True)
