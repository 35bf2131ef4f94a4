"""`data.stream=true`: training from a source, without a decoded copy of it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from smalti.app.finished import _codes_without_padding
from smalti.app.recipes import get_recipe, override
from smalti.app.streamed import StreamedData
from smalti.core.conditions import Batch
from smalti.data.sources import Item, Source
from smalti.data.stream import StreamLoader
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RunDirectory
from tests import sounds, videos
from tests.runs import TINY, TINY_WALKS, Result
from tests.speech_runs import BROKEN, SoundRun

Smalti = Callable[..., Result]
STREAMED = [*TINY, "data.stream=true", "data.stream_buffer=8", "training.checkpoint_every=2"]


@pytest.fixture
def streamed(pictures: Path, tmp_path: Path, smalti: Smalti) -> Path:
    out = tmp_path / "streamed"
    result = smalti("train", "image", "--data", pictures, "--out", out, *STREAMED, "--quiet")
    assert result.status == 0, result.err
    return out


def test_a_run_without_a_store(streamed: Path, pictures: Path, smalti: Smalti, tmp_path: Path) -> None:
    assert not (streamed / "data").exists()
    config = json.loads((streamed / "config.json").read_text())
    assert config["classes"] == ["cat", "dog"]
    assert config["streamed"]["held_out"][0] == "all"
    assert (streamed / "unigram.json").is_file()
    assert (streamed / "figures" / "reconstructions.png").is_file()
    result = smalti("encode", streamed, "--data", pictures, "--out", tmp_path / "codes.parquet", "--quiet")
    assert result.status == 0, result.err
    refused = smalti("train-prior", streamed)
    assert refused.status == 2
    assert "data.stream=true" in refused.err


def parquet(pictures: Path, folder: Path) -> Path:
    """Shards of pictures with a label."""
    files = sorted(pictures.rglob("*.png"))
    for shard in range(3):
        table = {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files[shard::3]],
            "label": [file.parent.name for file in files[shard::3]],
        }
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"train-{shard:05d}-of-00003.parquet")
    return folder


def tars(pictures: Path, folder: Path) -> Path:
    """Shards of a WebDataset."""
    files = sorted(pictures.rglob("*.png"))
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for file in files[shard::3]:
                tar.add(file, f"{file.stem}.png")
                label = tarfile.TarInfo(f"{file.stem}.cls")
                label.size = len(file.parent.name)
                tar.addfile(label, io.BytesIO(file.parent.name.encode()))
    return folder


@pytest.mark.parametrize("write", [parquet, tars], ids=lambda one: one.__name__)
def test_shards_are_streamed(
    write: Callable[[Path, Path], Path], pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    (tmp_path / "shards").mkdir()
    data, out = write(pictures, tmp_path / "shards"), tmp_path / "run"
    result = smalti("train", "image", "--data", data, "--out", out, *STREAMED)
    assert result.status == 0, result.err
    assert json.loads((out / "config.json").read_text())["classes"] == ["cat", "dog"]
    assert not (out / "data").exists()
    table = tmp_path / "codes.parquet"
    assert smalti("encode", out, "--data", data, "--out", table, "--quiet").status == 0
    assert pyarrow.parquet.read_metadata(table).num_rows == 40


def test_a_killed_run_resumes_to_the_same_weights(
    streamed: Path, pictures: Path, smalti: Smalti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    command = ("train", "image", "--data", pictures, "--out", out, *STREAMED, "--quiet")
    plain = StreamLoader.batch

    def killed(self: StreamLoader, step: int, rank: int = 0, world: int = 1):
        if step == 3:
            raise KeyboardInterrupt
        return plain(self, step, rank, world)

    monkeypatch.setattr(StreamLoader, "batch", killed)
    assert smalti(*command).status != 0
    monkeypatch.undo()
    resumed = smalti(*command)
    assert resumed.status == 0, resumed.err
    one, other = (load_file(run / "model.safetensors") for run in (streamed, out))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_changed_source_is_refused(streamed: Path, pictures: Path, smalti: Smalti, tmp_path: Path) -> None:
    moved = tmp_path / "fewer"
    shutil.copytree(pictures, moved)
    out = tmp_path / "run"
    steps = ["training.steps=2", "validation_fraction=0"]
    first = smalti("train", "image", "--data", moved, "--out", out, *STREAMED, *steps, "--quiet")
    assert first.status == 0, first.err
    (moved / "cat" / "000.png").unlink()
    again = smalti("train", "image", "--data", moved, "--out", out, *STREAMED, *steps, "--quiet")
    assert again.status == 2
    assert "begun with" in again.err


@pytest.mark.parametrize("crop", ["random", "center"])
def test_crops_of_pictures_are_streamed(crop: str, smalti: Smalti, tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "run"
    command = ("train", "image", "--data", pictures, "--out", out, *STREAMED, f"data.crop={crop}")
    result = smalti(*command, "data.size=8", "data.flip=true", "data.stream_crops=2", "--quiet")
    assert result.status == 0, result.err
    assert not (out / "data").exists()


def test_sounds_are_streamed_with_their_speakers(recordings: Path, smalti: Smalti, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = [*sounds.DIGITS, "data.stream=true", "data.stream_buffer=8"]
    result = smalti("train", "digits", "--data", recordings, "--out", out, *settings)
    assert result.status == 0, result.err
    assert not (out / "data").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["classes"] == config["streamed_names"]["classes"] == list(sounds.SPEAKERS)
    assert all(name in result.err for name in BROKEN)


def test_clips_are_streamed_with_their_actions(smalti: Smalti, tmp_path: Path) -> None:
    (tmp_path / "walks").mkdir()
    videos.save_episodes(tmp_path / "walks" / "train.parquet", videos.random_walks(12, 8))
    out = tmp_path / "run"
    settings = [*TINY_WALKS, "data.stream=true", "data.stream_buffer=4", "--quiet"]
    result = smalti("train", "walks", "--data", tmp_path / "walks", "--out", out, *settings)
    assert result.status == 0, result.err
    assert not (out / "data").exists()
    assert json.loads((out / "config.json").read_text())["actions"] == ["left", "right", "wait"]


def test_code_frequencies_do_not_count_padding(spoken: SoundRun) -> None:
    trained = TrainedModel.load(spoken.path, "cpu")
    batch = Batch(torch.zeros(2, 1, 640), lengths=torch.tensor([640, 100]))
    whole = trained.autoencoder.draw_codes(batch.data, torch.Generator())
    codes = list(_codes_without_padding(trained, batch, torch.Generator()))
    stride = 640 // whole.shape[2]
    assert [one.shape[2] for one in codes] == [whole.shape[2], -(-100 // stride)]
    assert torch.equal(codes[0], whole[:1])


class Moods(Source):
    """Pictures with a class and a mood; those of the validation split have others too."""

    description, splits = "moods", ("train", "validation")

    def count(self, split: str) -> int:
        return 4

    def items(self, split: str) -> Iterator[Item]:
        own = {"train": ("cat", "calm"), "validation": ("dog", "glad")}
        for index in range(4):
            label, mood = own[split if index % 2 else "train"]
            yield Item(str(index), np.zeros((8, 8, 3), np.uint8), label, columns={"mood": mood})


def test_held_out_conditions_that_no_training_item_has_are_not_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = override(get_recipe("image"), ["data.size=8", "data.stream=true"])
    data = StreamedData(Moods(), "train", recipe, 8, RunDirectory(tmp_path / "run"))
    modality = recipe.data.build()
    model = recipe.model.build(modality.spec, data.names.sizes)
    held_out = data.held_out(modality, model, torch.device("cpu"))
    assert held_out is not None
    conditions = held_out.items(np.arange(4)).conditions
    assert conditions["label"].data.tolist() == [0, -1, 0, -1]
    assert conditions["mood"].data.tolist() == [0, -1, 0, -1]
    assert "2 of the 4 held-out items have classes" in capsys.readouterr().err
