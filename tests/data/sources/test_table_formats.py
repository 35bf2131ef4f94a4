"""Tables as published corpora write them: separators, headers, names of other systems."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.delimited import read_lines
from smalti.data.sources.table import TableSource

WAV = (".wav", ".mp3")


def fill(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return root


def listed(source, split: str = "all") -> list[tuple[str, str | None]]:
    return [(item.content.name, item.label) for item in source.items(split)]


def test_lj_speech(tmp_path: Path) -> None:
    fill(tmp_path, "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav", "wavs/LJ001-0003.wav")
    (tmp_path / "metadata.csv").write_text(
        'LJ001-0001|Printing, in the only sense|Printing, in the "only" sense\n'
        'LJ001-0002|in being comparatively modern.|in being "comparatively modern.\n'
        "LJ001-0003|For although, first, the|For although, first, the\n"
    )
    for path in (tmp_path, tmp_path / "metadata.csv"):
        source = open_source(str(path), WAV)
        assert listed(source) == [(f"LJ001-000{number}.wav", None) for number in (1, 2, 3)]


@pytest.mark.parametrize("separator", [",", "\t", "|", ";"], ids=["comma", "tab", "bar", "semicolon"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_the_separator_of_a_table_with_a_header(tmp_path: Path, separator: str, ending: str) -> None:
    fill(tmp_path, "a.wav", "b.wav")
    rows = (("speaker", "file_name", "text"), ("ann", "a.wav", "one"), ("bob", "b.wav", "two"))
    table = tmp_path / f"metadata{ending}"
    table.write_text("".join(f"{separator.join(row)}\n" for row in rows))
    assert listed(open_source(str(tmp_path), WAV)) == [("a.wav", "ann"), ("b.wav", "bob")]


def test_a_header_of_other_names_is_no_row(tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "b.wav")
    (tmp_path / "list.csv").write_text("Recording;speaker\na.wav;ann\nb.wav;bob\n")
    assert listed(TableSource(tmp_path / "list.csv", WAV)) == [("a.wav", "ann"), ("b.wav", "bob")]


def test_a_list_without_header_whose_first_file_is_missing_loses_no_row(tmp_path: Path) -> None:
    fill(tmp_path, "b.wav", "c.wav")
    (tmp_path / "list.csv").write_text("a.wav|One, two.\nb.wav|Three.\nc.wav|Four.\n")
    assert [name for name, _ in listed(TableSource(tmp_path / "list.csv", WAV))] == [
        "a.wav",
        "b.wav",
        "c.wav",
    ]


@pytest.mark.parametrize("name", ["speaker-info.txt", "SPEAKERS.TXT"])
def test_a_table_of_speakers_stands_for_its_folder(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "wav48/p225/p225_001.wav", "wav48/p226/p226_001.wav")
    (tmp_path / name).write_text("ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Surrey\n")
    for path in (tmp_path, tmp_path / name):
        assert listed(open_source(str(path), WAV)) == [("p225_001.wav", "p225"), ("p226_001.wav", "p226")]


def test_common_voice(tmp_path: Path) -> None:
    fill(tmp_path, *(f"clips/cv_{number}.mp3" for number in range(4)))
    header = "client_id\tpath\tsentence\tup_votes\tage\tgender\n"
    for name, number in (("train", 0), ("dev", 1), ("test", 2)):
        (tmp_path / f"{name}.tsv").write_text(header + f'c{number}\tcv_{number}.mp3\tHe said "no\t2\t\t\n')
    (tmp_path / "validated.tsv").write_text(header + "c3\tcv_3.mp3\tYes\t2\t\t\n")
    (tmp_path / "other.tsv").write_text(header)
    source = open_source(str(tmp_path), WAV)
    assert source.splits == ("train", "validation", "test")
    assert [listed(source, split) for split in source.splits] == [
        [(f"cv_{number}.mp3", f"c{number}")] for number in range(3)
    ]
    assert listed(open_source(str(tmp_path / "validated.tsv"), WAV)) == [("cv_3.mp3", "c3")]


@pytest.mark.parametrize(
    "name",
    [
        r"clips\été.wav",
        r"C:\data\clips\été.wav",
        "clips/ÉTÉ.WAV",
        unicodedata.normalize("NFD", "clips/été.wav"),
        "été",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_other_systems(tmp_path: Path, name: str, form: str) -> None:
    file = unicodedata.normalize(form, "été.wav")
    fill(tmp_path, f"clips/{file}", "clips/other.wav")
    (tmp_path / "list.csv").write_text(f"file,label\n{name},x\n", encoding="utf-8")
    assert listed(TableSource(tmp_path / "list.csv", WAV)) == [(file, "x")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"file,label\na.wav,x\nb.wav,x,y\n", "line 3"),
        (b"file|label\na.wav|x\n\nb.wav\n", "line 4"),
        (b"file,label\na.wav,x\na.wav,y\n", "lines 2 and 3"),
        (b"file,label\na.wav,x\nb.wav,y\na,z\n", "lines 2 and 4"),
        (b"file,label\na.wav,x\n./b/../a.wav,z\n", "lines 2 and 3"),
        (b"sep=;\nfile;label\na.wav;x;y\n", "line 3"),
        (b"file,label\na.wav,x\n,y\n", "line 3"),
        (b"file,label\na.wav,x\nb.wav,\xff\n", "line 3"),
        (b'file,label\na.wav,x\n"b.wav"c,y\n', "line 2"),
        (b"x,label\nq.wav,x\nr.wav,y\n", "line 1"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: bytes, line: str) -> None:
    fill(tmp_path, "a.wav", "b.wav")
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(InputError, match=line):
        TableSource(tmp_path / "list.csv", WAV)


def test_a_file_in_two_tables_of_splits_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "clips/a.mp3", "clips/b.mp3")
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("client_id\tpath\nx\ta.mp3\n")
    with pytest.raises(InputError, match=r"line 2 .*line 2"):
        TableSource(tmp_path, WAV)


@pytest.mark.parametrize("names", [("a.frames", "b"), ("clips/a.frames", "B.frames")])
def test_folders_of_frames(tmp_path: Path, names: tuple[str, str]) -> None:
    fill(tmp_path, "clips/a.frames/1.png", "clips/b.frames/1.png")
    rows = "".join(f"{name},up*2\n" for name in names)
    (tmp_path / "metadata.csv").write_text(f"file_name,actions\n{rows}")
    items = [*open_source(str(tmp_path), (".mp4", ".frames")).items("all")]
    assert [item.content for item in items] == [tmp_path / "clips/a.frames", tmp_path / "clips/b.frames"]
    assert [item.actions for item in items] == [("up", "up")] * 2


@pytest.mark.parametrize(
    "text",
    [
        'sep=;\nfile;label\na.wav;"x, y"\nb.wav;-1\n',
        '"sep=,"\r\nfile, label\r\na.wav, "x, y"\r\nb.wav,\r\n',
        '"file", "label"\n"a.wav", "x, y"\n"b.wav", ""\n',
        "sep=|\nfile|label\na.wav|x, y\nb.wav|\n",
    ],
)
def test_tables_of_spreadsheets(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.wav", "b.wav")
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert listed(TableSource(tmp_path / "list.csv", WAV)) == [("a.wav", "x, y"), ("b.wav", None)]


def test_a_table_of_unlimited_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "list.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="at most"):
        read_lines(tmp_path / "list.csv", ())
