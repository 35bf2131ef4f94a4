"""From the command line: models beside the VQ-VAE, several priors, beginning with another run's weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import smalti as package
from smalti.app.cli import main
from smalti.app.commands.train_prior import train_prior
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.data.store import Store
from smalti.models.vae import VAE
from smalti.models.vimco import VIMCO
from smalti.priors.autoregressive import LearnedPrior
from smalti.stored_priors import prior_directory
from smalti.trained import TrainedModel
from tests.runs import TINY_PRIOR, TRAINING, WIDTHS, Result, digests

Smalti = Callable[..., Result]
Mistake = Callable[..., str]

NETWORKS = ["size=16", *WIDTHS, "model.likelihood.kind=logistic_mixture", "components=2"]
# Another kind keeps the networks that were asked for before it.
SETTINGS = {
    "vae": [*NETWORKS, "model.kind=vae", "latent_dim=3", *TRAINING],
    "vimco": [*NETWORKS, "model.kind=vimco", "num_codes=16", "code_dim=4", "num_samples=4", *TRAINING],
}
KINDS = pytest.mark.parametrize("kind", SETTINGS)


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind, made by the entry point. They are shared: a test that changes one copies it."""
    folder = tmp_path_factory.mktemp("models")
    for kind, settings in SETTINGS.items():
        words = ["train", "image", "--data", pictures, "--out", folder / kind, "--quiet", *settings]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(sys, "argv", ["smalti", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
        assert not ended.value.code
    train_prior(folder / "vimco", TINY_PRIOR, quiet=True)
    return {kind: folder / kind for kind in SETTINGS}


@pytest.fixture
def vimco(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of VIMCO's run, to change."""
    return Path(shutil.copytree(runs["vimco"], tmp_path / "vimco"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_equal_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(theirs[name], tensor)] == []


# Both kinds


@KINDS
def test_what_a_run_holds(kind: str, runs: dict[str, Path], smalti: Smalti) -> None:
    trained = TrainedModel.load(runs[kind])
    assert type(trained.model) is {"vae": VAE, "vimco": VIMCO}[kind]
    assert not trained.model.training
    model = trained.recipe.model
    assert model.encoder.channels == model.decoder.channels == 8
    assert model.likelihood.model_dump() == {"kind": "logistic_mixture", "components": 2}
    files = set(digests(runs[kind]))
    assert {"figures/reconstructions.png", "figures/learning_curves.png"} <= files
    of_codes = {"figures/codes.png", "figures/usage.png", "unigram.json"}
    assert files & of_codes == (of_codes if kind == "vimco" else set())
    records = [json.loads(line) for line in (runs[kind] / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["split"] == "train":
            terms = {"vae": "rate_bits_per_dim", "vimco": "bits_per_dim"}
            assert record[terms[kind]] > 0
        else:
            assert {"bits_per_dim", "distortion_bits_per_dim", "psnr"} <= set(record)
            assert ("usage" in record) == (kind == "vimco")
    assert {record["split"] for record in records} == {"train", "validation"}


@KINDS
def test_training_goes_on_bit_for_bit(
    kind: str, runs: dict[str, Path], pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    """The draws of a step are a function of the seed and the step."""

    def words(name: str, steps: int) -> list[object]:
        out = ["--out", tmp_path / name, "--quiet"]
        last = ["training.schedule=constant", f"training.steps={steps}"]
        return ["train", "image", "--data", pictures, *out, *SETTINGS[kind], *last]

    for name, steps in (("whole", 8), ("stopped", 5), ("stopped", 8)):
        assert smalti(*words(name, steps)) == Result(0, "", "")
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


@KINDS
def test_begin_with_the_weights_of_another_run(
    kind: str, runs: dict[str, Path], pictures: Path, tmp_path: Path, smalti: Smalti, mistake: Mistake
) -> None:
    # So slow that the weights stay where they begin.
    slow = ["training.steps=2", "training.learning_rate=1e-30", "training.weight_ema=0"]

    def words(*further: object, name: str = "new") -> list[object]:
        command = ["train", "image", "--data", pictures, "--out", tmp_path / name]
        return [*command, *further, *SETTINGS[kind], *slow]

    start = runs[kind]
    assert smalti(*words("--from", start), "--quiet").status == 0
    assert_equal_weights(start, tmp_path / "new")
    fingerprint = TrainedModel.load(start, load_priors=False).fingerprint
    assert json.loads((tmp_path / "new" / "config.json").read_text())["start"] == fingerprint
    assert smalti(*words(name="unstarted"), "--quiet").status == 0
    assert any(
        not torch.equal(tensor, weights(start)[n]) for n, tensor in weights(tmp_path / "unstarted").items()
    )

    # The same command goes on with it; another beginning is another run.
    assert smalti(*words("--from", start), "--quiet", "training.steps=3").status == 0
    before = digests(tmp_path / "new")
    assert f"began from {fingerprint}, received --from nothing" in mistake(*words(), "training.steps=3")
    other = words("--from", tmp_path / "unstarted")
    assert "received --from" in mistake(*other, "training.steps=3")
    assert digests(tmp_path / "new") == before


def test_weights_that_do_not_fit_are_not_begun_with(
    runs: dict[str, Path], trained: Path, pictures: Path, tmp_path: Path, mistake: Mistake
) -> None:
    words = ["train", "image", "--data", pictures, "--out", tmp_path / "new"]
    for start in (trained, runs["vimco"]):
        message = mistake(*words, "--from", start, *SETTINGS["vae"])
        assert "with other settings" in message
        assert str(start) in message
    assert "found nothing at" in mistake(*words, "--from", tmp_path / "nowhere", *SETTINGS["vae"])
    assert not (tmp_path / "new").exists()


# Without codes


def test_evaluate_a_vae(runs: dict[str, Path], pictures: Path, tmp_path: Path, smalti: Smalti) -> None:
    run = Path(shutil.copytree(runs["vae"], tmp_path / "vae"))
    result = smalti("evaluate", run, "--data", pictures, "--json")
    assert result.status == 0
    report = json.loads(result.out)
    assert report == json.loads((run / "evaluation.json").read_text())
    assert report["title"] == "VAE"
    rows = report["bits_per_dim"]
    assert list(rows) == ["normal", "normal, 50 draws"]
    assert rows["normal, 50 draws"]["bits_per_dim"] < rows["normal"]["bits_per_dim"]
    for row in rows.values():
        assert row["rate"] + row["distortion"] == pytest.approx(row["bits_per_dim"], rel=1e-6)
        assert "nats_per_code" not in row
    assert report["codebook"] == {}
    assert "50 draws" in report["protocol"]["bits_per_dim"]
    assert not (run / "figures" / "usage_evaluation.png").exists()
    assert (run / "figures" / "reconstructions_evaluation.png").is_file()
    assert json.loads(smalti("evaluate", run, "--data", pictures, "--json").out) == report

    # As tables, with fewer draws.
    tables = smalti("evaluate", run, "--data", pictures, "--quiet", "--draws", 3)
    assert tables.status == 0
    assert "normal, 3 draws" in tables.out
    report = json.loads((run / "evaluation.json").read_text())
    assert f"{report['bits_per_dim']['normal']['rate']:.4f}" in tables.out
    one = json.loads(smalti("evaluate", run, "--data", pictures, "--json", "--draws", 1).out)
    assert list(one["bits_per_dim"]) == ["normal"]
    assert smalti("evaluate", run, "--data", pictures, "--draws", 0).status == 2

    text = smalti("inspect", run).out
    for line in ("model       VAE, ", "codes       none", "priors      built into", "bits/dim normal "):
        assert line in text


def test_a_vae_is_no_tokenizer(
    runs: dict[str, Path], pictures: Path, trained: Path, tmp_path: Path, mistake: Mistake, smalti: Smalti
) -> None:
    run, out = runs["vae"], tmp_path / "out"
    codes = tmp_path / "codes.parquet"
    assert smalti("encode", trained, "--data", pictures, "--out", codes, "--quiet").status == 0
    before = digests(run)
    picture = next(pictures.rglob("*.png"))
    for words in (
        ["encode", run, "--data", pictures, "--out", out],
        ["decode", run, codes, "--out", out],
        ["reconstruct", run, picture, "--out", out],
        ["sample", run, "--out", out],
        ["train-prior", run, *TINY_PRIOR],
        ["train-prior", run, "--name", "other", *TINY_PRIOR],
    ):
        message = mistake(*words)
        assert "expected a model with codes" in message
        assert str(run) in message
        assert "VAE" in message
    assert not out.exists()
    assert digests(run) == before
    with pytest.raises(InputError, match="expected a model with codes"):
        package.load(run)


# With codes


def test_evaluate_vimco(vimco: Path, pictures: Path, smalti: Smalti) -> None:
    report = json.loads(smalti("evaluate", vimco, "--data", pictures, "--json").out)
    assert report["title"] == "VIMCO, 4 samples"
    rows = report["bits_per_dim"]
    priors = ["uniform", "unigram", "learned", "learned+class"]
    assert list(rows) == [name for prior in priors for name in (prior, f"{prior}, 50 draws")]
    for prior in priors:
        assert rows[f"{prior}, 50 draws"]["bits_per_dim"] < rows[prior]["bits_per_dim"]
        assert rows[prior]["distortion"] == rows["uniform"]["distortion"]
    # ln q / p of 16 codes out of 16 is at most what a code costs that is known for certain.
    assert 0 < rows["uniform"]["rate"] <= 16 * 4 / 768
    assert report["codebook"]["usage"] > 0
    text = smalti("inspect", vimco).out
    for line in ("model       VIMCO, 4 samples, ", "bits/dim uniform ", "uniform, 50 draws "):
        assert line in text


def test_vimco_is_a_tokenizer(vimco: Path, pictures: Path, tmp_path: Path, smalti: Smalti) -> None:
    codes, out = tmp_path / "codes.parquet", tmp_path / "decoded"
    assert smalti("encode", vimco, "--data", pictures, "--out", codes).status == 0
    tokenizer = package.load(vimco)
    (first, *_) = pq.read_table(codes).to_pylist()
    assert first["codes"] == tokenizer.encode(pictures / first["name"]).flatten().tolist()
    assert smalti("decode", vimco, codes, "--out", out).status == 0
    assert len(list(out.rglob("*.png"))) == 40
    for name in ("one", "two"):
        words = ["sample", vimco, "--num", 3, "--out", tmp_path / name, "--class", "cat", "--seed", 5]
        assert smalti(*words).status == 0
    assert digests(tmp_path / "one")["00002.png"] == digests(tmp_path / "two")["00002.png"]
    picture = next(pictures.rglob("*.png"))
    assert smalti("reconstruct", vimco, picture, "--out", tmp_path / "again").status == 0
    assert tokenizer.learned is not None


def test_priors_of_vimco_learn_from_draws_of_the_posterior(runs: dict[str, Path]) -> None:
    """And not from the most probable codes, whose distribution another prior would fit."""
    trained = TrainedModel.load(runs["vimco"])
    model = trained.model
    assert isinstance(model, Autoencoder)
    data, codes = (Store.open(runs["vimco"] / name).signals for name in ("data", "codes"))
    x = trained.modality.to_model(torch.from_numpy(data))
    stored = torch.from_numpy(codes).long()
    seed = trained.recipe.training.seed
    drawn = model.draw_codes(x, torch.Generator().manual_seed(seed))
    assert torch.equal(stored, drawn)
    assert not torch.equal(stored, model.encode(x))
    assert trained.unigram is not None
    assert trained.unigram.counts.sum() == 38 * 16  # two of 40 items are held out


# Several priors


@pytest.fixture
def with_two(run: Path, smalti: Smalti) -> Path:
    """A run with a second prior, smaller than the first."""
    words = ["train-prior", run, "--name", "small", *TINY_PRIOR, "network.layers=1", "--quiet"]
    assert smalti(*words) == Result(0, "", "")
    return run


def test_a_named_prior_is_evaluated_beside_the_first(
    with_two: Path, pictures: Path, trained: Path, smalti: Smalti
) -> None:
    assert digests(with_two / "prior") == digests(trained / "prior")
    report = json.loads(smalti("evaluate", with_two, "--data", pictures, "--json").out)
    rows = report["bits_per_dim"]
    assert list(rows) == ["uniform", "unigram", "learned", "learned+class", "small", "small+class"]
    assert rows["small"]["bits_per_dim"] != rows["learned"]["bits_per_dim"]
    assert (
        "priors      uniform, unigram, learned, learned+class, small, small+class"
        in smalti("inspect", with_two).out
    )
    small = TrainedModel.load(with_two).learned["small"]
    assert isinstance(small, LearnedPrior)
    assert len(list(small.parameters())) < len(
        list(TrainedModel.load(with_two).learned["learned"].parameters())
    )


def test_a_named_prior_is_sampled_from(
    with_two: Path, tmp_path: Path, smalti: Smalti, mistake: Mistake
) -> None:
    words = ["sample", with_two, "--num", 4, "--seed", 3, "--quiet"]
    for name, further in (
        ("first", []),
        ("learned", ["--prior", "learned"]),
        ("small", ["--prior", "small"]),
    ):
        assert smalti(*words, "--out", tmp_path / name, *further) == Result(0, "", "")
    codes = {
        name: pq.read_table(tmp_path / name / "codes.parquet")["codes"].to_pylist()
        for name in ("first", "learned", "small")
    }
    assert codes["first"] == codes["learned"]
    assert codes["first"] != codes["small"]
    drawn = package.load(with_two).sample_codes(4, seed=3, prior="small")
    assert codes["small"] == drawn.flatten(1).tolist()
    message = mistake("sample", with_two, "--out", tmp_path / "none", "--prior", "big")
    assert "received 'big'" in message
    assert not (tmp_path / "none").exists()


def test_a_named_prior_goes_on_and_is_of_its_run(with_two: Path, smalti: Smalti, mistake: Mistake) -> None:
    before = digests(with_two / "prior-small")
    same = [*TINY_PRIOR, "network.layers=1"]
    assert smalti("train-prior", with_two, "--name", "small", *same, "--quiet").status == 0
    assert digests(with_two / "prior-small")["model.safetensors"] == before["model.safetensors"]
    message = mistake("train-prior", with_two, "--name", "small", *TINY_PRIOR)
    assert "network.layers=1, received 2" in message
    config = json.loads((with_two / "prior-small" / "config.json").read_text())
    config["autoencoder"] = "0123456789abcdef"
    (with_two / "prior-small" / "config.json").write_text(json.dumps(config))
    assert f"remove {with_two / 'prior-small'}" in smalti("inspect", with_two).out


@pytest.mark.parametrize("name", ["uniform", "unigram", "a/b", "", "learned+class", "two words", "../x"])
def test_names_that_no_prior_may_have(name: str, run: Path, mistake: Mistake) -> None:
    before = digests(run.parent)
    message = mistake("train-prior", run, "--name", name, *TINY_PRIOR)
    assert f"received {name!r}" in message
    assert digests(run.parent) == before


def test_a_transformer_beside_the_convolutional_prior(
    run: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    network = ["network.kind=transformer", "network.channels=8", "network.layers=1", "network.heads=2"]
    words = ["train-prior", run, "--name", "transformer", *network, *TRAINING, "--quiet"]
    assert smalti(*words) == Result(0, "", "")
    report = json.loads(smalti("evaluate", run, "--data", pictures, "--json").out)
    assert "transformer+class" in report["bits_per_dim"]
    out = ["--out", tmp_path / "samples", "--prior", "transformer"]
    assert smalti("sample", run, "--num", 2, *out, "--quiet") == Result(0, "", "")


def test_a_prior_begins_with_that_of_another_run(
    run: Path, trained: Path, tmp_path: Path, smalti: Smalti, mistake: Mistake
) -> None:
    own, start = prior_directory(run, "learned"), prior_directory(trained, "learned")
    shutil.rmtree(own)
    shutil.rmtree(run / "codes")
    slow = ["training.learning_rate=1e-30", "training.weight_ema=0"]
    words = ["train-prior", run, *TINY_PRIOR, *slow]
    assert "with other settings" in mistake(*words, "--from", trained, "network.channels=12")
    assert "found nothing at" in mistake(*words, "--from", tmp_path / "nowhere")
    assert not own.exists()
    assert not (run / "codes").exists()
    assert smalti(*words, "--from", trained, "training.steps=2", "--quiet").status == 0
    for name, tensor in load_file(start / "model.safetensors").items():
        torch.testing.assert_close(load_file(own / "model.safetensors")[name], tensor)
    assert json.loads((own / "config.json").read_text())["start"]
    # The same command goes on with it; another beginning is another prior.
    assert smalti(*words, "--from", trained, "training.steps=3", "--quiet").status == 0
    assert "choose another --name, or use the same --from" in mistake(*words, "training.steps=3")
    other = smalti(*words, "--name", "other", "--from", trained, "training.steps=1")
    assert other.status == 0, other
    assert "other weights" not in other.err
