"""Named columns: from items through a store to the conditions of a batch."""

import json

import numpy as np
import pytest
import torch

from smalti.core.conditions import PerFrame, PerItem
from smalti.core.errors import InputError
from smalti.data.columns import ColumnSpec, fault_in
from smalti.data.crops import CropLoader
from smalti.data.ingest import build_store
from smalti.data.loader import Loader
from smalti.data.sources.base import Item, Source
from smalti.data.store import Store
from smalti.data.store_layout import Decoded

LENGTHS = (5, 2, 9, 4)


def clip(index: int) -> np.ndarray:
    """Frames whose level is unique: item and frame in one number."""
    levels = 20 * index + np.arange(LENGTHS[index], dtype=np.uint8)
    return levels.reshape(1, -1, 1) * np.ones((1, 1, 2), np.uint8)


def columns(index: int, num_frames: int) -> dict:
    """Every kind of column, each value a function of item and frame."""
    frames = 20 * index + np.arange(num_frames)
    return {
        "mood": "calm" if index % 2 else "wild",
        "pose": np.array([index, index + 0.5], np.float64),
        "gait": tuple(None if frame % 3 == 0 else f"g{frame:02d}" for frame in frames),
        "throttle": np.stack([frames, -frames], 1).astype(np.float32),
    }


def items() -> list[Decoded]:
    return [
        Decoded(f"{i}", clip(i), "ab"[i % 2], None, columns(i, length)) for i, length in enumerate(LENGTHS)
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Store:
    directory = tmp_path_factory.mktemp("clips") / "s"
    Store.write(directory, items(), (1, None, 2), np.uint8)
    return Store.open(directory)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Store:
    """Items of one size, with a value for each of their 3 rows."""
    directory = tmp_path_factory.mktemp("pictures") / "s"
    decoded = [Decoded(f"{i}", np.full((1, 3, 2), i, np.uint8), None, None, columns(i, 3)) for i in range(4)]
    return Store.write(directory, decoded, (1, 3, 2), np.uint8)


@pytest.mark.parametrize("kind", ["clips", "pictures"])
def test_a_store_gives_back_the_columns_of_each_item(request, kind):
    store = request.getfixturevalue(kind)
    for index in range(4):
        expected = columns(index, 3 if kind == "pictures" else LENGTHS[index])
        received = store.columns_of(index)
        assert received.keys() == expected.keys()
        assert (received["mood"], received["gait"]) == (expected["mood"], expected["gait"])
        for name in ("pose", "throttle"):
            np.testing.assert_array_equal(received[name], expected[name])
            assert received[name].dtype == np.float32
    assert store.columns["mood"].spec.names == ("calm", "wild")
    assert store.condition_names >= {"mood", "pose", "gait", "throttle"}


def test_the_index_describes_the_columns(clips):
    index = json.loads((clips.directory / "index.json").read_text())
    assert index["columns"][2] == {
        "name": "pose",
        "kind": "item",
        "dtype": "float32",
        "width": 2,
        "names": [],
    }
    assert [entry["name"] for entry in index["columns"]] == ["gait", "mood", "pose", "throttle"]


def test_names_that_an_item_lacks_are_minus_one(tmp_path):
    given = [{"mood": "calm", "gait": ("g", None, "g", "g", "g")}, {}]
    decoded = [Decoded(f"{i}", clip(i), columns=each) for i, each in enumerate(given)]
    store = Store.write(tmp_path / "s", decoded, (1, None, 2), np.uint8)
    assert store.columns["mood"].data.tolist() == [0, -1]
    assert store.columns["gait"].data.tolist() == [0, -1, 0, 0, 0, -1, -1]
    assert store.columns_of(1) == {"gait": (None, None)}


def test_ids_are_numbered_as_another_store_does(tmp_path, clips):
    names = {"mood": ("wild", "bored", "calm")}
    again = Store.write(tmp_path / "s", items(), (1, None, 2), np.uint8, column_names=names)
    assert again.columns["mood"].data.tolist() == [0, 2, 0, 2]
    changed = clips.with_names({"mood": ("bored", "calm"), "absent": ("a",)})
    assert changed.columns["mood"].data.tolist() == [-1, 1, -1, 1]
    assert changed.names_by_column["mood"] == ("bored", "calm")
    assert changed.columns["gait"] is clips.columns["gait"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("label", "x", ["label"]),
        ("action", ("x",) * 5, ["action"]),
        ("../x", "x", ["'../x'"]),
        ("Mood", "x", ["'Mood'"]),
        ("pose", np.zeros(2, np.int64), ["pose", "int64"]),
        ("pose", np.zeros((5, 2, 2)), ["pose", "(5, 2, 2)"]),
        ("pose", np.zeros((5, 0)), ["pose", "(5, 0)"]),
        ("speaker", ("x",) * 5, ["speaker", "frame"]),
        ("gait", ("x",) * 4, ["gait", "4", "5"]),
        ("pose", np.array([0, np.nan]), ["pose", "finite"]),
        ("pose", np.array([0, 1e39]), ["pose", "finite"]),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, name, value, words):
    with pytest.raises(InputError) as error:
        Store.write(tmp_path / "s", [Decoded("a", clip(0), columns={name: value})], (1, None, 2), np.uint8)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"pose": np.zeros(3)}, ["pose", "width 2", "width 3"]),
        ({"pose": "x"}, ["pose", "names"]),
        ({"pose": np.zeros((2, 2))}, ["pose", "per frame"]),
        ({}, ["pose", "none for b"]),
    ],
)
def test_all_items_have_values_of_one_kind(tmp_path, second, words):
    decoded = [
        Decoded("a", clip(0), columns={"pose": np.zeros(2)}),
        Decoded("b", clip(1), columns=second),
    ]
    with pytest.raises(InputError) as error:
        Store.write(tmp_path / "s", decoded, (1, None, 2), np.uint8)
    assert all(word in str(error.value) for word in words)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"mood.*wild"):
        Store.write(tmp_path / "s", items(), (1, None, 2), np.uint8, column_names={"mood": ["calm"]})


class TestDamage:
    @pytest.fixture
    def directory(self, tmp_path):
        return Store.write(tmp_path / "s", items(), (1, None, 2), np.uint8).directory

    @pytest.mark.parametrize("name", ["mood", "pose", "gait", "throttle"])
    @pytest.mark.parametrize("change", ["short", "long", "gone"])
    def test_sizes(self, directory, name, change):
        file = directory / f"column-{name}.bin"
        content = file.read_bytes()
        if change == "gone":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if change == "short" else content + b"0")
        with pytest.raises(InputError, match=f"column-{name}.bin should hold {len(content)} bytes"):
            Store.open(directory)

    @pytest.mark.parametrize(("name", "value"), [("mood", 2), ("mood", -2), ("pose", np.inf)])
    def test_values(self, directory, name, value):
        file = directory / f"column-{name}.bin"
        data = np.fromfile(file, np.int64 if name == "mood" else np.float32)
        data[-1] = value
        data.tofile(file)
        with pytest.raises(InputError, match=f"column-{name}.bin"):
            Store.open(directory)

    @pytest.mark.parametrize(
        "change",
        [
            {"name": "../x"},
            {"name": "label"},
            {"name": "pose"},
            {"kind": "x"},
            {"dtype": "object"},
            {"width": 1},
            {"width": -1},
        ],
        ids=str,
    )
    def test_index(self, directory, change):
        file = directory / "index.json"
        index = json.loads(file.read_text())
        index["columns"][1] |= change
        file.write_text(json.dumps(index))
        with pytest.raises(InputError, match="is damaged"):
            Store.open(directory)

    def test_an_absurd_width_is_not_allocated(self, directory):
        file = directory / "index.json"
        index = json.loads(file.read_text())
        index["columns"][2]["width"] = 10**30
        file.write_text(json.dumps(index))
        with pytest.raises(InputError, match="not written to its end"):
            Store.open(directory)

    def test_a_store_of_before_is_prepared_again(self, directory):
        file = directory / "index.json"
        index = json.loads(file.read_text())
        del index["columns"]
        file.write_text(json.dumps(index | {"format": 2}))
        with pytest.raises(InputError, match="prepare the data again"):
            Store.open(directory)

    def test_a_store_with_columns_can_be_replaced(self, directory):
        again = Store.write(directory, [Decoded("a", clip(0))], (1, None, 2), np.uint8)
        assert not again.columns
        assert not list(directory.glob("column-*"))


def check_conditions(conditions, item: int, begin: int, num_frames: int, position: int, length: int) -> None:
    """The conditions of one item of a batch are those of its frames, then padding."""
    expected = columns(item, begin + num_frames)
    kinds = {"mood": PerItem, "pose": PerItem, "gait": PerFrame, "throttle": PerFrame}
    assert {name: type(conditions[name]) for name in kinds} == kinds
    assert conditions["mood"].data[position] == item % 2 ^ 1
    np.testing.assert_array_equal(conditions["pose"].data[position], expected["pose"])
    throttle = np.zeros((length, 2), np.float32)
    throttle[:num_frames] = expected["throttle"][begin:]
    np.testing.assert_array_equal(conditions["throttle"].data[position], throttle)
    given = [name is not None for name in expected["gait"][begin:]] + [False] * (length - num_frames)
    np.testing.assert_array_equal(conditions["gait"].data[position] >= 0, given)
    assert (conditions["gait"].data[position][~torch.tensor(given)] == -1).all()


@pytest.mark.parametrize("indices", [None, np.array([3, 0, 2])])
def test_crops_come_with_their_columns(clips, indices):
    loader = CropLoader(clips, indices, size=(4,), batch_size=64)
    begins = set()
    batches = [*(loader.batch(step) for step in range(2)), *loader.watch(2), *loader.sequential()]
    for batch in batches:
        length = batch.data.shape[2]
        counts = [length] * len(batch.data) if batch.lengths is None else batch.lengths.tolist()
        for position, count in enumerate(counts):
            item, begin = divmod(int(batch.data[position, 0, 0, 0]), 20)
            check_conditions(batch.conditions, item, begin, count, position, length)
            begins.add((item, begin))
    assert len(begins) > len(LENGTHS)


@pytest.mark.parametrize("indices", [None, np.array([3, 0, 2])])
def test_batches_come_with_their_columns(pictures, indices):
    loader = Loader(pictures, indices=indices, batch_size=3)
    for batch in [*(loader.batch(step) for step in range(3)), *loader.sequential()]:
        for position in range(len(batch.data)):
            item = int(batch.data[position, 0, 0, 0])
            check_conditions(batch.conditions, item, 0, 3, position, 3)


def test_ids_keep_their_names_in_batches(clips):
    batch = CropLoader(clips, size=(9,), batch_size=2).whole(2)
    names = clips.columns["gait"].spec.names
    ids = batch.conditions["gait"].data[0].tolist()
    received = [names[number] if number >= 0 else None for number in ids]
    assert received == list(columns(2, 9)["gait"])


class Listed(Source):
    """Clips in memory, the second with too few values in a column, the third with a missing one."""

    description, splits = "clips", ("all",)

    def count(self, split):
        return 4

    def items(self, split):
        for index, length in enumerate(LENGTHS):
            throttle = columns(index, length - (index == 1))["throttle"]
            if index == 2:
                throttle[3, 1] = np.nan
            yield Item(f"{index}", clip(index), columns={"throttle": throttle, "mood": "\udcff"})


def test_items_whose_columns_do_not_fit_are_skipped_and_listed(tmp_path):
    shape = (1, None, 2)
    store = build_store(
        tmp_path / "s", Listed(), "all", lambda content: content, {}, shape, np.dtype("uint8")
    )
    assert store.names == ("0", "3")
    assert [entry["name"] for entry in store.skipped] == ["1", "2"]
    assert all("throttle" in entry["reason"] for entry in store.skipped)
    np.testing.assert_array_equal(store.columns_of(1)["throttle"], columns(3, 4)["throttle"])
    assert store.columns["mood"].spec.names == ("\\udcff",)


def test_faults_of_items():
    assert fault_in(columns(0, 5), 5) is None
    assert "gait" in (fault_in({"gait": ("a",)}, None) or "")
    assert ColumnSpec.of("gait", ("a",)).is_per_frame
