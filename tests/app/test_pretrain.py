"""The recipe `units`: an encoder that is trained before its autoencoder, and then stays as it is."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti.app import pretraining as pretrain
from smalti.tokenizer import load
from tests import sounds
from tests.runs import Result, digests
from tests.speech_runs import PhoneRun

Smalti = Callable[..., Result]
FROZEN = ("encoder.", "quantizer.")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str = "") -> None:
    chosen = [name for name in one if name.startswith(prefix)]
    assert chosen
    assert one.keys() == other.keys()
    for name in chosen:
        assert torch.equal(one[name], other[name]), name


def begin(units: PhoneRun, out: Path, *more: str) -> list[object]:
    return ["train", "units", "--data", units.data, "--out", out, *sounds.UNITS, "--quiet", *more]


def test_a_run_holds_both_stages(units: PhoneRun) -> None:
    own = json.loads((units.path / "pretraining" / "config.json").read_text())
    assert own["kind"] == "pretraining"
    assert own["recipe"]["task"]["num_clusters"] == 8
    lines = (units.path / "pretraining" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    found, learned = weights(units.path), load_file(units.path / "pretraining" / "model.safetensors")
    for name, tensor in learned.items():
        if name.startswith(("network.", "voice.")):
            assert torch.equal(found[f"encoder.{name}"], tensor), name
    assert found["encoder.voice.is_fitted"].item()
    assert found["encoder.network.hidden"].any(), "what is hidden was learned"
    codes = found["quantizer.codebook.codes"]
    assert codes.shape == (1, 16, 6)
    assert len(codes[0].unique(dim=0)) == 16


def test_fewer_steps_and_then_more_are_the_steps_at_once(
    units: PhoneRun, smalti: Smalti, tmp_path: Path
) -> None:
    """And the encoder and the codebook are bit by bit what they were when the second stage began."""
    run = tmp_path / "run"
    assert smalti(*begin(units, run, "training.steps=3")).status == 0
    before = weights(run)
    assert smalti(*begin(units, run)).status == 0
    after, at_once = weights(run), weights(units.path)
    for prefix in FROZEN:
        assert_same(before, after, prefix)
    decoder = [name for name in after if name.startswith("decoder.")]
    assert all(not torch.equal(before[name], after[name]) for name in decoder)
    assert_same(after, at_once)


class Killed(BaseException):
    """Nobody catches it."""


def test_a_kill_in_the_first_stage_is_made_good(
    units: PhoneRun, smalti: Smalti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    @contextlib.contextmanager
    def watching(*_: object) -> Iterator[Callable[..., None]]:
        def watch(step: int, values: dict[str, float]) -> None:
            if step == 3:
                raise Killed

        yield watch

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "watching", watching)
        with pytest.raises(Killed):
            smalti(*begin(units, run))
    assert list((run / "pretraining" / "state").glob("step-*2*")), "the checkpoint of step 2 is there"
    assert not (run / "model.safetensors").exists()
    result = smalti("inspect", run)
    assert result.status == 2
    assert "model.safetensors" in result.err
    assert smalti(*begin(units, run)).status == 0
    assert_same(weights(run), weights(units.path))
    steps = [
        json.loads(line)["step"] for line in (run / "pretraining/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 4]


def test_the_codes_of_the_run_can_be_learned_and_drawn(
    units: PhoneRun, smalti: Smalti, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(units.path, tmp_path / "run"))
    result = smalti("train-prior", run, *sounds.PRIOR, "--quiet")
    assert result.status == 0, result.err
    assert smalti("sample", run, "--num", 2, "--length", 9, "--out", tmp_path / "drawn").status == 0
    assert len(list((tmp_path / "drawn").glob("0*.wav"))) == 2
    result = smalti("evaluate", run, "--data", units.data, "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["num"] == 16
    assert list(report["bits_per_dim"]) == ["uniform", "unigram", "learned", "learned+class"]
    tokenizer, file = load(run, "cpu"), units.data / "cid" / "21.wav"
    (wave,) = tokenizer.reconstruct(file)
    frames = tokenizer.modality.decode(file).shape[1]
    assert wave.shape[-1] == frames * 160
    assert 0 < wave.abs().max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        "model.encoder.kind=conv",
        "model.quantizer.codebook.kind=ema",
        "model.quantizer.num_codebooks=2",
        "model.kind=vae",
    ],
)
def test_other_parts_are_refused_before_anything_is_written(
    change: str, units: PhoneRun, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    message = mistake(*begin(units, tmp_path / "new")[:-1], change)
    assert "expected a VQ-VAE with encoder.kind=context and one frozen codebook" in message
    assert "received " in message
    assert not (tmp_path / "new").exists()


def test_what_the_first_stage_was_cannot_change(units: PhoneRun, mistake: Callable[..., str]) -> None:
    before = digests(units.path)
    for setting in ("pretraining.training.steps=9", "pretraining.task.warp=0.1"):
        assert f"received {setting.split('=')[1]}" in mistake(*begin(units, units.path)[:-1], setting)
    assert digests(units.path) == before
