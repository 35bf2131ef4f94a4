"""A user's mistake with sounds: exit status 2, one sentence, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.packed import PackedInfo, pack, read_packed
from tests import sounds
from tests.runs import Result, digests
from tests.speech_runs import PhoneRun, SoundRun

Mistake = Callable[..., str]
Smalti = Callable[..., Result]


@pytest.fixture
def recording(spoken: SoundRun) -> Path:
    return spoken.data / "anna" / "02.wav"


@pytest.fixture(scope="module")
def packed(spoken: SoundRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact file of one item."""
    from smalti.app.commands.encode import encode

    path = tmp_path_factory.mktemp("codes") / "one.smc"
    encode(str(spoken.path), str(spoken.data / "anna" / "02.wav"), path, quiet=True)
    return path


def left(path: Path) -> list[str]:
    """Names of all files and folders below a folder."""
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


# convert


def test_convert_on_a_run_over_pictures(
    trained: Path, recording: Path, tmp_path: Path, mistake: Mistake
) -> None:
    message = mistake("convert", trained, recording, "--speaker", "cat", "--out", tmp_path / "deep" / "a.wav")
    assert "expected a run over audio with speakers" in message
    assert "pictures" in message
    assert left(tmp_path) == []


def test_convert_into_a_voice_that_nobody_has(
    spoken: SoundRun, recording: Path, tmp_path: Path, mistake: Mistake
) -> None:
    message = mistake(
        "convert", spoken.path, recording, "--speaker", "dora", "--out", tmp_path / "deep" / "a.wav"
    )
    assert "received 'dora': the classes are anna, ben, cleo" in message
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("mine.wav", "mine.wav exists already"), ("a.mp3", "to end in .wav or .flac"), ("a", "to end in")],
)
def test_convert_to_a_place_that_cannot_be(
    name: str, message: str, spoken: SoundRun, recording: Path, tmp_path: Path, mistake: Mistake
) -> None:
    (tmp_path / "mine.wav").write_text("mine")
    assert message in mistake("convert", spoken.path, recording, "--speaker", "ben", "--out", tmp_path / name)
    assert left(tmp_path) == ["mine.wav"]
    assert (tmp_path / "mine.wav").read_text() == "mine"


def test_convert_what_is_no_recording(spoken: SoundRun, tmp_path: Path, mistake: Mistake) -> None:
    words = ["--speaker", "ben", "--out", tmp_path / "deep" / "a.wav"]
    assert "nowhere.wav" in mistake("convert", spoken.path, tmp_path / "nowhere.wav", *words)
    empty = spoken.data / "anna" / "empty.wav"
    assert "the file is empty" in mistake("convert", spoken.path, empty, *words)
    assert left(tmp_path) == []


# Compact files


def cut(content: bytes) -> bytes:
    return content[:-9]


def flipped(content: bytes) -> bytes:
    """One bit of the codes is another."""
    at = len(content) - 6
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def renamed(content: bytes) -> bytes:
    """Another key in the header, and no other checksum."""
    assert b'"size":' in content
    return content.replace(b'"size":', b'"sizE":')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "bytes of codes in"),
        (flipped, "expected the checksum"),
        (renamed, "expected a smalti header"),
        (lambda content: content[:5], "is not one that smalti wrote"),
        (lambda content: b"", "is not one that smalti wrote"),
        (lambda content: content + b"\0", "bytes of codes in"),
    ],
    ids=["cut", "one bit", "header", "five bytes", "empty", "longer"],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_decode_a_compact_file_that_is_damaged(
    in_folder: bool,
    spoil: Callable[[bytes], bytes],
    message: str,
    spoken: SoundRun,
    packed: Path,
    tmp_path: Path,
    mistake: Mistake,
) -> None:
    folder = tmp_path / "codes"
    folder.mkdir()
    shutil.copy(packed, folder / "a.smc")
    spoilt = folder / "spoilt.smc"
    spoilt.write_bytes(spoil(packed.read_bytes()))
    given = folder if in_folder else spoilt
    sentence = mistake("decode", spoken.path, given, "--out", tmp_path / "decoded")
    assert message in sentence
    assert str(spoilt) in sentence
    assert not (tmp_path / "decoded").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "0123456789abcdef"}, "expected codes of the model"),
        ({"num_codes": 2 * sounds.NUM_CODES}, f"out of {sounds.NUM_CODES}"),
        ({"grid": (1, 13)}, "expected codes of shape"),
        ({"num_codebooks": 13, "grid": (1,)}, "expected codes of shape"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_decode_a_compact_file_of_another_model(
    change: dict[str, object], message: str, spoken: SoundRun, packed: Path, tmp_path: Path, mistake: Mistake
) -> None:
    one = read_packed(packed)
    length = one.codes.shape[1]
    change = {
        name: tuple(length if side == 13 else side for side in value)
        if isinstance(value, tuple)
        else length
        if value == 13
        else value
        for name, value in change.items()
    }
    info = PackedInfo(**{**one.info.model_dump(), **change})
    (tmp_path / "other.smc").write_bytes(pack(one.codes.reshape(info.shape), info))
    assert message in mistake("decode", spoken.path, tmp_path / "other.smc", "--out", tmp_path / "decoded")
    assert left(tmp_path) == ["other.smc"]


def test_decode_sounds_with_a_run_over_pictures(
    trained: Path, packed: Path, tmp_path: Path, mistake: Mistake
) -> None:
    assert "expected codes" in mistake("decode", trained, packed, "--out", tmp_path / "decoded")
    assert left(tmp_path) == []


def test_decode_a_folder_without_codes(spoken: SoundRun, tmp_path: Path, mistake: Mistake) -> None:
    message = mistake("decode", spoken.path, spoken.data, "--out", tmp_path / "decoded")
    assert "expected files that end in .smc" in message
    assert left(tmp_path) == []


def test_encode_several_items_to_one_compact_file(spoken: SoundRun, tmp_path: Path, mistake: Mistake) -> None:
    message = mistake("encode", spoken.path, "--data", spoken.data, "--out", tmp_path / "deep" / "x.smc")
    assert "expected one item" in message
    assert "received 25" in message
    assert left(tmp_path) == []


def test_encode_over_files_of_the_user(
    spoken: SoundRun, recording: Path, tmp_path: Path, mistake: Mistake
) -> None:
    for name, out in (("02.smc", tmp_path), ("mine.smc", tmp_path / "mine.smc")):
        (tmp_path / name).write_text("mine")
        before = digests(tmp_path)
        assert f"{name} exists already" in mistake("encode", spoken.path, "--data", recording, "--out", out)
        assert digests(tmp_path) == before


# Settings


def test_a_length_of_pictures(trained: Path, tmp_path: Path, mistake: Mistake) -> None:
    message = mistake("sample", trained, "--length", 9, "--out", tmp_path / "samples")
    assert "expected no length" in message
    assert left(tmp_path) == []


def test_a_pattern_that_matches_nothing(spoken: SoundRun, tmp_path: Path, mistake: Mistake) -> None:
    new = ["train", "digits", "--data", spoken.data, "--out", tmp_path / "new", *sounds.DIGITS]
    message = mistake(*new, r"data.pattern=(?P<speaker>\d{5})_")
    assert "found only others, such as anna/00.wav: correct the pattern" in message
    assert "group (?P<speaker>...)" in mistake(*new, r"data.pattern=\d+")
    assert "expected a regular expression" in mistake(*new, "data.pattern=(?P<speaker>")
    assert left(tmp_path) == []


def test_recipes_for_sounds_on_pictures(pictures: Path, tmp_path: Path, mistake: Mistake) -> None:
    for recipe in ("digits", "units"):
        message = mistake("train", recipe, "--data", pictures, "--out", tmp_path / "new")
        assert ".png" in message
        assert left(tmp_path) == []


# Phonemes


def test_phonemes_without_an_alignment_of_any_item(units: PhoneRun, tmp_path: Path, mistake: Mistake) -> None:
    table = tmp_path / "others.tsv"
    table.write_text("utt\tstart\tend\tphone\nsomebody\t0\t1\tAA\n")
    before = digests(units.path)
    message = mistake("phonemes", units.path, "--data", units.data, "--alignments", table)
    assert "in the split all" in message
    assert "has no alignment" in message
    assert digests(units.path) == before


def test_phonemes_that_are_not_held_out(units: PhoneRun, tmp_path: Path, mistake: Mistake) -> None:
    """All in one folder, so that nothing says who speaks."""
    for file in units.data.rglob("*.wav"):
        shutil.copy(file, tmp_path / file.name)
    message = mistake("phonemes", units.path, "--data", tmp_path, "--alignments", units.alignments)
    assert "expected a test split or at least 2 speakers" in message


def test_phonemes_on_a_run_over_pictures(
    trained: Path, pictures: Path, units: PhoneRun, mistake: Mistake
) -> None:
    before = digests(trained)
    message = mistake("phonemes", trained, "--data", pictures, "--alignments", units.alignments)
    assert "expected a run over audio with one codebook" in message
    assert digests(trained) == before


def test_phonemes_with_a_table_that_is_none(units: PhoneRun, tmp_path: Path, mistake: Mistake) -> None:
    words = ["phonemes", units.path, "--data", units.data, "--alignments"]
    assert "nowhere.tsv cannot be read" in mistake(*words, tmp_path / "nowhere.tsv")
    assert "not UTF-8 text" in mistake(*words, next(units.data.rglob("*.wav")))
    message = mistake(*words, units.alignments, "--split", "dev")
    assert "expected one of the splits all, received 'dev'" in message


# Experiments


def test_experiments_with_speech(spoken: SoundRun, tmp_path: Path, mistake: Mistake) -> None:
    def message(*words: object) -> str:
        sentence = mistake("reproduce", *words, "--out", tmp_path)
        assert left(tmp_path) == []
        return sentence

    assert "add --data SOURCE" in message("speech")
    assert "add --data SOURCE" in message("phonemes", "--budget", "tiny")
    assert "expected a budget, received 'gpu': there are " in message(
        "speech", "--data", spoken.data, "--budget", "gpu"
    )
    assert "add --alignments TSV" in message("phonemes", "--data", spoken.data, "--budget", "tiny")
    assert "expected a data set to reproduce" in message("singing", "--data", spoken.data)


def test_signals_that_are_no_sounds(spoken: SoundRun) -> None:
    from smalti.core.errors import InputError
    from smalti.tokenizer import load

    tokenizer = load(spoken.path, "cpu")
    for wave, message in (
        (np.zeros(0, np.float32), "non-empty sounds"),
        (np.full(800, np.nan, np.float32), "received values from nan"),
        (np.full(800, 300, np.int16), "divide 16-bit samples"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.encode(wave)


# train and compare


def test_a_quantizer_of_one_grid_is_refused_before_training(
    spoken: SoundRun, tmp_path: Path, mistake: Mistake
) -> None:
    for split, speaker in (("train", "anna"), ("test", "ben")):
        shutil.copytree(spoken.data / speaker, tmp_path / "data" / split / speaker)
    words = ["--recipe", "digits-spectral", "--bits", "28", "--out", tmp_path / "compared"]
    settings = ["model.encoder.strides=2,2", "data.length=16"]
    message = mistake("compare", "multi-scale", "--data", tmp_path / "data", *words, *settings)
    assert "quantizer of latents of any length, since sounds differ in length" in message
    assert not (tmp_path / "compared").exists()


def test_training_checks_its_quantizer_for_any_length(spoken: SoundRun, tmp_path: Path) -> None:
    from smalti.app.commands.train import train_recipe
    from smalti.app.recipes.speech import digits_spectral
    from smalti.quantizers.multi_scale import MultiScaleVQConfig

    quantizer = MultiScaleVQConfig(scales=((1,), (2,), (4,)))
    changes = {"model.quantizer": quantizer, "model.encoder.strides": (2, 2), "data.length": 16}
    with pytest.raises(InputError, match="takes one grid only"):
        train_recipe(digits_spectral().changed(changes), str(spoken.data), tmp_path / "run", quiet=True)
    assert left(tmp_path) == []
