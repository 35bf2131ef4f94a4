"""The file of codes: what is written is read, by others too, and what is no such file gets a sentence."""

import errno
import json
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from smalti.core import files
from smalti.core.errors import InputError
from smalti.data import codes as codes_module
from smalti.data.codes import FORMAT, CodesBatch, CodesInfo, check_codes, read_codes, write_codes

INFO = CodesInfo(grid=(2, 3), num_codebooks=2, num_codes=512, model="ab12" * 8, classes=("cat", "dog"))


def batches(*sizes: int, info: CodesInfo = INFO):
    rng = np.random.default_rng(0)
    start = 0
    for size in sizes:
        names = [f"item {i}" for i in range(start, start + size)]
        labels = [(None, "cat", "dog")[i % 3] for i in range(start, start + size)]
        yield names, rng.integers(0, info.num_codes, (size, *info.shape)), labels
        start += size


def joined(parts):
    names, codes, labels = list(zip(*parts, strict=True))[:3]
    return [*chain(*names)], np.concatenate(codes), [*chain(*labels)]


def rewritten(path: Path, metadata: dict | None = None, **columns) -> Path:
    """The file with other columns or other metadata, as an editor of it would leave it."""
    table = pq.read_table(path)
    for name, column in columns.items():
        index = table.schema.get_field_index(name)
        table = table.remove_column(index) if column is None else table.set_column(index, name, column)
    pq.write_table(table.replace_schema_metadata(metadata or table.schema.metadata), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_codes(tmp_path / "codes.parquet", INFO, batches(5, 3))
    return tmp_path / "codes.parquet"


class TestRoundTrip:
    @pytest.mark.parametrize("sizes", [(1,), (5, 3), (0, 4, 0), (7, 1, 7)])
    @pytest.mark.parametrize("batch_size", [1, 4, 100])
    @pytest.mark.parametrize("row_group", [1, 60, 1 << 20])
    def test_all_of_it(self, tmp_path: Path, monkeypatch, sizes, batch_size, row_group):
        monkeypatch.setattr(codes_module, "_ROW_GROUP_CODES", row_group)
        path = tmp_path / "codes.parquet"
        assert write_codes(path, INFO, batches(*sizes)) == sum(sizes)
        info, read = read_codes(path, batch_size)
        names, codes, labels = joined(read)
        expected_names, expected_codes, expected_labels = joined(batches(*sizes))
        assert info == INFO
        assert (names, labels) == (expected_names, expected_labels)
        assert codes.dtype == np.int64
        np.testing.assert_array_equal(codes, expected_codes)
        assert os.listdir(tmp_path) == ["codes.parquet"]

    @pytest.mark.parametrize("grid", [(), (4,), (2, 3, 4)])
    def test_any_grid(self, tmp_path: Path, grid):
        info = CodesInfo(grid=grid, num_codebooks=3, num_codes=2**31 - 1, model="0")
        write_codes(tmp_path / "c", info, batches(3, info=info))
        received, read = read_codes(tmp_path / "c")
        assert received.grid == grid
        np.testing.assert_array_equal(joined(read)[1], joined(batches(3, info=info))[1])

    def test_batches_of_small_parts_make_large_row_groups(self, tmp_path: Path):
        write_codes(tmp_path / "c", INFO, batches(*[1] * 50))
        assert pq.read_metadata(tmp_path / "c").num_row_groups == 1

    def test_others_read_it(self, path: Path):
        frame = pd.read_parquet(path)
        assert list(frame.columns) == ["name", "label", "codes"]
        assert frame["name"][7] == "item 7"
        assert frame["label"].isna().sum() == 3
        expected = joined(batches(5, 3))[1].reshape(8, -1)
        np.testing.assert_array_equal(np.stack(frame["codes"].to_list()), expected)
        assert pq.read_schema(path).field("codes").type == pa.list_(pa.int32())

    @pytest.mark.parametrize(
        "kind", [pa.list_(pa.int64()), pa.large_list(pa.int16()), pa.list_(pa.int32(), 12)]
    )
    def test_other_integer_types(self, path: Path, kind):
        column = pa.array(joined(batches(5, 3))[1].reshape(8, -1).tolist(), kind)
        _, read = read_codes(rewritten(path, codes=column))
        np.testing.assert_array_equal(joined(read)[1], joined(batches(5, 3))[1])

    def test_version_is_ours(self):
        assert INFO.version
        assert INFO.shape == (2, 2, 3)

    def test_the_info_is_read_before_any_batch_and_the_batches_lazily(self, path: Path):
        info, read = read_codes(path)
        path.unlink()
        assert info == INFO
        with pytest.raises(InputError, match="does not exist"):
            next(read)


class TestWriteRefuses:
    def refused(self, directory: Path, words: str, *parts) -> None:
        with pytest.raises(InputError, match=words):
            write_codes(directory / "codes.parquet", INFO, [*batches(2), *parts])
        assert os.listdir(directory) == []

    @pytest.mark.parametrize("code", [-1, 512])
    def test_out_of_range(self, tmp_path: Path, code):
        codes = np.zeros((1, 2, 2, 3), np.int64)
        codes[0, 1, 1, 2] = code
        self.refused(tmp_path, "expected codes from 0 to 511, received", (["a"], codes, [None]))

    @pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 2, 3, 2), (2, 2, 2, 3), (1, 2, 6)])
    def test_shapes(self, tmp_path: Path, shape):
        self.refused(
            tmp_path, r"shape \(1, 2, 2, 3\) for 1 names", (["a"], np.zeros(shape, np.int64), [None])
        )

    def test_labels(self, tmp_path: Path):
        self.refused(tmp_path, "received 2 labels", (["a"], np.zeros((1, 2, 2, 3), np.int64), [None, None]))

    @pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
    def test_nothing(self, tmp_path: Path, sizes):
        with pytest.raises(InputError, match="no codes to write"):
            write_codes(tmp_path / "codes.parquet", INFO, batches(*sizes))
        assert os.listdir(tmp_path) == []

    def test_full_disk(self, tmp_path: Path, monkeypatch):
        def full(file):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files, "_sync", full)
        self.refused(tmp_path, "the disk is full")

    def test_no_permission(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            write_codes(tmp_path / "file" / "codes.parquet", INFO, batches(2))

    def test_interruption_keeps_the_old_file(self, path: Path):
        before = path.read_bytes()

        def interrupted():
            yield from batches(3)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_codes(path, INFO, interrupted())
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["codes.parquet"]

    @pytest.mark.parametrize(
        "changes",
        [{"num_codes": 0}, {"num_codes": 2**31}, {"grid": (0,)}, {"num_codebooks": -1}, {"extra": 1}],
        ids=str,
    )
    def test_info(self, changes):
        with pytest.raises(ValidationError):
            CodesInfo.model_validate(INFO.model_dump() | changes)


class TestReadRefuses:
    def refused(self, path: Path, words: str) -> None:
        with pytest.raises(InputError, match=words):
            list(read_codes(path)[1])

    def test_missing(self, tmp_path: Path):
        self.refused(tmp_path / "gone.parquet", "does not exist: make one with smalti encode")
        self.refused(tmp_path, "does not exist")

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 20])
    def test_not_parquet(self, tmp_path: Path, content):
        (tmp_path / "c").write_bytes(content)
        self.refused(tmp_path / "c", "c is not a Parquet file, or is damaged")

    def test_truncated_and_damaged(self, path: Path):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        self.refused(path, "is not a Parquet file, or is damaged")

    def test_parquet_of_somebody_else(self, path: Path):
        self.refused(rewritten(path, metadata={b"pandas": b"{}"}), "no smalti metadata")

    @pytest.mark.parametrize("column", ["name", "label", "codes"])
    def test_columns(self, path: Path, column):
        self.refused(rewritten(path, **{column: None}), rf"it has no columns \['{column}'\]")

    def test_newer_version(self, path: Path):
        metadata = {b"smalti": json.dumps({"format": FORMAT + 1, "future": 1}).encode()}
        self.refused(
            rewritten(path, metadata=metadata),
            r"newer version of smalti \(format 3; this one reads up to 2\)",
        )

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"{}", b'{"format": 1}', b"\xff"])
    def test_damaged_metadata(self, path: Path, content):
        self.refused(rewritten(path, metadata={b"smalti": content}), "metadata is damaged")

    def test_null_name(self, path: Path):
        column = pa.array([f"item {i}" for i in range(7)] + [None])
        self.refused(rewritten(path, name=column), "expected a name for each item in .*, received null")

    @pytest.mark.parametrize("row", [[0] * 11, [0] * 13, [], None, [0] * 11 + [None]], ids=str)
    def test_lengths(self, path: Path, row):
        column = pa.array([[0] * 12] * 7 + [row], pa.list_(pa.int32()))
        self.refused(rewritten(path, codes=column), r"expected 12 codes an item in .*shape \(2, 2, 3\)")

    @pytest.mark.parametrize("code", [-1, 512])
    def test_range(self, path: Path, code):
        column = pa.array([[0] * 12] * 7 + [[0] * 11 + [code]], pa.list_(pa.int32()))
        self.refused(rewritten(path, codes=column), f"expected codes from 0 to 511, received .*{code}")

    @pytest.mark.parametrize(
        "column", [pa.array(["text"] * 8), pa.array([["a"]] * 8), pa.array([[0.5] * 12] * 8)]
    )
    def test_codes_that_are_no_integers(self, path: Path, column):
        self.refused(rewritten(path, codes=column), "is damaged")


class TestCheck:
    def test_same(self):
        check_codes(INFO, INFO.model_copy(update={"version": "9.9", "classes": ()}))

    def test_other_model(self):
        with pytest.raises(
            InputError, match=r"expected codes of the model ffff, received codes of ab12ab12ab12: enc"
        ):
            check_codes(INFO, INFO.model_copy(update={"model": "ffff"}))

    @pytest.mark.parametrize("change", [{"grid": (3, 2)}, {"num_codebooks": 1}, {"num_codes": 256}], ids=str)
    def test_other_layout(self, change):
        with pytest.raises(InputError, match=r"received \(2, 2, 3\) out of 512"):
            check_codes(INFO, INFO.model_copy(update=change))


RAGGED = CodesInfo(grid=(None,), num_codebooks=2, num_codes=512, model="ab12" * 8, classes=("cat", "dog"))


class TestRagged:
    LENGTHS = (4, 1, 9, 4)

    def batches(self, lengths=LENGTHS, info: CodesInfo = RAGGED):
        rng = np.random.default_rng(0)
        for index, length in enumerate(lengths):
            shape = [length if side is None else side for side in info.shape]
            yield [f"item {index}"], rng.integers(0, info.num_codes, (1, *shape)), [(None, "cat")[index % 2]]

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        write_codes(tmp_path / "codes.parquet", RAGGED, self.batches())
        return tmp_path / "codes.parquet"

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    @pytest.mark.parametrize("row_group", [1, 10, 1 << 20])
    @pytest.mark.parametrize("grid", [(None,), (None, 3), (None, 3, 2)])
    def test_round_trip_one_by_one(self, tmp_path: Path, monkeypatch, grid, row_group, batch_size):
        monkeypatch.setattr(codes_module, "_ROW_GROUP_CODES", row_group)
        info = RAGGED.model_copy(update={"grid": grid})
        path = tmp_path / "codes.parquet"
        assert write_codes(path, info, self.batches(info=info)) == 4
        received, read = read_codes(path, batch_size)
        assert received == info
        assert received.is_ragged
        for (names, codes, labels, _), expected in zip(read, self.batches(info=info), strict=True):
            assert (names, labels) == (expected[0], expected[2])
            assert codes.dtype == np.int64
            np.testing.assert_array_equal(codes, expected[1])

    def test_items_of_one_length_may_be_written_together(self, tmp_path: Path):
        codes = np.arange(24).reshape(3, 2, 4)
        write_codes(tmp_path / "c", RAGGED, [(["a", "b", "c"], codes, [None] * 3), *self.batches((5,))])
        read = list(read_codes(tmp_path / "c")[1])
        assert [batch.codes.shape for batch in read] == [(1, 2, 4)] * 3 + [(1, 2, 5)]
        np.testing.assert_array_equal(np.concatenate([batch.codes for batch in read[:3]]), codes)

    def test_row_groups_are_of_a_useful_size(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(codes_module, "_ROW_GROUP_CODES", 20)
        write_codes(tmp_path / "c", RAGGED, self.batches((4, 1, 5, 9, 9, 1)))
        metadata = pq.read_metadata(tmp_path / "c")
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 2, 1]

    def test_others_read_it(self, path: Path):
        frame = pd.read_parquet(path)
        assert [len(row) for row in frame["codes"]] == [2 * length for length in self.LENGTHS]
        assert json.loads(pq.read_schema(path).metadata[b"smalti"])["grid"] == [None]

    @pytest.mark.parametrize("shape", [(1, 2, 0), (1, 3, 4), (1, 2, 4, 4), (1, 8), (2, 2, 4)])
    def test_other_shapes_are_not_written(self, tmp_path: Path, shape):
        with pytest.raises(
            InputError, match=r"shape \(1, 2, None\) for 1 names, received .* encode the data"
        ):
            write_codes(tmp_path / "c", RAGGED, [(["a"], np.zeros(shape, np.int64), [None])])
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("row", [[0] * 7, [], None, [0, 0, 0, None], [0] * 3 + [512], [-1, 0]], ids=str)
    def test_damaged_rows_are_not_read(self, path: Path, row):
        """An odd number of codes cannot be those of two codebooks."""
        column = pa.array([[0] * 8, [0] * 2, [0] * 4, row], pa.list_(pa.int32()))
        read = read_codes(rewritten(path, codes=column))[1]
        assert [next(read)[1].shape[2] for _ in range(3)] == [4, 1, 2]
        with pytest.raises(
            InputError, match=r"expected .* codes .*encode the data again|codes from 0 to 511"
        ):
            next(read)

    def test_other_integer_types(self, path: Path):
        rows = [codes.flatten().tolist() for _, codes, _ in self.batches()]
        read = read_codes(rewritten(path, codes=pa.array(rows, pa.large_list(pa.int16()))))[1]
        for batch, expected in zip(read, self.batches(), strict=True):
            np.testing.assert_array_equal(batch.codes, expected[1])

    def test_are_not_taken_for_those_of_a_fixed_grid(self):
        with pytest.raises(InputError, match=r"received \(2, None\) out of 512"):
            check_codes(RAGGED, RAGGED.model_copy(update={"grid": (4,)}))
        check_codes(RAGGED, RAGGED)

    @pytest.mark.parametrize(
        ("grid", "shape", "admitted"),
        [
            ((None,), (2, 4), True),
            ((None,), (2, 0), False),
            ((None,), (2, 4, 4), False),
            ((None, 3), (2, 9, 3), True),
            ((None, 3), (2, 9, 4), False),
            ((None, 3, 2), (2, 9, 3, 2), True),
            ((4,), (2, 4), True),
            ((4,), (2, 5), False),
            ((), (2,), True),
        ],
    )
    def test_what_is_admitted(self, grid, shape, admitted):
        assert RAGGED.model_copy(update={"grid": grid}).admits(shape) == admitted

    def test_only_the_first_side_may_differ(self):
        with pytest.raises(ValidationError):
            CodesInfo.model_validate(RAGGED.model_dump() | {"grid": (3, None)})


class TestOwnGrids:
    """Files whose items differ in several sides of the grid."""

    INFO = RAGGED.model_copy(update={"grid": (None, None)})
    GRIDS = ((2, 3), (3, 2), (1, 5))

    def batches(self):
        rng = np.random.default_rng(1)
        for index, grid in enumerate(self.GRIDS):
            codes = rng.integers(0, 512, (1, 2, *grid))
            size = tuple(4 * side - 1 for side in grid)
            yield CodesBatch([f"item {index}"], codes, ["cat"], [size])

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        write_codes(tmp_path / "codes.parquet", self.INFO, self.batches())
        return tmp_path / "codes.parquet"

    def test_round_trip(self, path: Path):
        info, read = read_codes(path)
        assert info == self.INFO
        for batch, expected in zip(read, self.batches(), strict=True):
            assert batch[0] == expected[0]
            assert batch.sizes == expected.sizes
            np.testing.assert_array_equal(batch.codes, expected.codes)

    def test_others_read_grids_and_sizes(self, path: Path):
        frame = pd.read_parquet(path)
        assert [tuple(grid) for grid in frame["grid"]] == [*self.GRIDS]
        assert tuple(frame["size"][2]) == (3, 19)

    def test_an_older_version_says_that_it_is_old(self, path: Path, tmp_path: Path):
        layout = json.loads(pq.read_schema(path).metadata[b"smalti"])["format"]
        write_codes(tmp_path / "one", RAGGED, TestRagged().batches())
        assert (layout, json.loads(pq.read_schema(tmp_path / "one").metadata[b"smalti"])["format"]) == (2, 1)

    @pytest.mark.parametrize("sizes", [None, [(3, 4)], [(3, 4), (3,)], [(3, 4), (0, 4)]])
    def test_batches_without_the_size_of_each_item(self, tmp_path: Path, sizes):
        with pytest.raises(InputError):
            write_codes(
                tmp_path / "c",
                self.INFO,
                [CodesBatch(["a", "b"], np.zeros((2, 2, 1, 1), np.int64), [None] * 2, sizes)],
            )
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["grid", "size"])
    @pytest.mark.parametrize("row", [None, [], [6], [0, 3], [-2, -3], [2, None], [1, 2, 3]], ids=str)
    def test_damaged_sides(self, path: Path, name: str, row):
        column = pa.array([row, [3, 2], [1, 5]], pa.list_(pa.int32()))
        with pytest.raises(InputError):
            list(read_codes(rewritten(path, **{name: column}))[1])

    @pytest.mark.parametrize("grid", [[3, 3], [2**20, 2**20], [2**31 - 1, 1]], ids=str)
    def test_grids_of_another_number_of_codes(self, path: Path, grid):
        column = pa.array([grid, [3, 2], [1, 5]], pa.list_(pa.int32()))
        with pytest.raises(InputError):
            list(read_codes(rewritten(path, grid=column))[1])

    @pytest.mark.parametrize("name", ["grid", "size"])
    def test_a_missing_column(self, path: Path, name: str):
        with pytest.raises(InputError):
            read_codes(rewritten(path, **{name: None}))
