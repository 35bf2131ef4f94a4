"""A folder of sounds of every kind, two of them broken, through every verb."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from smalti.core.conditions import Conditions
from smalti.data.loader import split_indices
from smalti.data.packed import overhead, read_packed
from smalti.data.padding import padded
from smalti.data.store import Store
from smalti.tokenizer import Tokenizer, load
from tests.runs import Result, command, digests
from tests.sounds import CODE_BITS, HOP, NUM_CODES, RATE_HZ, SPEAKERS
from tests.speech_runs import BROKEN, SoundRun

Smalti = Callable[..., Result]


@dataclass(frozen=True)
class Codes:
    """The same codes as a table, as compact files, and as the tokenizer gives them, by the item's name.

    Attributes:
        table: a .parquet file.
        folder: of .smc files.
        results: what the two commands said.
        expected: `(n,)` of each item.
    """

    table: Path
    folder: Path
    results: list[Result]
    expected: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tokenizer(spoken: SoundRun) -> Tokenizer:
    return load(spoken.path, "cpu")


@pytest.fixture(scope="module")
def codes(spoken: SoundRun, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Codes:
    out = tmp_path_factory.mktemp("codes")
    targets = out / "codes.parquet", out / "packed"
    results = [command("encode", spoken.path, "--data", spoken.data, "--out", target) for target in targets]
    encoded = tokenizer.encode([spoken.data / name for name in spoken.lengths])
    return Codes(
        *targets, results, {n: e[0, 0].numpy() for n, e in zip(spoken.lengths, encoded, strict=True)}
    )


def assert_names_the_broken(text: str) -> None:
    assert "2 unreadable files were skipped" in text
    for name in BROKEN:
        assert f"{name}: " in text, name


def wav_of(name: str) -> str:
    return str(Path(name).with_suffix(".wav"))


def samples(path: Path) -> np.ndarray:
    """The one channel of a file at the run's rate."""
    wave, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == RATE_HZ
    assert wave.ndim == 1
    return wave


def test_training_reads_23_and_names_2(spoken: SoundRun) -> None:
    assert_names_the_broken(spoken.printed)
    assert len(spoken.lengths) == 23
    assert "22 items" in spoken.printed  # one is held out
    index = json.loads((spoken.path / "data" / "index.json").read_text())
    assert {entry["name"] for entry in index["skipped"]} == set(BROKEN)
    config = json.loads((spoken.path / "config.json").read_text())
    assert config["classes"] == sorted(SPEAKERS)
    figures = {path.name for path in (spoken.path / "figures").iterdir()}
    assert {"reconstructions.png", "learning_curves.png", "codes.png", "usage.png"} <= figures
    assert (spoken.path / "prior" / "figures" / "samples.png").is_file()


def test_all_files_of_codes_hold_what_the_tokenizer_gives(codes: Codes, spoken: SoundRun) -> None:
    for result in codes.results:
        assert result.status == 0, result.err
        assert_names_the_broken(result.err)
    table = pq.read_table(codes.table)
    rows = dict(zip(table["name"].to_pylist(), table["codes"].to_pylist(), strict=True))
    packed = {one.info.name: one for one in map(read_packed, codes.folder.rglob("*.smc"))}
    assert rows.keys() == packed.keys() == codes.expected.keys()
    for name, expected in codes.expected.items():
        assert len(expected) == math.ceil(spoken.lengths[name] / HOP), name
        np.testing.assert_array_equal(rows[name], expected, err_msg=name)
        np.testing.assert_array_equal(packed[name].codes, expected[None], err_msg=name)
        assert packed[name].info.size == (spoken.lengths[name],)
        assert packed[name].info.label == Path(name).parent.name
    assert len({tuple(each) for each in codes.expected.values()}) > 10, "the codes say something"


def test_a_compact_file_is_as_small_as_its_codes_and_the_rate_is_theirs(
    codes: Codes, spoken: SoundRun
) -> None:
    size = bits = 0
    for file in codes.folder.rglob("*.smc"):
        info = read_packed(file).info
        of_item = CODE_BITS * len(codes.expected[info.name])
        assert file.stat().st_size - overhead(info) == math.ceil(of_item / 8)
        bits += of_item
        size += file.stat().st_size
    seconds = sum(spoken.lengths.values()) / RATE_HZ
    said = re.search(
        r"(\d+) bits of codes, ([\d.]+) bit/s, (\d+) bytes", " ".join(codes.results[1].err.split())
    )
    assert said, codes.results[1].err
    assert int(said[1]) == bits
    assert float(said[2]) == pytest.approx(bits / seconds, abs=0.05)
    assert int(said[3]) == size


def test_one_item_to_one_compact_file(codes: Codes, spoken: SoundRun, smalti: Smalti, tmp_path: Path) -> None:
    file, out = spoken.data / "ben" / "12.ogg", tmp_path / "deep" / "one.smc"
    result = smalti("encode", spoken.path, "--data", file, "--out", out)
    assert result.status == 0, result.err
    packed = read_packed(out)
    np.testing.assert_array_equal(packed.codes[0], codes.expected["ben/12.ogg"])
    assert (packed.info.name, packed.info.label) == ("12.ogg", None)
    assert packed.info.num_codes == NUM_CODES
    assert packed.info.units is not None
    assert packed.info.units.seconds == pytest.approx(spoken.lengths["ben/12.ogg"] / RATE_HZ)

    assert smalti("decode", spoken.path, out, "--out", tmp_path / "decoded", "--quiet").status == 0
    (decoded,) = (tmp_path / "decoded").glob("[!.]*")
    assert decoded.name == "12.wav"
    assert len(samples(decoded)) == spoken.lengths["ben/12.ogg"]


def test_decoding_loses_no_file_and_no_sample(
    codes: Codes, spoken: SoundRun, smalti: Smalti, tmp_path: Path
) -> None:
    for given, length_of in (
        (codes.folder, lambda name: spoken.lengths[name]),
        # A table does not say where the last code's stretch ends.
        (codes.table, lambda name: len(codes.expected[name]) * HOP),
    ):
        out = tmp_path / given.stem
        result = smalti("decode", spoken.path, given, "--out", out, "--quiet")
        assert result.status == 0, result.err
        found = {str(path.relative_to(out)) for path in out.rglob("[!.]*") if path.is_file()}
        assert found == {wav_of(name) for name in spoken.lengths}
        for name in spoken.lengths:
            assert len(samples(out / wav_of(name))) == length_of(name), name
    for name in spoken.lengths:
        whole, cut = (samples(tmp_path / given / wav_of(name)) for given in ("codes", "packed"))
        np.testing.assert_array_equal(whole[: len(cut)], cut)


def test_the_seed_the_speaker_and_the_temperature_of_what_is_decoded(
    codes: Codes, spoken: SoundRun, smalti: Smalti, tmp_path: Path
) -> None:
    file = codes.folder / "anna" / "02.smc"

    def decoded(name: str, *options: object) -> np.ndarray:
        result = smalti("decode", spoken.path, file, "--out", tmp_path / name, "--quiet", *options)
        assert result.status == 0, result.err
        return samples(tmp_path / name / "anna" / "02.wav")

    first = decoded("a", "--seed", 3)
    np.testing.assert_array_equal(decoded("b", "--seed", 3), first)
    assert not np.array_equal(decoded("c", "--seed", 4), first)
    assert not np.array_equal(decoded("d", "--seed", 3, "--class", "ben"), first)
    likeliest = [decoded(f"t{seed}", "--seed", seed, "--temperature", 0) for seed in (3, 4)]
    np.testing.assert_array_equal(*likeliest)
    assert np.abs(likeliest[0].astype(float)).mean() < np.abs(first.astype(float)).mean()


def test_conversion_is_decoding_with_another_speaker(
    codes: Codes, spoken: SoundRun, tokenizer: Tokenizer, smalti: Smalti, tmp_path: Path
) -> None:
    file, length = spoken.data / "anna" / "02.wav", spoken.lengths["anna/02.wav"]
    waves = {}
    for name, speaker in (("a.wav", "ben"), ("again.flac", "ben"), ("other.wav", "cleo")):
        out = tmp_path / "deep" / name
        result = smalti("convert", spoken.path, file, "--speaker", speaker, "--out", out, "--seed", 7)
        assert result.status == 0, result.err
        assert f"02.wav in the voice of {speaker}" in " ".join(result.err.split())
        waves[name] = samples(out)
        assert len(waves[name]) == length
    np.testing.assert_array_equal(waves["a.wav"], waves["again.flac"])
    assert not np.array_equal(waves["a.wav"], waves["other.wav"])
    given = torch.from_numpy(codes.expected["anna/02.wav"])[None, None]
    expected = tokenizer.decode(given, class_name="ben", seed=7)[0, 0, :length].numpy()
    np.testing.assert_allclose(waves["a.wav"] / 32768, expected, rtol=0, atol=1 / 32768)


def test_reconstructions_are_as_long_as_what_was_given(
    spoken: SoundRun, smalti: Smalti, tmp_path: Path
) -> None:
    names = ["anna/06.mp3", "ben/11.flac", "cleo/silent.wav"]
    files = [spoken.data / name for name in (*names, BROKEN[1])]
    result = smalti("reconstruct", spoken.path, *files, "--out", tmp_path / "again")
    assert result.status == 0, result.err
    assert "cut.flac: " in result.err
    found = {file.name for file in (tmp_path / "again").glob("[!.]*")}
    assert found == {"06.wav", "11.wav", "silent.wav", "comparison.png"}
    for name in names:
        assert len(samples(tmp_path / "again" / Path(wav_of(name)).name)) == spoken.lengths[name]


def test_samples_of_a_length(spoken: SoundRun, smalti: Smalti, tmp_path: Path) -> None:
    def drawn(name: str, *options: object) -> Path:
        out = tmp_path / name
        result = smalti("sample", spoken.path, "--num", 3, "--out", out, "--quiet", *options)
        assert result.status == 0, result.err
        assert {path.name for path in out.glob("[!.]*")} == {
            *(f"0000{index}.wav" for index in range(3)),
            "samples.png",
            "codes.parquet",
        }
        return out

    for options, num in ((("--length", 8), 8), ((), 7)):
        out = drawn(f"n{num}", *options)
        rows = pq.read_table(out / "codes.parquet")["codes"].to_pylist()
        assert [len(row) for row in rows] == [num] * 3
        assert all(len(samples(path)) == num * HOP for path in out.glob("*.wav"))
    same, other = drawn("same"), drawn("other", "--seed", 1)
    assert digests(same) == digests(tmp_path / "n7")
    assert not np.array_equal(samples(other / "00000.wav"), samples(same / "00000.wav"))
    assert len(list(drawn("cleo", "--class", "cleo").glob("*.wav"))) == 3


@pytest.fixture(scope="module")
def report(spoken: SoundRun) -> dict:
    result = command("evaluate", spoken.path, "--data", spoken.data, "--json")
    assert result.status == 0, result.err
    assert_names_the_broken(result.err)
    report = json.loads(result.out)
    assert report == json.loads((spoken.path / "evaluation.json").read_text())
    return report


def nats_item_by_item(tokenizer: Tokenizer, spoken: SoundRun, codes: Codes) -> dict[str, list[float]]:
    """Rates and distortions of each item, nats, over its own samples and no padding."""
    nats: dict[str, list[float]] = {name: [] for name in ("distortion", "learned", "shuffled", "none")}
    model, first = tokenizer.autoencoder, None
    for name, length in spoken.lengths.items():
        levels = torch.from_numpy(tokenizer.modality.decode(spoken.data / name))[None]
        signal = padded(
            tokenizer.modality, tokenizer.modality.to_model(levels), tokenizer.autoencoder.strides
        )
        speaker = Conditions(label=torch.tensor([sorted(SPEAKERS).index(Path(name).parent.name)]))
        own = torch.from_numpy(codes.expected[name])[None, None]
        with torch.no_grad():
            likelihoods = {"distortion": model.likelihood(own, speaker)}
            if first is not None:
                shuffled = first.repeat(1, 1, 99)[..., : own.shape[-1]]
                likelihoods["shuffled"] = model.likelihood(shuffled, speaker)
                without = model.likelihood_without_codes(1, own.shape[2:], speaker)
                assert without is not None
                likelihoods["none"] = without
            for kind, likelihood in likelihoods.items():
                nats[kind].append(-likelihood.log_prob(signal)[..., :length].double().sum().item())
            nats["learned"].append(-tokenizer.priors["learned"].log_prob(own).item())
        first = own if first is None else first
    return nats


def test_bits_are_those_of_the_true_lengths(
    report: dict, spoken: SoundRun, tokenizer: Tokenizer, codes: Codes
) -> None:
    lengths = list(spoken.lengths.values())
    num, dims = len(lengths), sum(lengths)
    nats = nats_item_by_item(tokenizer, spoken, codes)
    assert report["num"] == num
    assert list(report["bits_per_dim"]) == ["uniform", "unigram", "learned", "learned+class"]
    for row in report["bits_per_dim"].values():
        assert row["rate"] + row["distortion"] == pytest.approx(row["bits_per_dim"], rel=1e-6)
        assert row["distortion"] == pytest.approx(sum(nats["distortion"]) / dims / math.log(2), rel=1e-5)
    # Each item costs its codes and, as its decoder is conditioned on the speaker, one of 3 speakers.
    total = sum(len(each) for each in codes.expected.values())
    uniform = total * math.log2(NUM_CODES) + num * math.log2(3)
    assert report["bits_per_dim"]["uniform"]["rate"] == pytest.approx(uniform / dims, rel=1e-5)
    learned = sum(nats["learned"]) / math.log(2) + num * math.log2(3)
    assert report["bits_per_dim"]["learned"]["rate"] == pytest.approx(learned / dims, rel=1e-5)

    worth = {kind: report["codebook"][f"distortion_{kind}"] for kind in ("true", "shuffled", "none")}
    but_one = (dims - lengths[0]) * math.log(2)
    assert worth["true"] == pytest.approx(sum(nats["distortion"][1:]) / but_one, rel=1e-5)
    assert worth["shuffled"] == pytest.approx(sum(nats["shuffled"]) / but_one, rel=1e-5)
    assert worth["none"] == pytest.approx(sum(nats["none"]) / but_one, rel=1e-5)


def test_the_report_says_how_it_was_measured(report: dict) -> None:
    assert report["reconstruction"] == {}  # it would have to be drawn
    protocol = report["protocol"]
    assert protocol["data sample_rate_hz"] == str(RATE_HZ)
    assert protocol["data encoding"] == "mu_law"
    assert "3 labels" in protocol["labels"]
    assert {"distortion_true", "distortion_shuffled", "distortion_none"} <= protocol.keys()


def test_inspect_says_what_a_run_over_sounds_holds(spoken: SoundRun, smalti: Smalti) -> None:
    result = smalti("inspect", spoken.path)
    assert result.status == 0
    for word in ("digits", "anna", "learned"):
        assert word in result.out


def test_diagnose_counts_the_positions_of_whole_recordings(
    spoken: SoundRun, tokenizer: Tokenizer, tmp_path: Path, smalti: Smalti
) -> None:
    report = json.loads(smalti("diagnose", spoken.path, "--out", tmp_path / "found", "--json").out)
    indices, _ = split_indices(len(spoken.lengths), tokenizer.trained.recipe.validation_fraction)
    lengths = Store.open(spoken.path / "data").lengths
    assert lengths is not None
    # Each crop has 640 samples; their number is rounded.
    expected = lengths[indices].sum() / HOP
    assert report["codebooks"][0]["num_tokens"] == pytest.approx(expected, abs=640 / HOP)
    assert report["codebooks"][0]["training"]["num_tokens"] == report["codebooks"][0]["num_tokens"]
