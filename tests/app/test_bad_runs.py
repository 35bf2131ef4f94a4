"""Mistakes with runs, full disks and interruptions: exit status 2, one sentence, and nothing lost."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti.core import weights
from smalti.tokenizer import load
from smalti.training import checkpoints
from tests import forked
from tests.runs import TINY, TINY_PRIOR, Result, digests

Mistake = Callable[..., str]
Smalti = Callable[..., Result]


def assert_usable(run: Path) -> None:
    """The last checkpoint and the weights are whole and finite."""
    state = checkpoints.RunDirectory(run).read_state()
    assert state is not None
    for tensors in (state.tensors, load_file(run / "model.safetensors")):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert load(run).sample(1, seed=0).shape == (1, 3, 16, 16)


# The run


def test_runs_that_are_none(
    trained: Path, pictures: Path, codes: Path, tmp_path: Path, mistake: Mistake
) -> None:
    (tmp_path / "photos").mkdir()
    for run, message in (
        (tmp_path / "nowhere", "found nothing at"),
        (tmp_path / "photos", "has no config.json"),
        (trained / "prior", "holds a prior"),
    ):
        for words in (
            ["inspect", run],
            ["encode", run, "--data", pictures, "--out", tmp_path / "codes.parquet"],
            ["decode", run, codes, "--out", tmp_path / "decoded"],
            ["sample", run, "--out", tmp_path / "samples"],
            ["evaluate", run, "--data", pictures],
            ["train-prior", run],
        ):
            assert message in mistake(*words)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "is not a run configuration"),
        ("config.json", "[]", "is not a run configuration"),
        ("config.json", '{"format": 99, "kind": "autoencoder"}', "upgrade smalti"),
        ("config.json", '{"format": 2}', "has no 'kind'"),
        ("config.json", '{"format": 2, "kind": "autoencoder"}', "has no 'recipe'"),
        ("config.json", ("num_codes", 17), "do not fit the model"),
        ("config.json", ("num_codes", "many"), "does not describe a model of this version"),
        ("config.json", ("classes", "cat"), "a list of names"),
        ("model.safetensors", None, "no model.safetensors"),
        ("model.safetensors", 100, "is not a complete safetensors file"),
        ("model.safetensors", -1, "is not a complete safetensors file"),
        ("model.safetensors", "", "is not a complete safetensors file"),
        ("unigram.json", "{", "is broken"),
        ("prior/config.json", "{", "is not a run configuration"),
        ("prior/config.json", '{"format": 2}', "has no 'autoencoder'"),
        ("prior/model.safetensors", -1, "is not a complete safetensors file"),
    ],
)
def test_damaged_run(
    file: str, content: str | int | tuple[str, object] | None, message: str, run: Path, mistake: Mistake
) -> None:
    path = run / file
    match content:
        case None:
            path.unlink()
        case int():
            path.write_bytes(path.read_bytes()[:content])
        case str():
            path.write_text(content)
        case (key, value):
            text = path.read_text()
            changed = re.sub(rf'"{key}": (\d+|\[[^]]*\])', f'"{key}": {json.dumps(value)}', text)
            assert changed != text
            path.write_text(changed)
    assert message in mistake("sample", run, "--out", run / "samples")


def test_sample_without_a_prior(run: Path, tmp_path: Path, mistake: Mistake) -> None:
    shutil.rmtree(run / "prior")
    assert f"smalti train-prior {run}" in mistake("sample", run, "--out", tmp_path / "samples")


def test_prior_of_another_state_of_the_autoencoder(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti, mistake: Mistake
) -> None:
    more = [*TINY, "training.steps=12"]
    assert smalti("train", "image", "--data", pictures, "--out", run, *more, "--quiet").status == 0
    for words in (["sample", run, "--out", tmp_path / "samples"], ["train-prior", run, *TINY_PRIOR]):
        sentence = mistake(*words)
        assert "of the autoencoder" in sentence
        assert f"remove {run / 'prior'}" in sentence
    # Other commands do without the prior.
    inspected = smalti("inspect", run)
    assert inspected.status == 0
    assert f"remove {run / 'prior'}" in inspected.out
    codes, file = tmp_path / "codes.parquet", pictures / "cat" / "000.png"
    for words in (
        ["encode", run, "--data", file, "--out", codes],
        ["decode", run, codes, "--out", tmp_path / "decoded"],
        ["reconstruct", run, file, "--out", tmp_path / "again"],
    ):
        assert smalti(*words, "--quiet").status == 0
    shutil.rmtree(run / "prior")
    assert smalti("train-prior", run, *TINY_PRIOR, "--quiet").status == 0
    assert_usable(run)


def test_fewer_steps_than_a_run_has_done(run: Path, pictures: Path, mistake: Mistake) -> None:
    before = digests(run)
    train = ["train", "image", "--data", pictures, "--out", run, *TINY, "training.steps=9"]
    for words in (train, ["train-prior", run, *TINY_PRIOR, "training.steps=9"]):
        assert "at least 10" in mistake(*words)
    assert digests(run) == before


def test_weights_that_were_lost_are_written_again(run: Path, pictures: Path, smalti: Smalti) -> None:
    before = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").unlink()
    assert smalti("train", "image", "--data", pictures, "--out", run, *TINY, "--quiet").status == 0
    assert (run / "model.safetensors").read_bytes() == before


# Where it goes


def test_out_that_holds_other_files(new_run: list[object], tmp_path: Path, mistake: Mistake) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in mistake(*new_run)
    assert list(digests(tmp_path / "new")) == ["thesis.tex"]


def test_out_that_holds_runs(
    trained: Path, pictures: Path, new_run: list[object], tmp_path: Path, mistake: Mistake
) -> None:
    shutil.copytree(trained, tmp_path / "new" / "first")
    assert "choose another --out" in mistake(*new_run)


def test_out_whose_data_are_not_those_of_a_run(
    new_run: list[object], pictures: Path, tmp_path: Path, mistake: Mistake
) -> None:
    shutil.copytree(pictures, tmp_path / "new" / "data")
    assert "new holds data and no config.json" in mistake(*new_run)
    assert digests(tmp_path / "new" / "data") == digests(pictures)


def test_out_that_holds_a_run_of_other_settings_or_data(
    run: Path, pictures: Path, tmp_path: Path, mistake: Mistake
) -> None:
    others = Path(shutil.copytree(pictures, tmp_path / "others"))
    before = digests(run)
    same = ["train", "image", "--out", run, *TINY]
    assert "model.quantizer.num_codes=16, received 32" in mistake(*same, "--data", pictures, "num_codes=32")
    assert f"received {others}" in mistake(*same, "--data", others)
    assert "network.layers=2, received 3" in mistake("train-prior", run, *TINY_PRIOR, "network.layers=3")
    assert digests(run) == before
    assert_usable(run)


def test_out_that_is_a_file(
    trained: Path, pictures: Path, codes: Path, tmp_path: Path, mistake: Mistake
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for words in (
        ["decode", trained, codes],
        ["sample", trained, "--num", 1],
        ["reconstruct", trained, pictures / "cat" / "000.png"],
        ["train", "image", "--data", pictures, *TINY],
    ):
        assert "taken" in mistake(*words, "--out", taken)
    assert taken.read_text() == "a file"


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own, where the machine lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    yield place
    gc.collect()  # the error of a full disk may hold an open file
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("models_that_fit", [0.0, 0.5, 2.0], ids=["nothing", "config", "weights"])
def test_disk_that_is_full(
    models_that_fit: float, small_disk: Path, trained: Path, pictures: Path, smalti: Smalti, mistake: Mistake
) -> None:
    run = Path(shutil.copytree(trained, small_disk / "run"))
    # Nothing but the autoencoder, whose prior would not fit it any more.
    shutil.rmtree(run / "prior")
    before = digests(run / "state")
    room = int(models_that_fit * (run / "model.safetensors").stat().st_size)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(max(0, free - room)))
    more = ["train", "image", "--data", pictures, "--out", run, *TINY, "training.steps=20"]
    assert "the disk is full" in mistake(*more)
    assert digests(run / "state") == before
    assert all(bool(t.isfinite().all()) for t in load_file(run / "model.safetensors").values())

    filler.unlink()
    assert smalti(*more, "--quiet").status == 0
    state = checkpoints.RunDirectory(run).read_state()
    assert state is not None
    assert state.step == 20


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["weights", "checkpoint", "metrics"])
def test_disk_that_fills_up_while_training(
    what: str,
    run: Path,
    pictures: Path,
    smalti: Smalti,
    mistake: Mistake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(run / "prior")
    more = ["train", "image", "--data", pictures, "--out", run, *TINY, "training.steps=20"]
    before = digests(run / "state")
    real = weights.save_file

    def save_file(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if (Path(path).name == "model.safetensors") == (what == "weights"):
            Path(path).write_bytes(b"half of it")
            full()
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        if what == "metrics":
            patch.setattr(checkpoints.RunDirectory, "append_metrics", full)
        else:
            patch.setattr(weights, "save_file", save_file)
        assert "the disk is full" in mistake(*more)
    assert digests(run / "state") == before
    assert load(run).code_shape == (1, 4, 4)
    assert not list(run.rglob(".*")), "what was half written is gone"
    assert smalti(*more, "--quiet").status == 0
    assert smalti("train-prior", run, *TINY_PRIOR, "--quiet").status == 0
    assert_usable(run)


# The numbers


def test_loss_that_is_not_finite(new_run: list[object], tmp_path: Path, mistake: Mistake) -> None:
    run = checkpoints.RunDirectory(tmp_path / "new")
    sentence = mistake(*new_run, "training.learning_rate=1e30", "training.checkpoint_every=1")
    assert sentence.startswith("smalti: distortion_bits_per_dim")
    state = run.read_state()
    assert state is not None
    assert f"the checkpoint of step {state.step} is kept" in sentence
    assert f"at step {state.step + 1}" in sentence
    for tensors in (state.tensors, run.read_model()):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


# The user, in a hurry


def test_ctrl_c_saves_and_stops(new_run: list[object], tmp_path: Path, smalti: Smalti) -> None:
    run = tmp_path / "new"
    endless = [*map(str, new_run), "training.steps=1000000"]
    process = forked.start("-m", "smalti", *endless)
    deadline = time.monotonic() + 120
    while not list(run.glob("state/step-*")) and process.is_running() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.interrupt()
    status, printed = process.wait(60), process.printed
    assert status == 130, printed
    state = checkpoints.RunDirectory(run).read_state()
    assert state is not None
    assert f"smalti: stopped and saved at step {state.step} of 1000000" in printed
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("smalti: ")]
    assert "run the same command" in line

    assert smalti(*new_run, f"training.steps={state.step + 3}", "--quiet").status == 0
    resumed = checkpoints.RunDirectory(run)
    last = resumed.read_state()
    assert last is not None
    assert last.step == state.step + 3
    steps = [record["step"] for record in resumed.metrics() if record["split"] == "train"]
    assert steps == sorted(set(steps))
