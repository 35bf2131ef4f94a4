"""Texts of users, and the sources that they open."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti.core.errors import InputError
from smalti.data import sources
from smalti.data.sources import Item, Source, UnreadableItem, open_source
from smalti.data.sources.archive import TarSource
from smalti.data.sources.cifar import CifarSource
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.grids import TileGridSource
from smalti.data.sources.idx import IdxSource
from smalti.data.sources.parquet import ParquetSource

EXTENSIONS = (".png", ".jpg")


@pytest.fixture
def hub_names(monkeypatch):
    """The names that the Hub is asked for."""
    asked = []

    class Hub:
        def __init__(self, name):
            asked.append(name)

    monkeypatch.setattr(sources, "HubSource", Hub)
    # The return value is no real source: the checker of annotations must not see it.
    monkeypatch.setattr(sources, "open_source", getattr(open_source, "__wrapped__", open_source))
    return asked


def write_parquet(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"a"]}), path)
    return path


def test_folder_and_single_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert isinstance(open_source(str(tmp_path), EXTENSIONS), FolderSource)
    assert open_source(str(tmp_path / "a.png"), EXTENSIONS).count("all") == 1


def test_home_is_expanded(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(open_source("~/pictures", EXTENSIONS), FolderSource)


def test_parquet_file_and_folder(tmp_path):
    file = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert isinstance(open_source(str(file), EXTENSIONS), ParquetSource)
    assert isinstance(open_source(str(tmp_path), EXTENSIONS), ParquetSource)


def test_parquet_beside_pictures_is_a_folder(tmp_path):
    write_parquet(tmp_path / "index.parquet")
    (tmp_path / "a.png").write_bytes(b"")
    source = open_source(str(tmp_path), EXTENSIONS)
    assert isinstance(source, FolderSource)
    assert source.notes("all") == ["1 file was left out (1 .parquet), such as index.parquet"]


def test_idx_folder(tmp_path):
    raw = bytes((0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
    (tmp_path / "LICENSE").write_text("MIT")
    assert isinstance(open_source(str(tmp_path), EXTENSIONS), IdxSource)


def write_cifar(folder):
    """The binary version with one black airplane a batch."""
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(bytes(3073))
    return folder


def write_tar(path, folder):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def test_cifar_folder_and_archive(tmp_path):
    folder = write_cifar(tmp_path / "cifar-10-batches-bin")
    archive = write_tar(tmp_path / "any name.tar.gz", folder)
    for path in (folder, tmp_path, archive):
        source = open_source(str(path), EXTENSIONS)
        assert isinstance(source, CifarSource)
        assert source.count("train") == 5


def test_grids_go_before_the_pictures_that_they_are(tmp_path):
    Image.new("RGB", (64, 2)).save(tmp_path / "train_00.png")
    assert isinstance(open_source(str(tmp_path), EXTENSIONS), FolderSource)
    np.savez(tmp_path / "labels.npz", train_y=[1, 2, 3])
    (tmp_path / "jpeg_q75.tar.xz").write_bytes(b"")
    source = open_source(str(tmp_path), EXTENSIONS)
    assert isinstance(source, TileGridSource)
    assert source.count("train") == 3


def test_tar_file_of_pictures(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "a.png").write_bytes(picture.getvalue())
    source = open_source(str(write_tar(tmp_path / "pets.tar.gz", tmp_path / "pets")), EXTENSIONS)
    assert isinstance(source, TarSource)
    assert [(item.name, item.content) for item in source.items("all")] == [("a.png", picture.getvalue())]


@pytest.mark.parametrize("text", ["ylecun/mnist", "me/data-set_1.0:small", "0x/y"])
def test_hub_names(hub_names, text):
    sources.open_source(text, EXTENSIONS)
    assert hub_names == [text]


def test_a_local_folder_goes_before_the_hub(hub_names, tmp_path, monkeypatch):
    (tmp_path / "ylecun" / "mnist").mkdir(parents=True)
    (tmp_path / "ylecun" / "mnist" / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert isinstance(sources.open_source("ylecun/mnist", EXTENSIONS), FolderSource)
    assert hub_names == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mnist",
        "./a/b",
        "../a",
        "/a/b",
        "~/a/b",
        "a/b/c",
        "a/",
        "pictures/a.png",
        "pictures/a.PARQUET",
        "cifar/jpeg.tar.xz",
        "a b/c",
    ],
)
def test_no_such_thing(hub_names, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        sources.open_source(text, EXTENSIONS)
    assert str(caught.value) == (
        f"no such folder or file: {text!r}; expected a folder, a file, or a data set of "
        "the Hugging Face Hub as owner/name, such as ylecun/mnist"
    )
    assert hub_names == []


def test_the_public_face():
    assert set(sources.__all__) == {"Item", "Source", "UnreadableItem", "open_source"}
    assert issubclass(UnreadableItem, ValueError)
    assert Item("a", b"").label is None
    assert issubclass(FolderSource, Source)


def test_slow_libraries_wait_until_they_are_needed():
    program = "import sys, smalti.data.sources; print(*{'datasets', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_entry_of_a_local_folder_is_no_name_on_the_hub(hub_names, tmp_path, monkeypatch):
    (tmp_path / "pictures" / "nopes").mkdir(parents=True)
    (tmp_path / "link").symlink_to("gone")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="did you mean 'pictures/nopes'"):
        sources.open_source("pictures/nope", EXTENSIONS)
    with pytest.raises(InputError):
        sources.open_source("link/data", EXTENSIONS)
    assert hub_names == []


@pytest.mark.parametrize("text", ["itself", "a" * 5000, "x\0y", "~nobody-of-this-name/a", "itself/below"])
def test_paths_that_the_system_refuses(hub_names, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(InputError):
        sources.open_source(text, EXTENSIONS)
    assert hub_names == []
