"""Parquet as the Hugging Face Hub lays it out, and as others write it."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source, parquet
from smalti.data.sources.parquet import ParquetSource

SIGNAL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cells(*contents: bytes) -> pa.Array:
    return pa.array([{"bytes": content, "path": "x.png"} for content in contents], SIGNAL)


def write(path, columns, names=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def listed(source, split="all"):
    return [(item.name, item.content, item.label) for item in source.items(split)]


def test_struct_column_and_class_names_of_hugging_face(tmp_path):
    file = write(
        tmp_path / "t.parquet", {"label": [1, 0, -1], "image": cells(b"a", b"b", b"c")}, ["cat", "dog"]
    )
    source = ParquetSource(file)
    assert source.splits == ("all",)
    assert source.count("all") == 3
    assert listed(source) == [
        ("t.parquet#0", b"a", "dog"),
        ("t.parquet#1", b"b", "cat"),
        ("t.parquet#2", b"c", None),
    ]
    assert source.notes("all") == []


def test_files_that_datasets_itself_writes(tmp_path):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": None}], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    assert [row[1:] for row in listed(ParquetSource(tmp_path / "t.parquet"))] == [
        (b"a", "dog"),
        (b"b", "cat"),
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, None], ["3", None]),
        (["x", None], ["x", None]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([3, 4], pa.uint8()), ["3", "4"]),
        ([0.5, 0.25], [None, None]),
        ([["x"], ["y"]], [None, None]),
    ],
    ids=["int", "string", "dictionary", "uint8", "float", "list"],
)
def test_labels_of_every_type(tmp_path, labels, expected):
    file = write(tmp_path / "t.parquet", {"image": [b"a", b"b"], "label": labels})
    assert [label for *_, label in listed(ParquetSource(file))] == expected


def test_an_index_without_a_name_is_called_by_its_number(tmp_path):
    file = write(tmp_path / "t.parquet", {"image": [b"a", b"b"], "label": [1, 7]}, ["cat", "dog"])
    assert [label for *_, label in listed(ParquetSource(file))] == ["dog", "7"]


@pytest.mark.parametrize("metadata", [b"no json", b"[]", b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_strange_metadata_is_no_obstacle(tmp_path, metadata):
    table = pa.table({"image": [b"a"], "label": [1]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    assert listed(ParquetSource(tmp_path / "t.parquet")) == [("t.parquet#0", b"a", "1")]


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [(("mask", "image"), "image"), (("audio", "img"), "img"), (("scan", "other"), "scan")],
)
def test_preferred_column_names(tmp_path, columns, chosen):
    file = write(tmp_path / "t.parquet", {name: [name.encode()] for name in columns})
    source = ParquetSource(file)
    assert [content for _, content, _ in listed(source)] == [chosen.encode()]
    other = next(name for name in columns if name != chosen)
    assert source.notes("all") == [f"column {chosen} was used as the signal, column {other} was ignored"]
    assert f"column {chosen}" in source.description


def test_rows_without_bytes_give_their_path_or_nothing(tmp_path):
    rows = [{"bytes": None, "path": "pic.png"}, {"bytes": None, "path": None}, None]
    file = write(tmp_path / "t.parquet", {"image": pa.array(rows, SIGNAL)})
    assert [content for _, content, _ in listed(ParquetSource(file))] == [tmp_path / "pic.png", b"", b""]


def test_paths_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"a")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "a\0b", "sub/../pic.png"]
    rows = pa.array([{"bytes": None, "path": path} for path in paths], SIGNAL)
    contents = [
        content for _, content, _ in listed(ParquetSource(write(folder / "t.parquet", {"image": rows})))
    ]
    assert contents == [b"", b"", b"", b"", folder / "sub/../pic.png"]


def test_folder_of_the_hub(tmp_path):
    for name, rows in {
        "data/train-00001-of-00002": [b"c"],
        "data/train-00000-of-00002": [b"a", b"b"],
        "data/test-00000-of-00001": [b"d"],
        "data/extra-00000-of-00001": [b"e"],
        "data/val-00000-of-00001": [b"f"],
    }.items():
        write(tmp_path / f"{name}.parquet", {"image": rows})
    (tmp_path / "README.md").write_text("a card")
    assert ParquetSource.accepts(tmp_path)
    source = ParquetSource(tmp_path)
    assert source.splits == ("train", "validation", "test", "extra")
    assert [source.count(split) for split in source.splits] == [3, 1, 1, 1]
    assert listed(source, "train") == [
        ("data/train-00000-of-00002.parquet#0", b"a", None),
        ("data/train-00000-of-00002.parquet#1", b"b", None),
        ("data/train-00001-of-00002.parquet#0", b"c", None),
    ]


def test_splits_from_folders(tmp_path):
    write(tmp_path / "train" / "0000.parquet", {"image": [b"a"]})
    write(tmp_path / "test" / "0000.parquet", {"image": [b"b"]})
    source = ParquetSource(tmp_path)
    assert source.splits == ("train", "test")
    assert listed(source, "test") == [("test/0000.parquet#0", b"b", None)]


def test_a_word_that_merely_begins_like_a_split_is_none(tmp_path):
    write(tmp_path / "trainers.parquet", {"image": [b"a"]})
    write(tmp_path / "testimony.parquet", {"image": [b"b"]})
    assert ParquetSource(tmp_path).splits == ("all",)


def test_rows_come_in_small_batches_from_one_large_row_group(tmp_path, monkeypatch):
    file = write(tmp_path / "t.parquet", {"image": [bytes([i]) for i in range(200)]}, row_group_size=200)
    sizes = []
    iter_batches = pq.ParquetFile.iter_batches

    def spy(self, *args, **kwargs):
        for batch in iter_batches(self, *args, **kwargs):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    contents = [content for _, content, _ in listed(ParquetSource(file))]
    assert contents == [bytes([i]) for i in range(200)]
    assert max(sizes) <= parquet.ROWS_AT_ONCE
    assert sum(sizes) == 200


def test_twice_the_same(tmp_path):
    source = ParquetSource(write(tmp_path / "t.parquet", {"image": [b"a", b"b"]}))
    assert listed(source) == listed(source)


def test_accepts_only_parquet(tmp_path):
    assert not ParquetSource.accepts(tmp_path)
    file = write(tmp_path / "t.parquet", {"image": [b"a"]})
    assert ParquetSource.accepts(file)
    assert ParquetSource.accepts(tmp_path)
    (tmp_path / ".hidden").write_text("")
    assert ParquetSource.accepts(tmp_path)
    (tmp_path / "a.png").write_text("")
    assert not ParquetSource.accepts(tmp_path)
    assert not ParquetSource.accepts(tmp_path / "a.png")


def test_no_column_of_signals_names_the_columns(tmp_path):
    file = write(tmp_path / "t.parquet", {"text": ["a"], "score": [0.5]})
    with pytest.raises(
        InputError,
        match=r"a column of encoded files .* got the columns text \(string\), score \(double\)",
    ):
        ParquetSource(file)


def test_not_parquet(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PNG, rather")
    with pytest.raises(InputError, match=r"expected a Parquet file, got .*t\.parquet, which is damaged"):
        ParquetSource(tmp_path / "t.parquet")


def test_damage_inside_a_file_is_reported_when_it_is_read(tmp_path):
    file = write(tmp_path / "t.parquet", {"image": [b"abc" * 999]}, compression="gzip", use_dictionary=False)
    raw = bytearray(file.read_bytes())
    raw[4:40] = b"\xff" * 36
    file.write_bytes(raw)
    source = ParquetSource(file)
    with pytest.raises(InputError, match=r"expected intact Parquet in .*cannot be read after row 0"):
        list(source.items("all"))


def test_no_rows(tmp_path):
    file = write(tmp_path / "t.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(InputError, match=r"expected rows in .*, found none"):
        ParquetSource(file)


def test_folder_without_parquet(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with \.parquet files, found none in"):
        ParquetSource(tmp_path)


def test_files_of_different_tables(tmp_path):
    write(tmp_path / "a.parquet", {"image": [b"a"]})
    write(tmp_path / "b.parquet", {"text": ["b"]})
    with pytest.raises(
        InputError, match=r"expected column image of type binary in .*b\.parquet.*no such column"
    ):
        ParquetSource(tmp_path)


def test_files_with_and_without_a_split(tmp_path):
    write(tmp_path / "train-0.parquet", {"image": [b"a"]})
    write(tmp_path / "more.parquet", {"image": [b"b"]})
    with pytest.raises(InputError, match=r"as train-0\.parquet does, got more\.parquet"):
        ParquetSource(tmp_path)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(tmp_path, ask):
    source = ParquetSource(write(tmp_path / "t.parquet", {"image": [b"a"]}))
    with pytest.raises(InputError, match=r"expected one of the splits all of Parquet .*, got 'train'"):
        list(getattr(source, ask)("train"))


def not_unicode(*values: bytes) -> pa.Array:
    """Strings of a column whose bytes are no UTF-8."""
    return pa.array(values).view(pa.string())


@pytest.mark.parametrize("name", ["image", "label", "episode"])
def test_two_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    columns = {"image": pa.array([b"a", b"b"]), "label": pa.array([0, 1]), "episode": pa.array([0, 0])}
    twice = [*columns.items(), (name, columns[name])]
    pq.write_table(
        pa.table([column for _, column in twice], names=[each for each, _ in twice]),
        tmp_path / "train.parquet",
    )
    with pytest.raises(InputError, match=name):
        list(open_source(str(tmp_path), (".png",)).items("train"))


@pytest.mark.parametrize(
    "metadata",
    [b"[" * 100_000, b"\xff\xfe", b'{"info": {"features": {"label": {"names": ["\\ud800", "b"]}}}}', b"null"],
    ids=["deep", "bytes", "surrogate", "null"],
)
def test_odd_metadata_leave_class_names_out(metadata: bytes, tmp_path: Path) -> None:
    table = pa.table({"image": [b"a", b"b"], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet")
    items = open_source(str(tmp_path), (".png",)).items("train")
    assert [item.label for item in items] == ["0", "1"]


def test_labels_that_are_no_unicode_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([b"a", b"b"]), "label": not_unicode(b"\xff", b"\xfe")})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(InputError, match="train"):
        list(open_source(str(tmp_path), (".png",)).items("train"))


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (0, 23), (3, 4), (5, 15), (9, 11), (21, 23), (22, 30)])
def test_sections_across_files_and_row_groups(tmp_path, monkeypatch, begin, end):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    for index, num in enumerate((10, 1, 12)):
        write(tmp_path / f"{index}.parquet", {"image": cells(*map(bytes, range(num)))}, row_group_size=3)
    source = ParquetSource(tmp_path)
    section = [(item.name, item.content) for item in source.section("all", begin, end)]
    assert section == [(item.name, item.content) for item in source.items("all")][begin:end]
