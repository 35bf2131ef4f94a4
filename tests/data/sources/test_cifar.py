"""CIFAR's own archives: every version, exact pixels, and pickles that are no mere data."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import pickles as pickles_module
from smalti.data.sources.cifar import CifarSource
from smalti.data.sources.pickles import read_pickle

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN = [f"data_batch_{n}" for n in range(1, 6)]

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8),
    "test": RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
}
LABELS = {"train": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], "test": [3, 8, 0]}


def rows(images: np.ndarray) -> np.ndarray:
    """Images `(N, 32, 32, 3)` as planes, `(N, 3072)`."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)


def python2(value: object) -> bytes:
    """The opcodes that cPickle of Python 2 wrote, protocol 2, without the final stop."""
    match value:
        case dict():
            return b"}(" + b"".join(python2(key) + python2(value[key]) for key in value) + b"u"
        case list():
            return b"](" + b"".join(map(python2, value)) + b"e"
        case int():
            return b"J" + struct.pack("<i", value)
        case str() | bytes():
            raw = value.encode() if isinstance(value, str) else value
            return b"T" + struct.pack("<i", len(raw)) + raw
        case np.ndarray():
            new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + python2("b") + b"\x87R"
            dtype = b"cnumpy\ndtype\n" + python2(value.dtype.str[1:]) + b"K\0K\1\x87R"
            dtype += b"(K\3" + python2("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
            shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
            return new + b"(K\1" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"
    raise TypeError(value)


def dump2(value: object) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


def by_file(ending: str = "") -> dict[str, slice]:
    return {f"{name}{ending}": slice(2 * n, 2 * n + 2) for n, name in enumerate(TRAIN)}


def python_files(dump=dump2) -> dict[str, bytes]:
    files = {
        name: dump(
            {"batch_label": name, "labels": LABELS["train"][part], "data": rows(IMAGES["train"])[part]}
        )
        for name, part in by_file().items()
    }
    files["test_batch"] = dump(
        {"labels": LABELS["test"], "data": rows(IMAGES["test"]), "filenames": ["a.png"]}
    )
    files["batches.meta"] = dump({"num_cases_per_batch": 2, "label_names": NAMES, "num_vis": 3072})
    return files


def records(labels: list[list[int]], images: np.ndarray) -> bytes:
    return b"".join(bytes(label) + row.tobytes() for label, row in zip(labels, rows(images), strict=True))


def binary_files() -> dict[str, bytes]:
    labels = [[label] for label in LABELS["train"]]
    files = {name: records(labels[part], IMAGES["train"][part]) for name, part in by_file(".bin").items()}
    files["test_batch.bin"] = records([[label] for label in LABELS["test"]], IMAGES["test"])
    files["batches.meta.txt"] = ("\n".join(NAMES) + "\n\n").encode()
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """An archive as the published ones are: the folder first, its files in no order."""
    with tarfile.open(path, "w:gz") as archive:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name in sorted(files, key=lambda name: name[::-1], reverse=True):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return path


def place_python_folder(root: Path) -> Path:
    return write_folder(root / "cifar-10-batches-py", python_files())


def place_binary_folder(root: Path) -> Path:
    return write_folder(root / "cifar-10-batches-bin", binary_files())


def place_python_tar(root: Path) -> Path:
    return write_tar(root / "cifar-10-python.tar.gz", "cifar-10-batches-py", python_files())


def place_binary_tar(root: Path) -> Path:
    return write_tar(root / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary_files())


PLACES = [place_python_folder, place_binary_folder, place_python_tar, place_binary_tar]


def check_whole(source: CifarSource) -> None:
    """Everything that was written comes back, twice."""
    assert source.splits == ("train", "test")
    for split in source.splits:
        assert source.count(split) == len(LABELS[split])
        for _ in range(2):
            items = list(source.items(split))
            assert [item.name for item in items] == [f"{split}/{n:05d}" for n in range(len(items))]
            assert [item.label for item in items] == [NAMES[label] for label in LABELS[split]]
            assert all(item.content.dtype == np.uint8 for item in items)
            np.testing.assert_array_equal(np.stack([item.content for item in items]), IMAGES[split])


def test_the_oracle_is_python_2s_format():
    fields = pickle.loads(dump2({"data": rows(IMAGES["test"]), "labels": [1, 2]}), encoding="bytes")
    assert fields[b"labels"] == [1, 2]
    np.testing.assert_array_equal(fields[b"data"], rows(IMAGES["test"]))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("inside", [False, True], ids=["named", "beside"])
def test_every_version(tmp_path, place, inside):
    path = place(tmp_path)
    path = path.parent if inside else path
    assert CifarSource.accepts(path)
    source = CifarSource(path)
    check_whole(source)
    assert source.description.startswith("CIFAR-10 /")
    assert source.description.endswith("(train 10, test 3)")


@pytest.mark.parametrize("name", ["cifar-10-python (1).tar.gz", "data.tar"])
def test_a_renamed_archive_is_known_by_its_folder(tmp_path, name):
    path = place_python_tar(tmp_path).rename(tmp_path / name)
    assert CifarSource.accepts(path)
    check_whole(CifarSource(path))


@pytest.mark.parametrize("files", [python_files, binary_files])
def test_a_renamed_folder_is_known_by_its_files(tmp_path, files):
    folder = write_folder(tmp_path / "data", files())
    assert CifarSource.accepts(folder)
    check_whole(CifarSource(folder))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_pickled_anew_by_python_3(tmp_path, protocol):
    folder = write_folder(tmp_path / "d", python_files(lambda fields: pickle.dumps(fields, protocol)))
    check_whole(CifarSource(folder))


def test_a_folder_goes_before_its_archive(tmp_path):
    place_python_folder(tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    check_whole(CifarSource(tmp_path))


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar_100_has_fine_classes(tmp_path, form):
    names = [f"class_{n}" for n in range(100)]
    folder = tmp_path / f"cifar-100-{form}"
    if form == "python":
        fields = {"coarse_labels": [1, 2, 3], "fine_labels": [99, 0, 42], "data": rows(IMAGES["test"])}
        meta = {"meta": dump2({"fine_label_names": names, "coarse_label_names": ["a"]})}
        write_folder(folder, {"train": dump2(fields), "test": dump2(fields), **meta})
    else:
        batch = records([[1, 99], [2, 0], [3, 42]], IMAGES["test"])
        meta = {"fine_label_names.txt": "\n".join(names).encode()}
        write_folder(folder, {"train.bin": batch, "test.bin": batch, **meta})
    source = CifarSource(folder)
    items = list(source.items("train"))
    assert [item.label for item in items] == ["class_99", "class_0", "class_42"]
    np.testing.assert_array_equal(np.stack([item.content for item in items]), IMAGES["test"])
    assert source.description == f"CIFAR-100 {folder} (train 3, test 3)"


def test_both_sets_in_one_folder(tmp_path):
    place_python_folder(tmp_path)
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(InputError, match=r"of CIFAR-10 or of CIFAR-100 in .*, got those of both"):
        CifarSource(tmp_path)


def test_accepts_nothing_else(tmp_path):
    for name in ("train", "test", "a.png"):
        (tmp_path / name).write_bytes(b"")
    assert not CifarSource.accepts(tmp_path)
    assert not CifarSource.accepts(tmp_path / "a.png")
    assert not CifarSource.accepts(write_tar(tmp_path / "a.tar.gz", "pictures", {"a.png": b""}))
    (tmp_path / "b.tar.gz").write_bytes(b"no tar file")
    assert not CifarSource.accepts(tmp_path / "b.tar.gz")
    with pytest.raises(InputError, match="got neither"):
        CifarSource(tmp_path)


@pytest.mark.parametrize(
    ("files", "meta"), [(python_files, "batches.meta"), (binary_files, "batches.meta.txt")]
)
def test_without_names_classes_are_numbers(tmp_path, files, meta):
    content = files()
    del content[meta]
    source = CifarSource(write_folder(tmp_path, content))
    assert [item.label for item in source.items("test")] == ["3", "8", "0"]
    assert source.notes("test")[1:] == [f"{meta} is missing: class names are numbers"]


def test_fewer_images_than_there_should_be_are_noted(tmp_path):
    source = CifarSource(place_python_folder(tmp_path))
    assert source.notes("train") == ["CIFAR-10 has 50,000 images in train, this copy has 10"]
    assert source.notes("test") == ["CIFAR-10 has 10,000 images in test, this copy has 3"]


@pytest.mark.parametrize("place", PLACES)
def test_a_batch_is_missing(tmp_path, place, monkeypatch):
    for files in (python_files, binary_files):
        content = {name: raw for name, raw in files().items() if not name.startswith("data_batch_3")}
        monkeypatch.setitem(globals(), files.__name__, lambda content=content: content)
    with pytest.raises(InputError, match=r"expected data_batch_3\S* of .*, got no such file"):
        CifarSource(place(tmp_path))


class Harm:
    """A call that a pickle must not be able to make."""

    def __init__(self, path: Path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, protocol, name):
    files = python_files()
    files[name] = pickle.dumps({"data": Harm(tmp_path / "harmed"), "labels": [1]}, protocol)
    folder = write_folder(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(
        InputError,
        match=rf"arrays and lists in {name} of .*refers to \w+\.system, which was not run",
    ):
        CifarSource(folder)
    assert not (tmp_path / "harmed").exists()
    pickle.loads(files[name])
    assert (tmp_path / "harmed").exists(), "the pickle of this test does no harm to anybody"


@pytest.mark.parametrize("name", ["builtins eval", "numpy load", "numpy.core.multiarray scalar", "os system"])
def test_other_names_are_refused_too(name):
    module, member = name.split()
    with pytest.raises(InputError, match=f"refers to {module}.{member}, which was not run"):
        read_pickle(f"c{module}\n{member}\n(S'1'\ntR.".encode(), "x")


def test_a_name_that_is_allowed_does_nothing():
    assert str(read_pickle(b"}S'a'\nc_codecs\nencode\n(S'x'\nS'zlib'\ntRs.", "x")["a"]).startswith("Inert(")


BATCH = {"labels": [1, 2], "data": rows(IMAGES["train"][:2])}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected a complete pickle in data_batch_1 of "),
        (dump2(BATCH)[:-3000], r"expected a complete pickle in data_batch_1"),
        (b"\x80\x02" + b"r\xff\xff\xff\x7f", r"expected a complete pickle in data_batch_1"),
        (dump2([1]), r"expected a pickled dict in data_batch_1 of .*, got list"),
        (dump2({"labels": [1]}), r"uint8 and N labels in .*, got no such data and 1 labels"),
        (dump2({"data": BATCH["data"]}), r"got data \(2, 3072\) and no labels"),
        (dump2({**BATCH, "labels": [1, 2, 3]}), r"got data \(2, 3072\) and 3 labels"),
        (dump2({**BATCH, "labels": [1, 10]}), r"labels from 0 to 9 in data_batch_1 of .*, got 10: it is dam"),
        (dump2({**BATCH, "labels": [1, "x"]}), r"labels from 0 to 9 in .*, got b'x'"),
        (dump2({**BATCH, "data": BATCH["data"][:, 1:]}), r"got data \(2, 3071\) and 2 labels"),
        (dump2({**BATCH, "data": BATCH["data"].view(np.int8)}), "got no such data and 2 labels"),
        (dump2({**BATCH, "data": BATCH["data"][0]}), "got no such data and 2 labels"),
        (dump2(BATCH).replace(b"(K\1(J\2\0\0\0", b"(K\1(J\3\0\0\0"), "got no such data and 2 labels"),
    ],
    ids=range(13),
)
def test_damaged_batches(tmp_path, content, message):
    folder = write_folder(tmp_path, {**python_files(), "data_batch_1": content})
    with pytest.raises(InputError, match=message):
        CifarSource(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"}r\x80\x96\x98\x00.",
        b"}r\xff\xff\xff\xff.",
        b"}p10000000\n.",
        b"}p-10000000\n.",
        b"\x80\x04\x95\x02" + bytes(7) + b"}p-10000000\n.",
        b"\x80\x04\x95\x03" + bytes(7) + b"}T\0" + bytes(4) + b".",
        b"\x80\x04\x95\x0b" + bytes(7) + b"}\x95\x02" + bytes(7) + b"T\0" + bytes(4) + b".",
        b"\x80\x04\x95\x02" + bytes(7) + b"}\x95\x10" + bytes(7) + b"0" * 15 + b".",
        b"\x80\x04\x96" + b"\xff" * 5 + bytes(3) + b".",
        b"\xff.",
        b"}",
        b"}S'a",
    ],
    ids=range(12),
)
def test_damaged_opcodes_take_no_memory(content, monkeypatch):
    monkeypatch.setattr(pickles_module, "_Unpickler", lambda *_: pytest.fail("it was unpickled"))
    with pytest.raises(InputError, match="expected a complete pickle in x"):
        read_pickle(content, "x")


def test_the_number_of_opcodes_and_the_indices_have_a_bound(monkeypatch):
    monkeypatch.setattr(pickles_module, "MOST_STEPS", 4)
    assert read_pickle(b"}q\3.", "x") == {}
    assert read_pickle(b"}}0.", "x") == {}
    for content in (b"}q\4.", b"}}}00."):
        with pytest.raises(InputError, match="expected a complete pickle in x"):
            read_pickle(content, "x")


def test_strings_of_protocol_0_by_python_2():
    assert read_pickle(b"(dp1\nS'data'\np2\nS'\\xff\xe9\\n'\np3\ns.", "x") == {"data": b"\xff\xe9\n"}


def announce(path: Path, name: str, size: int) -> Path:
    """An archive that is cut off where a file of this size begins."""
    member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
    member.size = size
    path.write_bytes(gzip.compress(member.tobuf()))
    return path


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(("name", "most"), [("data_batch_1", 256 << 20), ("batches.meta", 1 << 20)])
def test_files_that_are_far_too_large_are_never_read(tmp_path, form, name, most):
    if form == "folder":
        path = place_python_folder(tmp_path)
        os.truncate(path / name, most + 1)
    else:
        path = announce(tmp_path / "cifar-10-python.tar.gz", name, most + 1)
    with pytest.raises(
        InputError,
        match=rf"at most {most:,} bytes in {name} of .*, got {most + 1:,}",
    ):
        CifarSource(path)


def test_arrays_stored_by_columns(tmp_path):
    columns = np.asfortranarray(rows(IMAGES["test"]))
    batch = pickle.dumps({"data": columns, "labels": LABELS["test"]}, 2)
    check_whole(CifarSource(write_folder(tmp_path, {**python_files(), "test_batch": batch})))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_batch.bin", b"", r"records of 3,073 bytes in test_batch\.bin of .*, got 0 bytes"),
        (
            "test_batch.bin",
            binary_files()["test_batch.bin"][:-7],
            r"got 9,212 bytes: it is truncated",
        ),
        ("test_batch.bin", bytes([10]) * 3073, r"labels from 0 to 9 in test_batch\.bin of .*, got 10"),
        ("batches.meta.txt", b"cat\ndog\n", r"the names of 10 classes in batches\.meta\.txt of .*, got 2"),
    ],
    ids=["empty", "cut", "label", "names"],
)
def test_damaged_binary_files(tmp_path, name, content, message):
    folder = write_folder(tmp_path, {**binary_files(), name: content})
    with pytest.raises(InputError, match=message):
        CifarSource(folder)


@pytest.mark.parametrize("names", [None, NAMES[:9]], ids=["none", "nine"])
def test_wrong_number_of_pickled_names(tmp_path, names):
    meta = dump2({} if names is None else {"label_names": names})
    folder = write_folder(tmp_path, {**python_files(), "batches.meta": meta})
    with pytest.raises(InputError, match=r"the names of 10 classes in batches\.meta of .*, got [09]"):
        CifarSource(folder)


def test_archive_cut_off(tmp_path):
    path = place_python_tar(tmp_path)
    path.write_bytes(path.read_bytes()[:-9000])
    assert CifarSource.accepts(path)
    with pytest.raises(InputError, match=r"expected a complete tar file, got .*, which is truncated"):
        CifarSource(path)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(tmp_path, ask):
    source = CifarSource(place_binary_folder(tmp_path))
    with pytest.raises(InputError, match=r"expected one of the splits train, test of CIFAR-10 .*, got 'all'"):
        list(getattr(source, ask)("all"))
