"""A user's mistake: exit status 2, one sentence, no traceback, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import TINY, Result, digests

Mistake = Callable[..., str]
Smalti = Callable[..., Result]


# The data


def test_a_run_goes_on_without_its_source(run: Path, pictures: Path, tmp_path: Path, smalti: Smalti) -> None:
    gone = tmp_path / "moved"
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(gone)}))
    more = ["train", "image", "--data", gone, "--out", run, *TINY, "training.steps=12"]
    done = smalti(*more)
    assert done.status == 0, done.err
    assert "own copy of the data" in done.err
    again = json.loads((run / "config.json").read_text())
    assert {key: again[key] for key in ("described", "classes")} == {
        key: config[key] for key in ("described", "classes")
    }
    assert smalti(*more[:4], "--out", tmp_path / "another", *TINY).status == 2


@pytest.mark.parametrize("verb", ["train", "encode", "evaluate"])
def test_data_that_is_not_there_is_empty_or_unreadable(
    verb: str, trained: Path, tmp_path: Path, mistake: Mistake
) -> None:
    no_picture, unreadable = tmp_path / "no_picture", tmp_path / "unreadable"
    no_picture.mkdir()
    (no_picture / "letter.txt").write_text("Dear Anna")
    unreadable.mkdir()
    (unreadable / "a.png").write_bytes(b"Dear Anna")
    (unreadable / "b.jpg").write_bytes(b"")
    out = tmp_path / "new"
    words: dict[str, list[object]] = {
        "train": ["train", "image", "--out", out, *TINY],
        "encode": ["encode", trained, "--out", out],
        "evaluate": ["evaluate", trained],
    }
    before = digests(trained)

    def message(folder: Path) -> str:
        sentence = mistake(*words[verb], "--data", folder)
        assert digests(trained) == before
        assert not out.is_file()
        assert not (out / "config.json").exists()
        return sentence

    assert "no such folder" in message(tmp_path / "nowhere")
    assert ".txt" in message(no_picture)
    sentence = message(unreadable)
    assert "none of the 2 items" in sentence
    assert "a.png" in sentence


def test_recipe_without_data(tmp_path: Path, mistake: Mistake) -> None:
    assert "add --data SOURCE" in mistake("train", "image", "--out", tmp_path / "new")


def test_reconstruct_without_a_readable_picture(trained: Path, tmp_path: Path, smalti: Smalti) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"Dear Anna")
    result = smalti("reconstruct", trained, bad, "--out", tmp_path / "out", "--quiet")
    assert result.status == 2
    assert "smalti: expected at least one readable file, none of 1 is" in result.err
    result = smalti("reconstruct", trained, tmp_path / "nowhere.png", "--out", tmp_path / "out")
    assert result.status == 2
    assert "nowhere.png" in result.err


@pytest.mark.parametrize("verb", ["encode", "evaluate"])
def test_split_that_does_not_exist(
    verb: str, trained: Path, pictures: Path, tmp_path: Path, mistake: Mistake
) -> None:
    out = ["--out", tmp_path / "codes.parquet"] if verb == "encode" else []
    assert "there is only all" in mistake(verb, trained, "--data", pictures, "--split", "tset", *out)


# The settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.stpes=5", "did you mean training.steps"),
        ("training.steps=many", "training.steps: expected a whole number, received 'many'"),
        ("training.steps=0", "a number of at least 1, received 0"),
        ("schedule=linear", "constant or cosine"),
        ("channels=8", "ambiguous: write one of data.channels, model.encoder.channels"),
        ("training.steps", "expected key=value, received 'training.steps'"),
        ("=5", "expected key=value"),
        ("size=15", "multiples of 4"),
        ("size=axb", 'got "axb"'),
        ("trackers=papyrus", "tensorboard or wandb"),
    ],
)
def test_setting(setting: str, message: str, new_run: list[object], tmp_path: Path, mistake: Mistake) -> None:
    assert message in mistake(*new_run, setting)
    assert not (tmp_path / "new").exists()


def test_unknown_recipe(tmp_path: Path, mistake: Mistake) -> None:
    for words in (["train", "imagenet", "--out", tmp_path / "new"], ["recipes", "imagenet"]):
        sentence = mistake(*words)
        assert "'imagenet'" in sentence
        assert "did you mean imagenet128?" in sentence
    assert "image, photos, hierarchy, letters, mnist, mnist-lossless" in mistake("recipes", "zebra")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num", 0], "--num of at least 1"),
        (["--temperature", -1], "temperature"),
        (["--top-p", 2], "top_p"),
        (["--top-k", 0], "top_k"),
        (["--class", "cow"], "the classes are cat, dog"),
    ],
)
def test_sample_options(
    options: list[object], message: str, trained: Path, tmp_path: Path, mistake: Mistake
) -> None:
    assert message in mistake("sample", trained, "--out", tmp_path / "samples", *options)
    assert not (tmp_path / "samples").exists()


# The codes


def rewritten(codes: Path, out: Path, change: Callable[[list[int]], list[int]], **info: Any) -> Path:
    """A file of codes with other codes, and with other things said of them."""
    table = pq.read_table(codes)
    metadata = {**json.loads(table.schema.metadata[b"smalti"]), **info}
    values = pa.array([change(row) for row in table["codes"].to_pylist()], pa.list_(pa.int32()))
    table = table.set_column(2, "codes", values)
    pq.write_table(table.replace_schema_metadata({"smalti": json.dumps(metadata)}), out)
    return out


@pytest.mark.parametrize(
    ("change", "info", "message"),
    [
        (list, {"model": "0123456789abcdef"}, "expected codes of the model"),
        (lambda row: [*row[:-1], 16], {}, "expected codes from 0 to 15"),
        (lambda row: [-1, *row[1:]], {}, "received -1"),
        (lambda row: row[:-1], {}, "received 15"),
        (lambda row: row[:4], {"grid": [2, 2]}, "expected codes of shape (1, 4, 4)"),
        (list, {"num_codes": 1024}, "out of 16, received (1, 4, 4) out of 1024"),
        (list, {"format": 99}, "newer version of smalti"),
    ],
)
def test_codes_that_do_not_fit(
    change: Callable[[list[int]], list[int]],
    info: dict[str, Any],
    message: str,
    trained: Path,
    codes: Path,
    tmp_path: Path,
    mistake: Mistake,
) -> None:
    spoilt = rewritten(codes, tmp_path / "spoilt.parquet", change, **info)
    assert message in mistake("decode", trained, spoilt, "--out", tmp_path / "decoded")
    assert not (tmp_path / "decoded").exists()


def test_files_that_hold_no_codes(trained: Path, codes: Path, tmp_path: Path, mistake: Mistake) -> None:
    text, other, cut = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "c.parquet"
    text.write_text("Dear Anna")
    pq.write_table(pa.table({"price": [1, 2]}), other)
    cut.write_bytes(codes.read_bytes()[:-100])
    for file in (text, other, cut, tmp_path / "nowhere.parquet"):
        assert str(file) in mistake("decode", trained, file, "--out", tmp_path / "decoded")


def test_names_of_strangers_stay_in_the_folder(
    trained: Path, codes: Path, tmp_path: Path, smalti: Smalti
) -> None:
    table = pq.read_table(codes).slice(0, 6)
    names = ["../../escaped.png", "/absolute.png", "..", "", "same.png", "same.jpg"]
    pq.write_table(table.set_column(0, "name", pa.array(names)), tmp_path / "named.parquet")
    out = tmp_path / "deep" / "er" / "decoded"
    assert smalti("decode", trained, tmp_path / "named.parquet", "--out", out).status == 0
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    names = ["escaped", "absolute", "unnamed", "unnamed2", "same", "same.jpg"]
    assert found == {f"deep/er/decoded/{name}.png" for name in names}


def test_reconstructions_of_files_of_one_name_are_all_kept(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    for folder in ("one/a", "two/a"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(pictures / "cat" / "000.png", tmp_path / folder / "same.png")
    files = [tmp_path / folder / "same.png" for folder in ("one/a", "two/../two/a")]
    assert smalti("reconstruct", trained, *files, "--out", tmp_path / "out").status == 0
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"comparison.png", "one/a/same.png", "two/a/same.png"}


@pytest.mark.parametrize("verb", ["decode", "reconstruct"])
def test_files_of_the_user_are_not_overwritten(
    verb: str, trained: Path, pictures: Path, codes: Path, tmp_path: Path, mistake: Mistake
) -> None:
    given = codes if verb == "decode" else pictures / "cat" / "038.png"
    last = "dog/039.png" if verb == "decode" else "038.png"
    mine = tmp_path / "out" / last
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert f"{last} exists already: choose another --out" in mistake(
        verb, trained, given, "--out", tmp_path / "out"
    )
    assert list(digests(tmp_path)) == [f"out/{last}"]
    assert mine.read_text() == "mine"


def test_encode_a_name_that_is_no_unicode(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(pictures / "cat" / "000.png", tmp_path / "data" / "caf\udce9.png")
    (tmp_path / "data" / "bad\udce9.png").write_bytes(b"")
    out = tmp_path / "codes.parquet"
    result = smalti("encode", trained, "--data", tmp_path / "data", "--out", out)
    assert result.status == 0
    assert "holds 1 item of the split all:" in " ".join(result.err.split())
    assert "bad\\udce9.png: " in result.err
    assert pq.read_table(out)["name"].to_pylist() == ["caf\\udce9.png"]
