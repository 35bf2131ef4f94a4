"""Stores: what goes in comes out, an unreadable item is listed, and half a store is no store."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.core import files
from smalti.core.errors import InputError
from smalti.data import store as store_module
from smalti.data.store import Store
from smalti.data.store_layout import FORMAT


def arrays(count: int, dtype="uint8"):
    return [(f"n{i}", np.full((2, 2), i, dtype), None) for i in range(count)]


class TestWriteAndOpen:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float32"])
    def test_round_trip(self, tmp_path: Path, dtype):
        data = np.random.default_rng(0).integers(0, 100, (7, 3, 2, 5)).astype(dtype)
        names = ["a", "new\nline", 'q"uote', "ümlaut", "", "same", "same"]
        labels = ["b", None, "a", "b", None, "c", "a"]
        written = Store.write(
            tmp_path / "s",
            zip(names, data, labels, strict=True),
            (3, 2, 5),
            dtype,
            source="words",
            split="train",
            protocol={"size": [2, 5]},
        )
        for store in (written, Store.open(str(tmp_path / "s"))):
            np.testing.assert_array_equal(store.signals, data)
            assert (store.count, store.shape, store.dtype) == (7, (3, 2, 5), np.dtype(dtype))
            assert store.labels.tolist() == [1, -1, 0, 1, -1, 2, 0]
            assert store.classes == ("a", "b", "c")
            assert store.names == tuple(names)
            assert (store.source, store.split, store.protocol) == ("words", "train", {"size": [2, 5]})
            assert store.skipped == []
        assert os.listdir(tmp_path) == ["s"]

    def test_given_classes_keep_their_numbers(self, tmp_path: Path):
        data = [("x", np.zeros(1, np.int64), "b"), ("y", np.zeros(1, np.int64), "a")]
        store = Store.write(tmp_path / "s", data, (1,), np.int64, classes=["b", "z", "a"])
        assert store.labels.tolist() == [0, 2]
        assert store.classes == ("b", "z", "a")

    def test_torch_takes_the_map_without_a_copy_and_the_file_stays(self, tmp_path: Path, recwarn):
        store = Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        tensor = torch.from_numpy(store.signals)
        assert not recwarn.list
        tensor.fill_(99)
        assert (store.signals == 99).all()
        assert Store.open(tmp_path / "s").signals[2, 0, 0] == 2

    def test_items_that_are_not_contiguous(self, tmp_path: Path):
        array = np.arange(6, dtype=np.uint8).reshape(2, 3).T
        store = Store.write(tmp_path / "s", [("a", array, None)], (3, 2), "uint8")
        np.testing.assert_array_equal(store.signals[0], array)

    def test_replaces_a_store_and_an_empty_directory(self, tmp_path: Path):
        (tmp_path / "s").mkdir()
        Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        assert Store.write(tmp_path / "s", arrays(5), (2, 2), "uint8").count == 5
        assert os.listdir(tmp_path) == ["s"]

    def test_makes_parents(self, tmp_path: Path):
        assert Store.write(tmp_path / "a/b/s", arrays(1), (2, 2), "uint8").count == 1


class TestWriteRefuses:
    @pytest.mark.parametrize("array", [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.int64)])
    def test_other_shapes_and_types(self, tmp_path: Path, array):
        with pytest.raises(
            InputError, match=r"expected items of shape \(2, 2\) and type uint8, received .* for odd"
        ):
            Store.write(tmp_path / "s", [*arrays(2), ("odd", array, None)], (2, 2), "uint8")
        assert os.listdir(tmp_path) == []

    def test_unknown_class(self, tmp_path: Path):
        data = [("x", np.zeros((2, 2), np.uint8), "dog")]
        with pytest.raises(InputError, match=r'2 known classes \(a, b\), received "dog" for x'):
            Store.write(tmp_path / "s", data, (2, 2), "uint8", classes=("a", "b"))

    def test_nothing(self, tmp_path: Path):
        with pytest.raises(InputError, match="no items to write"):
            Store.write(tmp_path / "s", [], (2, 2), "uint8")
        assert os.listdir(tmp_path) == []

    def test_a_directory_of_something_else(self, tmp_path: Path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(InputError, match="something else than prepared data"):
            Store.write(tmp_path, arrays(1), (2, 2), "uint8")
        assert os.listdir(tmp_path) == ["thesis.tex"]

    def test_a_store_with_something_else_in_it(self, tmp_path: Path):
        Store.write(tmp_path / "s", arrays(1), (2, 2), "uint8")
        (tmp_path / "s" / "notes.txt").touch()
        with pytest.raises(InputError, match="something else than prepared data"):
            Store.write(tmp_path / "s", arrays(1), (2, 2), "uint8")

    def test_a_file_in_its_place(self, tmp_path: Path):
        (tmp_path / "s").touch()
        with pytest.raises(InputError, match="something else than prepared data"):
            Store.write(tmp_path / "s", arrays(1), (2, 2), "uint8")

    def test_a_file_as_parent(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            Store.write(tmp_path / "file" / "s", arrays(1), (2, 2), "uint8")

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk_at_the_end(self, tmp_path: Path, monkeypatch, code):
        def full(file):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(files, "_sync", full)
        with pytest.raises(InputError, match=f"disk is full: {tmp_path}/s could not be written"):
            Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        assert os.listdir(tmp_path) == []

    def test_full_disk_on_the_way(self, tmp_path: Path):
        class Writer(store_module.StoreWriter):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.signals_file.close()
                self.signals_file = open("/dev/full", "wb")  # noqa: SIM115

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_module, "StoreWriter", Writer)
            large = ((f"{i}", np.zeros((512, 512), np.uint8), None) for i in range(100))
            with pytest.raises(InputError, match="disk is full"):
                Store.write(tmp_path / "s", large, (512, 512), "uint8")
        assert next(large)[0] == "1", "it must stop at the first item that does not fit"
        assert os.listdir(tmp_path) == []

    def test_other_disk_errors_are_not_hidden(self, tmp_path: Path, monkeypatch):
        def broken(file):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files, "_sync", broken)
        with pytest.raises(OSError, match="Input/output"):
            Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_interruption_keeps_the_old_store(self, tmp_path: Path, error):
        Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")

        def interrupted():
            yield from arrays(2)
            raise error

        with pytest.raises(error):
            Store.write(tmp_path / "s", interrupted(), (2, 2), "uint8")
        assert os.listdir(tmp_path) == ["s"]
        assert Store.open(tmp_path / "s").count == 3

    def test_a_kill_leaves_nothing_that_opens(self, tmp_path: Path):
        """At every moment of a write no directory but a whole store can be opened."""

        def spied():
            for item in arrays(3):
                yield item
                for directory in (path for path in tmp_path.rglob("*") if path.is_dir()):
                    with pytest.raises(InputError, match=r"no index\.json"):
                        Store.open(directory)

        assert Store.write(tmp_path / "s", spied(), (2, 2), "uint8").count == 3

    def test_the_last_rename_fails(self, tmp_path: Path, monkeypatch):
        """what was moved out of the way for the new store comes back."""
        Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        rename = os.rename

        def failing(source, target):
            if Path(target) == tmp_path / "s" and not Path(source).name.endswith(".replaced"):
                raise OSError(errno.EIO, "from the system")
            rename(source, target)

        monkeypatch.setattr(files.os, "rename", failing)
        with pytest.raises(OSError, match="from the system"):
            Store.write(tmp_path / "s", arrays(4), (2, 2), "uint8")
        assert os.listdir(tmp_path) == ["s"]
        assert Store.open(tmp_path / "s").count == 3

    def test_two_writers_at_once(self, tmp_path: Path):
        failures = []

        def write():
            try:
                for _ in range(10):
                    Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert os.listdir(tmp_path) == ["s"]
        assert Store.open(tmp_path / "s").count == 3


class TestOpenRefuses:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        data = [(f"n{i}", np.full((2, 2), i, np.uint8), "ab"[i % 2]) for i in range(4)]
        return Store.write(tmp_path / "s", data, (2, 2), "uint8").directory

    def edit(self, directory: Path, **changes) -> None:
        index = json.loads((directory / "index.json").read_text())
        (directory / "index.json").write_text(json.dumps(index | changes))

    def test_no_store(self, tmp_path: Path):
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "gone", tmp_path / "file"):
            with pytest.raises(InputError, match=r"holds no prepared data.*check the path"):
                Store.open(path)

    @pytest.mark.parametrize("name", ["signals.bin", "labels.bin", "names.txt"])
    @pytest.mark.parametrize("change", ["short", "long", "gone"])
    def test_sizes(self, directory: Path, name, change):
        file = directory / name
        content = file.read_bytes()
        if change == "gone":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if change == "short" else content + b"0")
        with pytest.raises(
            InputError, match=f"{name} should hold {len(content)} bytes.*not written to its end"
        ):
            Store.open(directory)

    def test_newer_version(self, directory: Path):
        self.edit(directory, format=FORMAT + 1, key_of_the_future=1)
        with pytest.raises(
            InputError, match=r"newer version of smalti \(format 4; this one reads up to 3\): run pip"
        ):
            Store.open(directory)

    @pytest.mark.parametrize(
        "changes",
        [
            {"count": -4},
            {"count": "x"},
            {"shape": [2, -2]},
            {"dtype": "object"},
            {"dtype": "nonsense"},
            {"extra": 1},
            {"format": None},
        ],
        ids=str,
    )
    def test_damaged_index(self, directory: Path, changes):
        self.edit(directory, **changes)
        with pytest.raises(InputError, match="is damaged: delete"):
            Store.open(directory)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
    def test_index_that_is_no_object(self, directory: Path, content):
        (directory / "index.json").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            Store.open(directory)

    def test_absurd_count(self, directory: Path):
        self.edit(directory, count=10**30)
        with pytest.raises(InputError, match="not written to its end"):
            Store.open(directory)

    @pytest.mark.parametrize("label", [-2, 2])
    def test_labels_without_a_class(self, directory: Path, label):
        np.array([0, 1, 0, label]).tofile(directory / "labels.bin")
        with pytest.raises(InputError, match=r"names a class outside -1\.\.1"):
            Store.open(directory)


class TestRagged:
    SHAPE = (3, None)

    def items(self, *lengths: int) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 99, (3, length)).astype(np.int16) for length in lengths]

    def write(self, directory: Path, items: list[np.ndarray], **options) -> Store:
        named = [(f"n{i}", item, "ab"[i % 2]) for i, item in enumerate(items)]
        return Store.write(directory, named, self.SHAPE, "int16", **options)

    def test_round_trip(self, tmp_path: Path):
        items = self.items(5, 1, 8, 2)
        written = self.write(tmp_path / "s", items, protocol={"rate": 8000})
        for store in (written, Store.open(tmp_path / "s")):
            assert (store.count, store.shape, store.dtype) == (4, (3, None), np.dtype("int16"))
            assert store.lengths.tolist() == [5, 1, 8, 2]
            assert store.begins.tolist() == [0, 5, 6, 14]
            assert store.labels.tolist() == [0, 1, 0, 1]
            assert store.names == ("n0", "n1", "n2", "n3")
            assert store.protocol == {"rate": 8000}
            for index in (3, 0, 2, 1):
                np.testing.assert_array_equal(store.item(index), items[index])

    def test_time_comes_first_in_the_file(self, tmp_path: Path):
        """A stretch of an item is adjacent there."""
        items = self.items(5, 2)
        store = self.write(tmp_path / "s", items)
        np.testing.assert_array_equal(store.signals, np.concatenate(items, 1).T)
        content = (tmp_path / "s" / "signals.bin").read_bytes()
        assert content == np.concatenate(items, 1).T.tobytes()

    @pytest.mark.parametrize("others", [(), (2,), (2, 3)])
    def test_any_number_of_other_axes(self, tmp_path: Path, others):
        items = [np.arange(3 * n * np.prod(others), dtype="f4").reshape(3, n, *others) for n in (4, 7)]
        named = [(f"{i}", item, None) for i, item in enumerate(items)]
        Store.write(tmp_path / "s", named, (3, None, *others), "float32")
        store = Store.open(tmp_path / "s")
        assert store.shape == (3, None, *others)
        assert store.signals.shape == (11, 3, *others)
        for index, item in enumerate(items):
            np.testing.assert_array_equal(store.item(index), item)

    def test_changes_never_reach_the_disk(self, tmp_path: Path):
        store = self.write(tmp_path / "s", self.items(3, 2))
        before = store.item(1).copy()
        store.item(1)[:] = 77
        assert (store.item(1) == 77).all()
        np.testing.assert_array_equal(Store.open(tmp_path / "s").item(1), before)

    @pytest.mark.parametrize("shape", [(3, 0), (2, 4), (4,), (3, 4, 1)])
    def test_items_of_another_shape_and_empty_ones_are_refused(self, tmp_path: Path, shape):
        with pytest.raises(InputError, match=r"expected items of shape \(3, None\) and type int16, received"):
            self.write(tmp_path / "s", [*self.items(2), np.zeros(shape, np.int16)])
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["signals.bin", "labels.bin", "lengths.bin", "names.txt"])
    @pytest.mark.parametrize("change", ["short", "long", "gone"])
    def test_files_of_other_sizes_are_refused(self, tmp_path: Path, name, change):
        file = self.write(tmp_path / "s", self.items(5, 1)).directory / name
        content = file.read_bytes()
        if change == "gone":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if change == "short" else content + b"0")
        with pytest.raises(InputError, match=f"{name} should hold {len(content)} bytes"):
            Store.open(tmp_path / "s")

    @pytest.mark.parametrize("lengths", [[6, 0], [7, -1], [-(2**62), 2**62 + 6]])
    def test_impossible_lengths_are_refused(self, tmp_path: Path, lengths):
        directory = self.write(tmp_path / "s", self.items(5, 1)).directory
        np.array(lengths).tofile(directory / "lengths.bin")
        words = rf"lengths.bin names an item of length {min(lengths)}: it is damaged; delete"
        with pytest.raises(InputError, match=words):
            Store.open(directory)

    @pytest.mark.parametrize("lengths", [[5, 2], [2**62, 2**62]])
    def test_lengths_that_are_not_those_of_the_signals_are_refused(self, tmp_path: Path, lengths):
        directory = self.write(tmp_path / "s", self.items(5, 1)).directory
        np.array(lengths).tofile(directory / "lengths.bin")
        with pytest.raises(InputError, match=rf"signals.bin should hold {sum(lengths) * 6} bytes"):
            Store.open(directory)

    @pytest.mark.parametrize("shape", [[None, 3], [3, 2, None], [3, None, 2, None]])
    def test_only_the_first_sides_after_the_channels_may_differ(self, tmp_path: Path, shape):
        directory = self.write(tmp_path / "s", self.items(5, 1)).directory
        index = json.loads((directory / "index.json").read_text())
        (directory / "index.json").write_text(json.dumps(index | {"shape": shape}))
        with pytest.raises(InputError, match="is damaged: delete"):
            Store.open(directory)

    def test_takes_the_place_of_a_fixed_one_and_the_other_way_round(self, tmp_path: Path):
        Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        assert self.write(tmp_path / "s", self.items(5, 1)).lengths is not None
        fixed = Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        assert fixed.lengths is None
        assert sorted(os.listdir(tmp_path / "s")) == ["index.json", "labels.bin", "names.txt", "signals.bin"]

    def test_items_of_a_fixed_store(self, tmp_path: Path):
        store = Store.write(tmp_path / "s", arrays(3), (2, 2), "uint8")
        np.testing.assert_array_equal(store.item(2), np.full((2, 2), 2, np.uint8))
