"""`smalti reproduce lab` at the tiny budget, on made frames."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from smalti.studies.records import read_records
from smalti.studies.worlds.recipes import BUDGETS, lab_study
from tests.runs import command, smooth


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder of the experiment, its records, and the command."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    for split, num in (("train", 24), ("test", 20)):
        (folder / "data" / split).mkdir(parents=True)
        for index in range(num):
            smooth(rng, 24, 24).save(folder / "data" / split / f"{index:02d}.png")
    words = ("reproduce", "lab", "--budget", "tiny", "--data", folder / "data", "--out", folder / "out")
    result = command(*words)
    assert result.status == 0, result.err
    return folder / "out" / "lab-tiny", read_records(folder / "out" / "lab-tiny" / "records.jsonl"), words


def test_records_of_both_stages_the_control_and_what_the_codes_are_worth(lab):
    folder, records, _ = lab
    kinds = [(record["model"].split(", ")[-1], record["prior"]) for record in records]
    priors = ["uniform", "unigram", "learned"]
    assert kinds == [
        *[("frames", prior) for prior in priors],
        *[("second", prior) for prior in priors],
        ("control: VAE", "normal"),
        ("control: VAE", "normal, 10 draws"),
        ("second", None),
    ]
    for record in records:
        assert (record["experiment"], record["split"], record["metrics"]["num"]) == ("lab", "test", 20)
        assert record["steps"] == 3 * len(record["stages"])
        assert str(folder.parent) not in json.dumps(record)


def test_figures_agree_with_each_other(lab):
    _, records, _ = lab
    worth = records[-1]["metrics"]
    assert worth["rate_bits"] == 27
    assert worth["gain_bits"] == pytest.approx((worth["nats_none"] - worth["nats_true"]) / math.log(2))
    perplexities = [worth[f"perplexity_{index}"] for index in range(3)]
    assert all(1 <= perplexity <= 20 for perplexity in perplexities)
    second = next(r["metrics"] for r in records if r["model"].endswith("second"))
    assert sum(perplexities) / 3 == pytest.approx(second["perplexity"])
    # Near one, since nearly the same items are meant: `true` leaves the first out.
    assert worth["nats_true"] == pytest.approx(second["distortion_nats"], rel=0.02)
    for record in records[:-1]:
        metrics = record["metrics"]
        assert metrics["rate"] + metrics["distortion"] == pytest.approx(metrics["bits_per_dim"])
        if metrics.get("nats_per_code") is not None:
            positions = 36 if record["model"].endswith("frames") else 3
            assert metrics["rate_nats"] == pytest.approx(positions * metrics["nats_per_code"], rel=1e-5)


def test_the_page_stands_alone(lab):
    folder, _, _ = lab
    page = (folder / "seed0" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "27 bits per frame" in page


def test_again_it_trains_nothing(lab):
    folder, _, words = lab
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(before) >= 5
    assert command(*words).status == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == before


def test_a_kill_before_the_codes_are_counted_is_made_good(lab):
    folder, records, words = lab
    counts = folder / "seed0" / "second" / "unigram.json"
    before = counts.read_bytes()
    counts.unlink()
    assert command(*words).status == 0
    assert counts.read_bytes() == before
    again = read_records(folder / "records.jsonl")
    assert [record["metrics"] for record in again] == [record["metrics"] for record in records]


def test_codes_of_another_first_stage_are_not_gone_on_with(lab):
    """The last that looks at the folder, which it leaves changed."""
    folder, _, words = lab
    frames = folder / "seed0" / "frames"
    # As if it had been trained anew.
    weights = load_file(frames / "model.safetensors")
    save_file(
        {name: value * 1.5 if value.is_floating_point() else value for name, value in weights.items()},
        frames / "model.safetensors",
    )
    shutil.rmtree(frames / "prior")
    result = command(*words)
    assert result.status == 2
    assert "codes of the model" in result.err


def test_the_decoder_is_of_the_size_of_the_prior_that_knows_no_codes():
    for budget in BUDGETS:
        study = lab_study(budget)
        decoder = study.second.model.decoder
        assert decoder.kind == "pixelcnn"
        assert decoder.network == study.frames.prior.network
        assert study.control.model.decoder == decoder


def test_bad_input(tmp_path):
    for words, sentence in (
        ((), "expected data to reproduce lab"),
        (("--data", "letters", "--budget", "huge"), "expected a budget, received 'huge'"),
        (("--data", "letters", "--only", "frames"), "--part, --pretrain and --only do not apply to lab"),
    ):
        result = command("reproduce", "lab", *words, "--out", tmp_path / "out")
        assert result.status == 2
        assert sentence in result.err
