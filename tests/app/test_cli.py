"""The entry point: what it says of a failure, with which exit status, and what the short verbs print."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import typer

from smalti.app import cli
from smalti.app.console import console
from smalti.app.data import report_skipped
from smalti.app.recipes import RECIPES
from smalti.core.errors import InputError
from smalti.training.loop import Interrupted
from tests import forked
from tests.runs import TINY, TINY_PRIOR, Result, digests

Smalti = Callable[..., Result]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "add_commands", lambda to: None)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InputError("expected a,\nreceived b"), 2, "smalti: expected a,\\nreceived b\n"),
        (Interrupted("stopped and saved"), 130, "smalti: stopped and saved\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "smalti: the disk is full: "),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "smalti: /x cannot be used (Permission",
        ),
    ],
)
def test_failures_are_reported(
    error: BaseException, status: int, sentence: str, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    result = smalti("anything")
    assert result.status == status
    assert result.out == ""
    assert result.err.startswith(sentence)
    assert len(result.err.splitlines()) == bool(sentence)


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "ours"), KeyError("ours")])
def test_defects_of_ours_keep_their_traceback(
    error: Exception, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error), match="ours"):
        smalti("anything")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'trian'", "did you mean train?"]),
        (["zzz"], ["'zzz'", "train-prior"]),
        (["train", "image"], ["--out RUN", "smalti train"]),
        (["inspect"], ["expected RUN"]),
        (["train", "image", "--out", "x", "--size", "32"], ["--size", "size=32"]),
        (["train", "image", "--out", "x", "--num-codes=9"], ["--num-codes", "num_codes=9"]),
        (["train", "image", "--out", "x", "--dta", "y"], ["did you mean --data?"]),
        (["sample", "run", "--out", "x", "--colour"], ["--colour", "--temperature"]),
        (["sample", "run", "--out", "x", "--num", "many"], ["--num", "whole number", "'many'"]),
        (["sample", "run", "--out", "x", "--seed", "-1"], ["--seed", "at least 0", "-1"]),
        (["inspect", "run", "more"], ["expected no more arguments", "more", "smalti inspect --help"]),
        (["inspect", "run", "more", "words"], ["expected no more arguments", "more words"]),
        (["recipes", "imgae"], ["'imgae'", "did you mean image?"]),
        (["reproduce", "fashion-mnits"], ["did you mean fashion-mnist?"]),
    ],
)
def test_mistakes_in_the_command_line(
    words: list[str], parts: list[str], mistake: Callable[..., str]
) -> None:
    sentence = mistake(*words)
    assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_a_mistake(seed: int, trained: Path, tmp_path: Path, smalti: Smalti) -> None:
    result = smalti("sample", trained, "--out", tmp_path / "out", "--seed", seed)
    assert result.status == 2
    assert "--seed" in result.err
    assert not (tmp_path / "out").exists()


def test_warnings_of_libraries_are_ignored_on_the_command_line(
    smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(**_: object) -> None:
        warnings.warn_explicit(
            "a damaged tag", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin"
        )
        warnings.warn_explicit("a new default", FutureWarning, "theirs.py", 1, module="theirs")
        warnings.warn_explicit("a warning of ours", UserWarning, "ours.py", 1, module="smalti.ours")

    monkeypatch.setattr(cli, "app", warn)
    monkeypatch.setattr(cli, "add_commands", lambda to: None)
    monkeypatch.setattr(sys, "warnoptions", [])
    with pytest.warns() as shown:
        smalti("anything")
    assert [str(warning.message) for warning in shown] == ["a warning of ours"]


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, smalti.app.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_encoding_imports_only_what_it_needs(trained: Path, pictures: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from smalti.app.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: print(ended.code)\n"
        "late = {'torch._dynamo', 'sympy', 'matplotlib', 'accelerate', 'datasets', 'numba'}\n"
        "print(*late & set(sys.modules))"
    )
    words = ["encode", trained, "--data", pictures, "--out", tmp_path / "codes.parquet", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], check=False, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0"], done.stderr


def test_the_module_is_the_command() -> None:
    done = forked.start("-m", "smalti", "inspect", "/nowhere")
    assert done.wait() == 2
    assert done.printed.startswith("smalti: expected a run directory, found nothing at /nowhere")
    assert len(done.printed.splitlines()) == 1


def test_quiet_is_quiet_and_the_default_is_not(
    pictures: Path, tmp_path: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 200)

    def words(name: str) -> list[object]:
        return ["train", "image", "--data", pictures, "--out", tmp_path / name, *TINY]

    assert smalti(*words("quiet"), "--quiet") == Result(0, "", "")
    shown = smalti(*words("shown"))
    assert (shown.status, shown.out) == (0, "")
    for text in (
        "38 items",
        "10 steps of 8",
        "held out: bits/dim",
        "10/10",
        "loss",
        "ema codebook",
        "Next:",
    ):
        assert text in shown.err


def test_recipes(smalti: Smalti) -> None:
    names = [line.split()[0] for line in smalti("recipes").out.splitlines()[:10]]
    assert names == [
        "image",
        "photos",
        "hierarchy",
        "letters",
        "mnist",
        "mnist-lossless",
        "fashion-mnist",
        "cifar10",
        "cifar10-coupled",
        "imagenet128",
    ]
    assert smalti("recipes").out.count("\n") == len(RECIPES) + 2
    shown = smalti("recipes", "fashion-mnist").out
    assert "Expect: at least 95 %" in shown
    assert "model.quantizer.num_codes=512" in shown


def test_recipes_are_listed_without_torch() -> None:
    code = (
        "import sys, smalti.app.commands.recipes as r; r.installed = lambda group: ();"
        "print(r.list_recipes()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    lines = done.stdout.splitlines()[:-2]
    built = {name: (build.__doc__ or "").splitlines()[0] for name, build in RECIPES.items()}
    assert {line.split()[0]: line.split(maxsplit=1)[1] for line in lines} == built


def test_a_mistake_in_the_command_line_is_found_without_torch() -> None:
    code = (
        "import sys; from smalti.app.cli import main; sys.argv = ['smalti', 'trian']\n"
        "try: main()\n"
        "except SystemExit as ended: print(ended.code)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n")


def test_version(smalti: Smalti) -> None:
    assert smalti("--version") == Result(0, f"smalti {version('smalti')}\n", "")


def test_inspect(run: Path, pictures: Path, smalti: Smalti) -> None:
    text = smalti("inspect", run).out
    for line in (
        "recipe image",
        "signal      3 x 16x16, 256 levels",
        "model       VQ-VAE, ema codebook, ",
        "codes       1 x 4x4 out of 16: 64 bits, compression ratio 96.0",
        "classes     cat, dog",
        "likelihood  logistic_mixture",
        "priors      uniform, unigram, learned, learned+class",
        "training    step 10 of 10",
    ):
        assert line in text
    assert "evaluated" not in text
    assert smalti("evaluate", run, "--data", pictures, "--quiet").status == 0
    report = json.loads((run / "evaluation.json").read_text())
    uniform = report["bits_per_dim"]["uniform"]["bits_per_dim"]
    assert f"(all, 40 items, 38 trained on): bits/dim uniform {uniform:.3f}" in smalti("inspect", run).out


def test_names_of_strangers_do_not_reach_the_terminal(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "classes": ["a\nb", "\x1b[31mred"]}))
    refused = smalti("evaluate", run, "--data", pictures)
    assert refused.status == 2
    assert "ids a\\nb, \\x1b[31mred of label" in refused.err, "the prior has the other classes"
    shutil.rmtree(run / "prior")
    shown = smalti("inspect", run)
    assert shown.status == 0
    assert "classes     a\\nb, \\x1b[31mred\n" in shown.out
    data = tmp_path / "odd"
    data.mkdir()
    (data / "\x1b[2J.png").write_bytes(b"")
    shutil.copy(pictures / "cat" / "000.png", data)
    result = smalti("evaluate", run, "--data", data)
    assert result.status == 0
    assert "\\x1b[2J.png" in result.err
    assert "\x1b[2J" not in result.out + result.err


def test_inspect_a_run_that_was_killed_while_it_logged(run: Path, smalti: Smalti) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    result = smalti("inspect", run)
    assert result.status == 0
    assert "step 10 of 10" in result.out


def test_evaluate_as_tables_and_as_json_say_the_same(
    run: Path, pictures: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tables = smalti("evaluate", run, "--data", pictures, "--quiet", "--protocol")
    short = smalti("evaluate", run, "--data", pictures, "--quiet")
    assert "data range" not in short.out
    assert len(short.out.splitlines()) < len(tables.out.splitlines())
    report = json.loads(smalti("evaluate", run, "--data", pictures, "--json").out)
    assert list(report["bits_per_dim"]) == ["uniform", "unigram", "learned", "learned+class"]
    for row in report["bits_per_dim"].values():
        for key in ("bits_per_dim", "rate", "distortion"):
            assert f"{row[key]:.4f}" in tables.out
        assert row["rate"] + row["distortion"] == pytest.approx(row["bits_per_dim"], rel=1e-6)
    for text in ("psnr", "ssim", "mse_over_variance", "usage", "perplexity", "data range: [-1.0, 1.0]"):
        assert text in tables.out
    # One bit for the class of two, spread over 768 values, is part of what the class costs.
    assert "log2(number of classes)" in report["protocol"]["+class"]


def test_evaluate_writes_nothing_into_the_cache_of_the_hub(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(run))
    before = digests(run)
    result = smalti("evaluate", "me/letters", "--data", pictures, "--json")
    assert result.status == 0
    assert json.loads(result.out)["num"] == 40
    assert digests(run) == before


def test_a_report_that_cannot_be_saved_is_printed(run: Path, pictures: Path, smalti: Smalti) -> None:
    (run / "figures").rename(run / "elsewhere")
    (run / "figures").write_text("a file")
    result = smalti("evaluate", run, "--data", pictures, "--json")
    assert result.status == 0
    assert json.loads(result.out)["num"] == 40
    assert "The report is not saved in the run" in " ".join(result.err.split())


def test_one_item_has_no_standard_error(run: Path, tmp_path: Path, pictures: Path, smalti: Smalti) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(pictures / "cat" / "000.png", tmp_path / "one")
    assert smalti("evaluate", run, "--data", tmp_path / "one", "--quiet").status == 0
    report = (run / "evaluation.json").read_text()
    assert json.loads(report)["bits_per_dim"]["uniform"]["stderr"] is None
    assert "NaN" not in report


def test_a_folder_whose_name_looks_like_markup(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    folder = tmp_path / "photos[" / "old]"
    folder.parent.mkdir()
    folder.symlink_to(pictures)
    result = smalti("evaluate", run, "--data", folder, "--quiet")
    assert result.status == 0
    assert "[/old]" in result.out.replace("\n", "").replace(" ", "")


def literal(text: str) -> str:
    """Text of a help page without markup, line breaks and borders."""
    return "".join(letter for letter in text if letter not in "`│ \n")


def commands() -> dict[str, Any]:
    cli.add_commands(cli.app)
    return vars(typer.main.get_command(cli.app))["commands"]


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_shows_every_character_of_its_texts(
    name: str, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = literal(smalti(name, "--help").out)
    command = commands()[name]
    for parameter in command.params:
        assert literal(getattr(parameter, "help", None) or "") in shown
    for paragraph in (command.help or "").split("\n\n"):
        assert literal(paragraph) in shown


@pytest.mark.parametrize("name", ["one.npy", "codes.json", "table.csv"])
def test_codes_to_a_kind_of_file_that_is_not_written(
    name: str, trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    result = smalti("encode", trained, "--data", pictures, "--out", tmp_path / name)
    assert result.status == 2
    assert name in result.err
    assert list(tmp_path.iterdir()) == []


def test_names_longer_than_the_system_allows(
    trained: Path, pictures: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    long = tmp_path / ("x" * 300)
    for words in (
        ["inspect", long],
        ["encode", trained, "--data", pictures, "--out", long],
        ["encode", trained, "--data", long, "--out", tmp_path / "codes"],
        ["decode", trained, long, "--out", tmp_path / "decoded"],
        ["sample", trained, "--num", 1, "--out", long],
        ["reconstruct", trained, long, "--out", tmp_path / "again"],
        ["train", "image", "--data", pictures, "--out", long, *TINY],
        ["train-prior", long],
    ):
        assert "xxx" in mistake(*words)


def test_the_home_directory_is_expanded(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = pictures / "cat"
    assert smalti("encode", trained, "--data", data, "--out=~/codes.parquet", "--quiet").status == 0
    assert smalti("sample", trained, "--num=1", "--out=~/samples", "--quiet").status == 0
    assert smalti("sample", trained, "--num=1", "--out=~nobody-of-this-name/x").status == 2
    assert {path.name for path in tmp_path.iterdir()} == {"codes.parquet", "samples"}


def test_a_directory_with_the_name_of_a_file(
    trained: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "samples.png"
    for words in (
        ["sample", trained],
        ["reconstruct", trained, pictures / "cat" / "000.png"],
        ["train", "image", "--data", pictures, *TINY],
        ["demo"],
    ):
        assert smalti(*words, "--out", out).status == 2
        assert not out.exists()
    out.mkdir()  # it is meant
    assert smalti("sample", trained, "--num", 1, "--out", out, "--quiet").status == 0


def test_a_file_in_place_of_a_run(tmp_path: Path, smalti: Smalti) -> None:
    (tmp_path / "README.md").write_text("# Letters")
    result = smalti("inspect", tmp_path / "README.md")
    assert result.status == 2
    assert "is a file" in result.err


def test_advice_names_options_of_the_command(run: Path, smalti: Smalti) -> None:
    shown = smalti("train-prior", run, *TINY_PRIOR, "network.layers=3")
    assert shown.status == 2
    assert "--name" in shown.err
    assert "--out" not in shown.err
    named = smalti("train-prior", run, "--name", "second", *TINY_PRIOR)
    assert f"Next: smalti sample {run} --prior second" in " ".join(named.err.split())


def test_quiet_does_not_hide_what_is_left_out(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(pictures / "cat" / "000.png", data)
    (data / "notes.txt").write_text("Dear Anna")
    for words in (["encode", run, "--out", tmp_path / "codes"], ["evaluate", run]):
        result = smalti(*words, "--data", data, "--quiet")
        assert result.status == 0
        assert "1 file was left out (1 .txt)" in " ".join(result.err.split())


def test_the_list_of_unreadable_files_says_where_the_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [{"name": f"{index}.png", "reason": "it is empty"} for index in range(47)]
    report_skipped(skipped, "data/index.json in the run")
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 12
    assert shown[0].startswith("47 unreadable files")
    assert "37 more" in shown[-1]
    assert "data/index.json" in shown[-1]
