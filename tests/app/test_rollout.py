"""Walks with actions through training, and `smalti rollout` from what was trained."""

import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smalti.core.errors import InputError
from smalti.core.priors import NO_CONDITIONS
from smalti.data.codes import read_codes
from smalti.data.store import Store
from smalti.priors.autoregressive import LearnedPrior
from smalti.studies.records import read_records
from smalti.studies.worlds.video_figures import of_another_clip, stretches
from smalti.tokenizer import load
from tests import videos
from tests.runs import TINY_WALKS, TINY_WALKS_PRIOR, command, digests


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    videos.save_episodes(folder / "train.parquet", videos.random_walks(12, 8))
    videos.save_episodes(folder / "test.parquet", videos.random_walks(2, 9, seed=1))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "walks"
    trained = command("train", "walks", "--data", data, "--out", path, *TINY_WALKS)
    assert trained.status == 0, trained.err
    prior = command("train-prior", path, *TINY_WALKS_PRIOR, "--quiet")
    assert prior.status == 0, prior.err
    return path


def rollout(run, *words):
    return command("rollout", run, *words, "--quiet")


def frames_of(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_actions_go_with_the_codes_into_the_prior(run):
    signals, codes = Store.open(run / "data"), Store.open(run / "codes")
    assert signals.action_names == codes.action_names == ("left", "right", "wait")
    assert np.array_equal(signals.actions, codes.actions)
    tokenizer = load(run)
    assert tokenizer.actions == ("left", "right", "wait")
    assert tokenizer.learned.network.num_actions == 3


def test_it_writes_clips_a_strip_and_codes(run, data, tmp_path):
    words = [
        "--input",
        data,
        "--actions",
        "left*3 right",
        "--given",
        3,
        "--num",
        2,
        "--out",
        tmp_path / "out",
    ]
    result = rollout(run, *words)
    assert result.status == 0, result.err
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == ["00000.gif", "00000.mp4", "00001.gif", "00001.mp4", "codes.parquet", "strip.png"]
    info, batches = read_codes(tmp_path / "out" / "codes.parquet")
    drawn = np.concatenate([batch.codes for batch in batches])
    assert info.grid == (None, 4, 4)
    assert drawn.shape == (2, 2, 7, 4, 4)
    tokenizer = load(run)
    clip = torch.from_numpy(videos.walk(videos.random_walks(2, 9, seed=1)[0]).transpose(3, 0, 1, 2))
    (given,) = tokenizer.encode(clip[:, -3:].contiguous())
    assert np.array_equal(drawn[:, :, :3], given.numpy().repeat(2, 0))
    assert frames_of(tmp_path / "out" / "00000.mp4").shape == (7, 16, 16, 3)
    before = digests(tmp_path / "out")
    (tmp_path / "out" / "00001.gif").unlink()
    assert rollout(run, *words).status == 0
    assert digests(tmp_path / "out") == before


def test_equal_seeds_draw_equal_clips_and_actions_change_them(run, data, tmp_path):
    def codes(name, *words):
        assert rollout(run, "--input", data, *words, "--out", tmp_path / name).status == 0
        return next(read_codes(tmp_path / name / "codes.parquet")[1])[1]

    one = codes("one", "--actions", "left*5", "--seed", 3)
    assert np.array_equal(one, codes("two", "--actions", "left*5", "--seed", 3))
    assert not np.array_equal(one, codes("three", "--actions", "right*5", "--seed", 3))
    assert codes("free", "--frames", 5, "--item", 1, "--start", 2).shape == one.shape


def test_a_clip_without_actions_is_gone_on_from(run, tmp_path):
    clip = videos.save(tmp_path / "clip", videos.moving(8, 16, 16))
    result = rollout(run, "--input", clip, "--actions", "wait*2", "--num", 1, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    assert next(read_codes(tmp_path / "out" / "codes.parquet")[1])[1].shape == (1, 2, 8, 4, 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--actions", "jump*3"), "expected an action of this model, received 'jump': the actions are left,"),
        (("--actions", "left*"), "expected actions such as 'forward*10 left*3', received 'left*'"),
        (("--actions", "left", "--frames", 3), "expected --actions or --frames, received both"),
        (("--frames", 0), "expected --frames of at least 1, received 0"),
        (("--given", 10), "expected 10 context frames"),
        (("--given", 0), "expected --num and --given of at least 1"),
        (("--start", 8), "lower --given or --start"),
        (("--item", 2), "expected --item from 0 to 1"),
        (("--split", "validation"), "expected a split of"),
        (("--top-p", 0), "expected top_p above 0"),
        (("--prior", "other"), "expected a learned prior of this run, received 'other'"),
        (("--frames", 2, "--guidance", 2), "expected a class, actions or another id condition"),
    ],
)
def test_bad_input(run, data, tmp_path, words, sentence):
    result = rollout(run, "--input", data, *words, "--out", tmp_path / "out")
    assert result.status == 2
    assert sentence in result.err
    assert not (tmp_path / "out").exists()


def test_guidance_draws_other_clips_in_a_folder_of_their_own(run, data, tmp_path):
    words = ["--input", data, "--actions", "left*2", "--given", 3, "--num", 8, "--out"]
    assert rollout(run, *words, tmp_path / "free").status == 0
    for _ in range(2):
        assert rollout(run, *words, tmp_path / "guided", "--guidance", 8).status == 0
    free, guided = (next(read_codes(tmp_path / n / "codes.parquet")[1])[1] for n in ("free", "guided"))
    assert not np.array_equal(free, guided)
    assert rollout(run, *words, tmp_path / "free", "--guidance", 8).status == 2
    play = [
        "play",
        run,
        "--input",
        data,
        "--frames",
        1,
        "--given",
        3,
        "--quiet",
        "--out",
        tmp_path / "played",
    ]
    assert command(*play, "--guidance", 8).status == 0
    assert command(*play).status == 2


def test_a_prior_without_guidance_continues_clips(run):
    class Plain(LearnedPrior):
        def sample_grids(self, num, conditions=NO_CONDITIONS, *, grid=None, given=None, **settings):
            assert "guidance" not in settings
            return super().sample_grids(num, conditions, grid=grid, given=given, **settings)

    tokenizer = load(run)
    (given,) = tokenizer.encode(torch.zeros(3, 4, 16, 16, dtype=torch.uint8))
    tokenizer.learned.__class__ = Plain
    assert tokenizer.rollout(given, ["left"]).shape[2] == 5


def test_codes_that_do_not_fit_are_refused(run):
    tokenizer = load(run)
    (given,) = tokenizer.encode(torch.zeros(3, 4, 16, 16, dtype=torch.uint8))
    for call in (
        lambda: tokenizer.rollout(given[0], ["left"]),
        lambda: tokenizer.rollout(given, []),
        lambda: tokenizer.rollout(given, ["left"], ["left"]),
        lambda: tokenizer.rollout(given, ["left"], num=0),
    ):
        with pytest.raises(InputError, match=r"expected .*, received"):
            call()


def test_a_run_of_pictures_is_refused(tmp_path, data):
    run = tmp_path / "pictures"
    assert (
        command("train", "frames", "--data", data, "--out", run, *TINY_WALKS[:4], "num_codes=4").status == 0
    )
    result = rollout(run, "--input", data, "--out", tmp_path / "out")
    assert result.status == 2
    assert "expected a run over clips" in result.err


def test_clips_whose_actions_do_not_fit_are_skipped_and_named(tmp_path):
    for name in ("one", "two", "three"):
        videos.save(tmp_path / "data" / name, videos.moving(6, 16, 16), videos.LOSSLESS)
    table = "file_name,actions\none.mkv,go*6\ntwo.mkv,go*5\nthree.mkv,stop*6\n"
    (tmp_path / "data" / "metadata.csv").write_text(table)
    result = command("train", "walks", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY_WALKS)
    assert result.status == 0, result.err
    assert "two.mkv: it has 5 actions for 6 frames" in " ".join(result.err.split())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["actions"] == ["go", "stop"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    videos.save_episodes(folder / "data" / "train.parquet", videos.random_walks(8, 18))
    videos.save_episodes(folder / "data" / "test.parquet", videos.random_walks(3, 20, seed=1))
    words = ("reproduce", "video", "--budget", "tiny", "--data", folder / "data", "--out", folder / "out")
    result = command(*words)
    assert result.status == 0, result.err
    return folder / "out" / "video-tiny", words


def test_records_of_what_actions_are_worth_and_how_long_it_holds(study):
    folder, _ = study
    records = read_records(folder / "records.jsonl")
    entries = [record.get("entry") for record in records]
    horizons = ("true actions", "no actions", "true actions, guided", "last frame repeated", "reconstructed")
    drawn = ["rollouts", "guided rollouts"]
    assert entries == [None] * 3 + ["actions", "judge", *drawn, *(f"horizon, {h}" for h in horizons)]
    metrics = {record.get("entry"): record["metrics"] for record in records}
    worth = metrics["actions"]
    assert worth["gain_over_none"] == pytest.approx(worth["nats_none"] - worth["nats_true"], abs=1e-4)
    assert worth["num"] == 3
    assert metrics["rollouts"]["num"] == metrics["guided rollouts"]["num"] == 9
    guided = {record["entry"]: record["guidance"] for record in records if "guidance" in record}
    assert guided == {"guided rollouts": 3, "horizon, true actions, guided": 3}
    assert metrics["judge"]["num"] == 3 * 15
    for entry in ("judge", *drawn):
        assert 0 <= metrics[entry]["action_accuracy"] <= 1
        assert 0 <= metrics[entry]["pair_accuracy"] <= 1
    controls = {record["entry"]: record for record in records if record["model"].startswith("control: ")}
    assert list(controls) == ["judge", "horizon, last frame repeated", "horizon, reconstructed"]
    for record in records:
        stages = [stage["prior"] for stage in record["stages"]]
        is_learned = record["prior"] == "learned"
        nothing = record.get("entry") == "horizon, last frame repeated"
        assert stages == ([] if nothing else [None, "learned"] if is_learned else [None])
        assert record["measured_at"]
        if is_learned:
            assert record["config"]["prior"]["network"]["kind"] == "frame_pixelcnn"
            assert record["config"]["prior"]["training"]["steps"] == 3
    for entry in entries[7:]:
        assert len(metrics[entry]["psnr"]) == len(metrics[entry]["sharpness"]) == 10
    repeated = metrics["horizon, last frame repeated"]
    assert repeated["sharpness"] == pytest.approx([1] * 10, abs=0.4)
    for record in records:
        assert (record["experiment"], record["split"], record["budget"]) == ("video", "test", "tiny")
        assert str(folder.parent) not in json.dumps(record)


def test_windows_are_compared_with_thoseof_another_clip():
    for clips in ([0, 0, 1, 1], [0, 0, 0, 0, 1], [3, 5, 5, 9, 9, 9]):
        other = of_another_clip(np.array(clips))
        assert all(clips[window] != clips[place] for window, place in enumerate(other.tolist()))


def test_stretches_are_those_under_one_action():
    actions = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [1, 0, 1, 0, 1, 0, 0, 1, 1]])
    assert stretches(actions) == [(0, 0, 3), (0, 5, 9)]


def test_the_same_clip_and_unknown_or_missing_actions_are_no_trouble(tmp_path):
    """Clips of unequal length, of which one has windows whose actions are not known and none turns right."""
    videos.save_episodes(tmp_path / "data" / "train.parquet", videos.random_walks(8, 18))
    walks = [["left", "wait"] * 18, ["wait", "left"] * 9, ["left"] * 16]
    file = videos.save_episodes(tmp_path / "data" / "test.parquet", walks)
    table = pq.read_table(file)
    actions = table["action"].to_pylist()
    actions[1] = None
    at = table.schema.get_field_index("action")
    pq.write_table(table.set_column(at, "action", pa.array(actions, pa.int64())), file)
    words = ("--data", tmp_path / "data", "--budget", "tiny", "--out", tmp_path / "out")
    result = command("reproduce", "video", *words)
    assert result.status == 0, result.err
    records = read_records(tmp_path / "out" / "video-tiny" / "records.jsonl")
    judged = next(record["metrics"] for record in records if record.get("entry") == "judge")
    # Of the first clip one window of five is left out.
    assert judged["num"] == 15 * (4 + 1 + 1)
    assert "of_right" not in judged


def test_held_out_clips_that_are_too_short_are_refused_before_anything_is_trained(tmp_path):
    videos.save_episodes(tmp_path / "data" / "train.parquet", videos.random_walks(8, 18))
    videos.save_episodes(tmp_path / "data" / "test.parquet", videos.random_walks(4, 15))
    words = ("--data", tmp_path / "data", "--budget", "tiny", "--out", tmp_path / "out")
    result = command("reproduce", "video", *words)
    assert result.status == 2
    assert "expected at least two held-out clips with 16 frames of known actions" in result.err
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_the_page_has_its_clips_and_nothing_outside(study):
    folder, _ = study
    page = (folder / "seed0" / "index.html").read_text()
    assert page.count("data:image/gif;base64,") == 3 * 5 + 6
    assert page.count("data:image/png;base64,") == 2 + 3
    assert "http" not in page


def test_again_it_trains_nothing(study):
    folder, words = study
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(before) >= 2
    assert command(*words).status == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == before


def test_data_without_actions_is_refused(tmp_path):
    for split, num in (("train", 3), ("test", 2)):
        for index in range(num):
            videos.save(tmp_path / "data" / split / str(index), videos.moving(18, 16, 16), videos.LOSSLESS)
    words = ("--data", tmp_path / "data", "--budget", "tiny", "--out", tmp_path / "out")
    result = command("reproduce", "video", *words)
    assert result.status == 2
    assert "expected clips with actions to reproduce video" in result.err
    assert not (tmp_path / "out").exists()


def test_play_shows_each_action(run, data, tmp_path):
    out = tmp_path / "played"
    result = command("play", run, "--input", data, "--out", out, "--frames", 3, "--given", 4)
    assert result.status == 0, result.err
    names = {f"{name}{ending}" for name in videos.STEPS for ending in (".mp4", ".gif")}
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {*names, "actions.png"}
    clips = {name: frames_of(out / f"{name}.mp4") for name in videos.STEPS}
    assert all(clip.shape == (4, 16, 16, 3) for clip in clips.values()), "the last given frame, and three new"
    before = digests(out)
    assert command("play", run, "--input", data, "--out", out, "--frames", 3, "--given", 4).status == 0
    assert digests(out) == before
    other = command("play", run, "--input", data, "--out", out, "--frames", 4, "--given", 4)
    assert other.status == 2


def test_play_refuses_bad_input(run, data, trained, tmp_path):
    for words, sentence in [
        ([run, "--frames", 0], "--frames and --given of at least 1"),
        ([run, "--given", 30], "lower --given"),
        ([trained], "train walks"),
    ]:
        result = command("play", words[0], "--input", data, "--out", tmp_path / "no", *words[1:])
        assert result.status == 2
        assert sentence in result.err
        assert not (tmp_path / "no").exists()
