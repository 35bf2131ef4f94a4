"""Names of conditions, collected from the annotations of each kind of source, whose contents are not read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.condition_names import ConditionNames
from smalti.data.sources import Item, Source, open_source
from smalti.data.sources.hub import HubSource

LABELS = {"0.png": "dog", "1.png": "cat", "2.png": "dog"}


def folder(path: Path) -> Path:
    for name, label in LABELS.items():
        (path / label).mkdir(exist_ok=True)
        (path / label / name).write_bytes(name.encode())
    return path


def table(path: Path) -> Path:
    for name in LABELS:
        (path / name).write_bytes(name.encode())
    rows = [f"{name},{label}" for name, label in LABELS.items()]
    (path / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return path


def parquet(path: Path) -> Path:
    columns = {"image": [name.encode() for name in LABELS], "label": list(LABELS.values())}
    pq.write_table(pa.table(columns), path / "data.parquet")
    return path


def webdataset(path: Path) -> Path:
    members = {}
    for name, label in LABELS.items():
        members |= {name: name.encode(), name.replace(".png", ".cls"): label.encode()}
    return tar(path / "data-000.tar", members).parent


def archive(path: Path) -> Path:
    return tar(path / "x.tar", {f"{label}/{name}": name.encode() for name, label in LABELS.items()})


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", [folder, table, parquet, webdataset, archive], ids=lambda one: one.__name__)
def test_annotations_are_the_items_without_contents(write: Callable[[Path], Path], tmp_path: Path) -> None:
    check(open_source(str(write(tmp_path)), (".png",)))


def test_annotations_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [{"bytes": name.encode(), "path": None} for name in LABELS], "label": [*LABELS.values()]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    stored = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": stored}))
    source = HubSource("me/pets")
    check(source)
    assert list(source.section("train", 1, 9)) == list(source.items("train"))[1:]
    stored = stored.remove_columns("label")
    items = list(HubSource("me/pets").annotations("train"))
    assert [(item.name, item.content, item.label) for item in items] == [
        (f"train#{index}", b"", None) for index in range(3)
    ]


def check(source: Source) -> None:
    (split,) = source.splits
    items, annotations = [*source.items(split)], [*source.annotations(split)]
    assert [item.name for item in annotations] == [item.name for item in items]
    assert [item.label for item in annotations] == [item.label for item in items]
    assert sorted(str(item.label) for item in items) == sorted(LABELS.values())
    assert {item.content for item in annotations} == {b""}
    assert all(item.content for item in items)
    assert ConditionNames.of_split(source, split).classes == ("cat", "dog")


def test_columns_and_actions() -> None:
    items = [
        Item("a", b"", actions=("left", None), columns={"mood": "glad", "pose": np.zeros(3, np.float32)}),
        Item("b", b"", columns={"pose": np.ones(3, np.float32), "word": ("x", None)}),
    ]
    names = ConditionNames.of(items)
    assert names.actions == ("left",)
    assert [str(spec) for spec in names.columns] == [
        "names per item",
        "vectors of width 3 per item",
        "names per frame",
    ]
    assert names.names_by_column == {"mood": ("glad",), "word": ("x",)}
    assert names.sizes == {"action": 1, "mood": 1, "word": 1}
    assert names.given == {"action", "mood", "pose", "word"}
    assert ConditionNames.model_validate(names.model_dump(mode="json")) == names


def test_columns_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="names per item in the column mood"):
        ConditionNames.of([Item("a", b"", columns={"mood": "x"}), Item("b", b"", columns={"mood": ("x",)})])
    with pytest.raises(InputError, match="received 1 for 2 items"):
        ConditionNames.of([Item("a", b"", columns={"pose": np.zeros(3)}), Item("b", b"")])
