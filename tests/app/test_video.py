"""A folder of clips of several kinds, two of them broken, through every verb."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from smalti.app.commands import decode, reconstruct
from smalti.data.packed import read_packed
from smalti.data.padding import padded
from smalti.modalities.video import modality as video
from smalti.modalities.video.modality import VideoConfig, VideoModality
from smalti.tokenizer import Tokenizer, load
from tests import videos
from tests.runs import TRAINING, WIDTHS, Result, command

Smalti = Callable[..., Result]

RATE_HZ, FRAMES = 10, 4
BROKEN = ("rise/cut.webm", "slide/empty.mp4")
SETTINGS = [
    *TRAINING,
    *WIDTHS,
    "size=16",
    f"data.frames={FRAMES}",
    "training.batch_size=4",
    "validation_fraction=0.2",
    "num_codes=16",
    "code_dim=4",
]
PRIOR = [*TRAINING, "network.channels=8", "network.layers=2", "network.heads=2"]
PER_FRAME, TOGETHER = (), ("encoder.per_frame=false", "encoder.time_strides=1,2,1")
"""Each frame to 2x2 codes; two frames together to 2x2 codes."""


@dataclass(frozen=True)
class ClipRun:
    """A finished run with a prior, what was said meanwhile, and frames that a code lasts."""

    path: Path
    data: Path
    printed: str
    stride: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: clips of 3 to 13 frames in files of every kind, a folder of frames, two broken ones."""
    path = tmp_path_factory.mktemp("data") / "clips"
    for index, kind in enumerate(videos.KINDS):
        videos.save(path / "slide" / f"{index}", videos.moving(3 + 2 * index), kind, RATE_HZ)
        videos.save_gif(path / "rise" / f"{index}", videos.moving(5 + 2 * index, 20, 20, 1))
    videos.save_folder(path / "rise" / "pictures", videos.moving(6))
    whole = videos.save(path / "rise" / "cut", videos.moving(20), videos.KINDS[1])
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (path / BROKEN[1]).write_bytes(b"")
    return path


LENGTHS = {
    **{f"slide/{index}{kind.ending}": 3 + 2 * index for index, kind in enumerate(videos.KINDS)},
    **{f"rise/{index}.gif": 5 + 2 * index for index in range(5)},
    "rise/pictures.frames": 6,
}


@pytest.fixture(scope="module", params=[PER_FRAME, TOGETHER], ids=["per frame", "together"])
def run(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipRun:
    path = tmp_path_factory.mktemp("runs") / "clips"
    trained = command("train", "video", "--data", folder, "--out", path, *SETTINGS, *request.param)
    assert trained.status == 0, trained.err
    prior = command("train-prior", path, *PRIOR, "--quiet")
    assert prior.status == 0, prior.err
    return ClipRun(path, folder, trained.err, 2 if request.param else 1)


@pytest.fixture(scope="module")
def tokenizer(run: ClipRun) -> Tokenizer:
    return load(run.path, "cpu")


def frames_of(path: Path, size: tuple[int, int] = (16, 16)) -> int:
    """Frames of an MP4 that plays at the run's rate, of this height and width."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == RATE_HZ
        assert (stream.height, stream.width) == size
        return sum(1 for _ in container.decode(stream))


def native_size(path: Path) -> tuple[int, int]:
    """Height and width of a clip."""
    shape = VideoConfig().build().native().decode(path).shape
    return shape[2], shape[3]


def mp4_of(name: str) -> str:
    return str(Path(name).with_suffix(".mp4"))


def test_training_reads_11_and_names_2(run: ClipRun) -> None:
    assert "2 unreadable files were skipped" in run.printed
    assert "slide/empty.mp4: the file is empty" in run.printed
    assert "rise/cut.webm: truncated" in run.printed
    index = json.loads((run.path / "data" / "index.json").read_text())
    assert index["count"] == len(LENGTHS)
    assert index["shape"] == [3, None, 16, 16]
    assert json.loads((run.path / "config.json").read_text())["classes"] == ["rise", "slide"]
    figures = {path.name for path in (run.path / "figures").iterdir()}
    assert {"reconstructions.png", "learning_curves.png", "codes.png", "usage.png"} <= figures
    assert (run.path / "prior" / "figures" / "samples.png").is_file()


def test_codes_to_files_and_back(run: ClipRun, tokenizer: Tokenizer, smalti: Smalti, tmp_path: Path) -> None:
    encoded = tokenizer.encode([run.data / name for name in LENGTHS])
    expected = dict(zip(LENGTHS, encoded, strict=True))
    grids = {name: (math.ceil(length / run.stride), 2, 2) for name, length in LENGTHS.items()}
    for target in ("codes.parquet", "packed"):
        result = smalti("encode", run.path, "--data", run.data, "--out", tmp_path / target)
        assert result.status == 0, result.err
        assert "2 unreadable files were skipped" in result.err
    table = pq.read_table(tmp_path / "codes.parquet")
    assert json.loads(table.schema.metadata[b"smalti"])["grid"] == [None, 2, 2]
    rows = dict(zip(table["name"].to_pylist(), table["codes"].to_pylist(), strict=True))
    packed = {one.info.name: one for one in map(read_packed, (tmp_path / "packed").rglob("*.smc"))}
    assert rows.keys() == packed.keys() == LENGTHS.keys()
    for name, codes in expected.items():
        assert codes.shape == (1, 1, *grids[name])
        np.testing.assert_array_equal(rows[name], codes.flatten())
        np.testing.assert_array_equal(packed[name].codes, codes[0])
        assert packed[name].info.size == (LENGTHS[name],)
        units = packed[name].info.units
        assert units is not None
        assert units.seconds == pytest.approx(LENGTHS[name] / RATE_HZ)

    for given, frames in (
        ("packed", LENGTHS),
        # A table does not say where the last code's stretch ends.
        ("codes.parquet", {name: grid[0] * run.stride for name, grid in grids.items()}),
    ):
        out = tmp_path / f"decoded_{Path(given).stem}"
        result = smalti("decode", run.path, tmp_path / given, "--out", out, "--quiet")
        assert result.status == 0, result.err
        found = {str(path.relative_to(out)): frames_of(path) for path in out.rglob("*.mp4")}
        assert found == {mp4_of(name): length for name, length in frames.items()}


def test_reconstructions_are_as_long_as_what_was_given(
    run: ClipRun, tokenizer: Tokenizer, smalti: Smalti, tmp_path: Path
) -> None:
    names = ["slide/2.mkv", "rise/1.gif", "rise/pictures.frames"]
    files = [run.data / name for name in (*names, BROKEN[0])]
    result = smalti("reconstruct", run.path, *files, "--out", tmp_path / "again")
    assert result.status == 0, result.err
    assert "cut.webm: truncated" in result.err
    again = {path.name: path for path in (tmp_path / "again").glob("[!.]*")}
    assert again.keys() == {"2.mp4", "1.mp4", "pictures.mp4", "comparison.png"}
    for name in names:
        assert frames_of(again[Path(mp4_of(name)).name], native_size(run.data / name)) == LENGTHS[name]
    (clip,) = tokenizer.reconstruct(run.data / names[0])
    assert clip.dtype == torch.uint8
    assert clip.shape == (1, 3, LENGTHS[names[0]], 16, 16)


def test_long_clips_are_read_and_written_block_by_block(
    run: ClipRun, smalti: Smalti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["slide/2.mkv", "slide/3.mov", BROKEN[0]]
    files = [run.data / name for name in names]
    data = tmp_path / "data"
    data.mkdir()
    for file in files[:2]:
        shutil.copy(file, data)
    assert smalti("encode", run.path, "--data", data, "--out", tmp_path / "codes", "--quiet").status == 0
    for folder in ("whole", "blocks"):
        monkeypatch.setattr(video, "write_clip", videos.write_pixels)
        if folder == "blocks":
            monkeypatch.setattr(video, "LONG_BYTES", 1)
            monkeypatch.setattr(reconstruct, "LEAST_SHOWN", 2)
            monkeypatch.setattr(reconstruct, "SHOWN_VALUES", 1)
            monkeypatch.setattr(decode, "BATCH_VALUES", 1)
            monkeypatch.setattr(Tokenizer, "through_codes", None)
            monkeypatch.setattr(Tokenizer, "decode_signals", None)
        else:
            monkeypatch.setattr(VideoModality, "blocks", lambda *_: None)
        for size in ("native", "model"):
            command = ("reconstruct", run.path, *files, "--out", tmp_path / folder / size, "--size", size)
            result = smalti(*command)
            assert result.status == 0, result.err
            assert "cut.webm: truncated" in result.err
        command = ("decode", run.path, tmp_path / "codes", "--out", tmp_path / folder / "decoded", "--quiet")
        assert smalti(*command).status == 0
        monkeypatch.undo()
    whole, blocks = (
        {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for path in (tmp_path / folder).rglob("*.mp4")
        }
        for folder in ("whole", "blocks")
    )
    assert len(whole) == 6
    assert blocks == whole


def test_evaluation_counts_each_clip_by_its_frames(
    run: ClipRun, tokenizer: Tokenizer, smalti: Smalti
) -> None:
    result = smalti("evaluate", run.path, "--data", run.data, "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["num"] == len(LENGTHS)
    bits = report["bits_per_dim"]
    assert list(bits) == ["uniform", "unigram", "learned", "learned+class"]
    dims = sum(LENGTHS.values()) * 3 * 16 * 16
    codes = sum(4 * math.ceil(length / run.stride) for length in LENGTHS.values())
    assert bits["uniform"]["rate"] == pytest.approx(codes * math.log2(16) / dims, rel=1e-5)
    nats, learned = 0.0, 0.0
    for name, length in LENGTHS.items():
        signal = tokenizer.modality.check(run.data / name)[0]
        with torch.no_grad():
            own = tokenizer.autoencoder.encode(
                padded(tokenizer.modality, signal, tokenizer.autoencoder.strides)
            )
            decoded = tokenizer.autoencoder.likelihood(own).log_prob(
                padded(tokenizer.modality, signal, tokenizer.autoencoder.strides)
            )
            learned -= tokenizer.priors["learned"].log_prob(own).item()
        nats -= decoded[:, :, :length].double().sum().item()
    assert bits["learned"]["distortion"] == pytest.approx(nats / dims / math.log(2), rel=1e-5)
    assert bits["learned"]["rate"] == pytest.approx(learned / dims / math.log(2), rel=1e-5)
    assert report["reconstruction"]["ssim"] is not None
    assert report["protocol"]["data frame_rate_hz"] == str(float(RATE_HZ))
    assert (run.path / "figures" / "reconstructions_evaluation.png").is_file()


@pytest.mark.parametrize(("options", "codes"), [((), None), (("--length", 3, "--class", "rise"), 3)])
def test_samples_play(run: ClipRun, smalti: Smalti, tmp_path: Path, options, codes: int | None) -> None:
    codes = codes or FRAMES // run.stride
    result = smalti("sample", run.path, "--num", 2, "--out", tmp_path / "new", "--quiet", *options)
    assert result.status == 0, result.err
    for name in ("00000.mp4", "00001.mp4"):
        assert frames_of(tmp_path / "new" / name) == codes * run.stride
    assert (tmp_path / "new" / "samples.png").is_file()
    rows = pq.read_table(tmp_path / "new" / "codes.parquet")["codes"].to_pylist()
    assert [len(row) for row in rows] == [4 * codes] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("size=20",), "expected a number of frames that is a multiple of 1 and a size"),
        (("encoder.time_strides=1,2,2",), "expected no time_strides"),
        (("encoder.per_frame=false", "encoder.time_strides=1,2"), "as many time_strides as strides, 3"),
        (("encoder.per_frame=false", "frames=5"), "set data.frames=8 data.size=64x64"),
        (("decoder.kind=wavenet",), "decoder.kind=conv"),
        (("frame_rate_hz=0",), "data.frame_rate_hz: expected a number of at least 0.01"),
    ],
)
def test_settings_that_do_not_fit_get_a_sentence(
    folder: Path, smalti: Smalti, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = smalti("train", "video", "--data", folder, "--out", tmp_path / "run", *words)
    assert result.status == 2
    assert message in " ".join(result.err.split())
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gated_pixelcnn", "network.kind=frame_pixelcnn or transformer"),
        ("wavenet", "expected a line"),
    ],
)
def test_priors_that_know_no_clips(run: ClipRun, smalti: Smalti, kind: str, message: str) -> None:
    words = ("--name", kind, f"network.kind={kind}", "network.channels=8", "training.steps=1")
    result = smalti("train-prior", run.path, *words)
    assert result.status == 2
    assert message in " ".join(result.err.split())


def test_a_folder_without_clips(smalti: Smalti, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    result = smalti("train", "video", "--data", tmp_path, "--out", tmp_path / "run")
    assert result.status == 2
    assert "expected files that end in one of .3gp, .avi, .frames, .gif" in " ".join(result.err.split())


def test_a_picture_is_no_clip_to_reconstruct(run: ClipRun, smalti: Smalti, tmp_path: Path) -> None:
    still = videos.save_gif(tmp_path / "still", videos.grey(9))
    result = smalti("reconstruct", run.path, still, "--out", tmp_path / "out")
    assert result.status == 2
    assert "too short: it has 1 frame" in " ".join(result.err.split())
