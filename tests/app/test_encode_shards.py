"""`smalti encode --shards`: the same files by any number of processes, after any kill; refusals."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.codes import read_codes
from smalti.data.manifest import read_plan, read_record
from smalti.data.sources.codes import CodesSource
from tests import forked
from tests.runs import UNREADABLE, Result, digests

SHARDS = 7

Smalti = Callable[..., Result]
Mistake = Callable[..., str]
Row = tuple[str, bytes, str | None]


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A copy of the data, to change."""
    return Path(shutil.copytree(data, tmp_path / "own"))


def words(run: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["encode", run, "--data", data, "--out", out, "--shards", SHARDS, *more]


def rows(*files: Path) -> list[Row]:
    return [
        (name, codes.tobytes(), label)
        for file in files
        for batch in read_codes(file)[1]
        for name, codes, label in zip(*batch[:3], strict=True)
    ]


def test_rows_and_order_are_those_of_one_table(
    trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti
) -> None:
    table = tmp_path / "codes.parquet"
    assert smalti("encode", trained, "--data", data, "--out", table, "--quiet").status == 0
    assert rows(*sorted(whole.glob("*.parquet"))) == rows(table)


def test_manifest_states_counts_and_skipped_items(whole: Path) -> None:
    plan = read_plan(whole)
    records = [record for shard in range(SHARDS) if (record := read_record(whole, plan, shard))]
    assert [(record.begin, record.end) for record in records] == [plan.bounds(i) for i in range(SHARDS)]
    assert sum(record.num_items for record in records) == plan.num_items - 1 == 39
    assert [one.name for record in records for one in record.skipped] == [UNREADABLE]
    assert {record.model for record in records} == {plan.model}


def test_output_is_a_source_of_codes(whole: Path) -> None:
    source = CodesSource(whole)
    assert source.splits == ("all",)
    assert source.count("all") == 39


def test_output_can_be_decoded(trained: Path, whole: Path, tmp_path: Path, smalti: Smalti) -> None:
    assert smalti("decode", trained, whole, "--out", tmp_path / "decoded").status == 0
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == 39


def test_jobs_share_the_shards(
    trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    for job in (2, 0, 1):
        assert smalti(*words(trained, data, out, "--shard", f"{job}/3")).status == 0
        assert len(digests(out)) > 3
    assert digests(out) == digests(whole)


def test_ranks_share_the_shards_of_a_job(trained: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    forked.run("-m", "smalti", *words(trained, data, out, "--shard", "1/2"), num_ranks=2)
    files = {int(path.stem[-14:-9]) for path in out.glob("*.parquet")}
    assert files == set(range(1, SHARDS, 2))
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in digests(out))


def test_killed_at_any_moment_and_repeated(trained: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    for moment in ("plan/plan.json", "manifest/00000.json", "manifest/00004.json"):
        program = forked.start("-m", "smalti", *words(trained, data, out))
        while program.is_running() and not (out / moment).exists():
            time.sleep(0.001)
        program.kill()
    forked.run("-m", "smalti", *words(trained, data, out))
    assert digests(out) == digests(whole)


def test_complete_shards_are_kept(trained: Path, data: Path, whole: Path, smalti: Smalti) -> None:
    times = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert smalti(*words(trained, data, whole)).status == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == times


def test_damaged_shards_are_written_again(
    trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "codes"))
    first, second, *_ = sorted(out.glob("*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    assert smalti(*words(trained, data, out)).status == 0
    assert digests(out) == digests(whole)


def test_the_line_of_another_shard_is_refused(
    trained: Path, data: Path, whole: Path, tmp_path: Path, mistake: Mistake
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "codes"))
    shutil.copy(out / "manifest" / "00000.json", out / "manifest" / "00001.json")
    assert "00001.json" in mistake(*words(trained, data, out))
    mistake("tokens", out, "--out", tmp_path / "tokens")


def test_incomplete_codes_are_not_read(trained: Path, whole: Path, tmp_path: Path, mistake: Mistake) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "codes"))
    next(out.glob("*.parquet")).unlink()
    assert f"1 of {SHARDS}" in mistake("decode", trained, out, "--out", tmp_path / "decoded")
    with pytest.raises(InputError):
        CodesSource(out)


def test_a_shard_may_hold_unreadable_items_only(
    trained: Path, own: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    assert smalti(*words(trained, own, out)[:-1], 40).status == 0
    assert sum(not rows(file) for file in out.glob("*.parquet")) == 1
    assert CodesSource(out).count("all") == 39


def test_only_unreadable_items(trained: Path, tmp_path: Path, mistake: Mistake) -> None:
    for index in range(SHARDS):
        path = tmp_path / "data" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"Dear Anna")
    assert "0.png" in mistake(*words(trained, tmp_path / "data", tmp_path / "codes"))


def add(folder: Path) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "999.png")


def remove(folder: Path) -> None:
    (folder / "dog" / "039.png").unlink()


def rename(folder: Path) -> None:
    (folder / "dog" / "039.png").rename(folder / "dog" / "139.png")


def edit_first(folder: Path) -> None:
    """Overwrite a file of the first shard in place, which no folder knows of."""
    (folder / "cat" / "000.png").write_bytes((folder / "dog" / "001.png").read_bytes())


def edit_last(folder: Path) -> None:
    (folder / "dog" / "039.png").write_bytes((folder / "dog" / "001.png").read_bytes())


@pytest.mark.parametrize("change", [add, remove, rename, edit_first, edit_last], ids=lambda one: one.__name__)
def test_a_changed_input_is_refused(
    change: Callable[[Path], None], trained: Path, own: Path, tmp_path: Path, mistake: Mistake, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    assert smalti(*words(trained, own, out, "--shard", "0/2")).status == 0
    before = digests(out)
    change(own)
    mistake(*words(trained, own, out))
    assert before.items() <= digests(out).items()


def test_a_folder_with_another_time_is_the_same_input(
    trained: Path, own: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    assert smalti(*words(trained, own, out, "--shard", "0/2")).status == 0
    os.utime(own / "cat", ns=(0, 0))
    (own / ".DS_Store").write_bytes(b"")
    assert smalti(*words(trained, own, out)).status == 0


@pytest.mark.filterwarnings("ignore:the weights of the model were changed")
def test_another_model_is_refused(
    trained: Path, data: Path, whole: Path, tmp_path: Path, mistake: Mistake
) -> None:
    from smalti.tokenizer import load

    tokenizer = load(trained, "cpu")
    next(tokenizer.autoencoder.parameters()).data += 1
    tokenizer.save_pretrained(tmp_path / "other")
    message = mistake(*words(tmp_path / "other", data, whole))
    assert read_plan(whole).model in message
    assert load(tmp_path / "other", "cpu").fingerprint in message


def test_another_number_of_shards_is_refused(
    trained: Path, data: Path, whole: Path, mistake: Mistake
) -> None:
    assert "--shards 7" in mistake(*words(trained, data, whole)[:-1], 8)


def test_more_shards_than_items_are_refused(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake
) -> None:
    mistake(*words(trained, data, tmp_path / "codes")[:-1], 41)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("part", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_parts_that_are_none(part: str, trained: Path, data: Path, tmp_path: Path, mistake: Mistake) -> None:
    assert "expected --shard i/n" in mistake(*words(trained, data, tmp_path / "codes", f"--shard={part}"))


def test_a_part_of_no_shards(trained: Path, data: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = ["encode", trained, "--data", data, "--out", tmp_path / "codes", "--shard", "0/2"]
    assert "add --shards N" in mistake(*command)


def test_foreign_files_are_not_overwritten(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake
) -> None:
    (tmp_path / "codes").mkdir()
    mine = tmp_path / "codes" / "train.parquet"
    mine.write_bytes(b"mine")
    mistake(*words(trained, data, tmp_path / "codes"))
    assert mine.read_bytes() == b"mine"
    assert not list((tmp_path / "codes").glob("*-of-*.parquet"))


def test_a_source_without_a_listing(
    trained: Path, tmp_path: Path, data: Path, smalti: Smalti, mistake: Mistake
) -> None:
    import tarfile

    archive, out = tmp_path / "data.tar", tmp_path / "codes"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(data.rglob("*.png")):
            tar.add(file, file.relative_to(data))
    assert smalti(*words(trained, archive, out, "--shard", "1/2")).status == 0
    assert smalti(*words(trained, archive, out)).status == 0
    plan = read_plan(out)
    assert sum(record.num_items for i in range(SHARDS) if (record := read_record(out, plan, i))) == 39
    archive.touch()
    mistake(*words(trained, archive, out))


def test_the_output_may_lie_in_the_data(trained: Path, own: Path, whole: Path, smalti: Smalti) -> None:
    assert smalti(*words(trained, own, own / "codes", "--shard", "0/2")).status == 0
    assert smalti(*words(trained, own, own / "codes")).status == 0
    assert np.all([rows(own / "codes" / path.name) == rows(path) for path in whole.glob("*.parquet")])


def test_an_address(
    trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti, mistake: Mistake
) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe({f"/pictures/{path.relative_to(data)}": path.read_bytes() for path in data.rglob("*.png")})
    out = tmp_path / "codes"
    assert smalti(*words(trained, "memory://pictures", out, "--shard", "1/2")).status == 0
    assert smalti(*words(trained, "memory://pictures", out)).status == 0
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in whole.glob("*.parquet"))
    (out / "manifest" / "00005.json").unlink()
    system.pipe("/pictures/dog/025.png", b"changed")
    mistake(*words(trained, "memory://pictures", out))
    system.rm("/pictures", recursive=True)
