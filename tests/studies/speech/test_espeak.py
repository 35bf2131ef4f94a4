"""Synthetic speech: the same everywhere, labelled without a gap, and with labels where the sound is."""

from __future__ import annotations

import io
import itertools
import pickle
import re
import sys
import time
import wave

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.sources.folder import FolderSource
from smalti.studies.speech import espeak
from smalti.studies.speech.alignments import Alignments
from smalti.studies.speech.espeak import (
    ACCENTS,
    MAX_SPEAKERS,
    SAMPLE_RATE_HZ,
    TEST_VARIANTS,
    TRAIN_VARIANTS,
    SyntheticSpeechSource,
    sentences,
)
from smalti.studies.speech.phones import PHONE_OF_SYMBOL, PHONES, phone_of, segments

ARPABET = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
)


@pytest.fixture(scope="module")
def loader():
    return pytest.importorskip("espeakng_loader", reason="espeak-ng comes with the extra smalti[speech]")


@pytest.fixture(scope="module")
def source(loader):
    return SyntheticSpeechSource(num_speakers=12, utterances_per_speaker=20, seed=0)


def contents(source: SyntheticSpeechSource, split: str) -> dict[str, bytes]:
    return {item.name: item.content for item in source.items(split)}


def samples(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_phones_are_those_of_arpabet():
    assert (*ARPABET.split(), "SIL") == PHONES
    assert set(PHONE_OF_SYMBOL.values()) == set(ARPABET.split())


@pytest.mark.parametrize(
    ("symbol", "phone"),
    [("ˈaɪ", "AY"), ("ˌɔː", "AO"), ("ˈa:", "AE"), ("ˈɑːɹ", "AA"), ("ɚ", "ER"), ("ɡ", "G"), ("tʃ", "CH")],
)
def test_marks_of_stress_and_length_are_stripped(symbol, phone):
    assert phone_of(symbol) == phone


def test_no_symbol_falls_through_in_silence():
    with pytest.raises(ValueError, match=r"PHONE_OF_SYMBOL, received 'ɬ'"):
        phone_of("ɬ")


def test_segments_leave_no_gap():
    events = [(10, "h"), (20, "ˈaɪ"), (20, ""), (50, ""), (70, "s"), (70, "t"), (80, ""), (95, "")]
    assert segments(events, 100) == [
        (0, 10, "SIL"),
        (10, 20, "HH"),
        (20, 70, "SIL"),
        (70, 80, "T"),
        (80, 100, "SIL"),
    ]
    assert segments([(0, "s"), (0, "t")], 5) == [(0, 5, "T")]
    assert segments([], 5) == [(0, 5, "SIL")]


def test_what_has_no_name_alone_between_vowels_is_a_glide():
    assert segments([(0, "ɪ"), (1, ""), (2, "ˈoʊ")], 3)[1] == (1, 2, "Y")
    # Before "while" espeak pauses once, elsewhere at least twice.
    for events in (
        [(0, "ɪ"), (1, ""), (2, "w")],
        [(0, "n"), (1, ""), (2, "ˈoʊ")],
        [(0, "ɪ"), (1, ""), (2, ""), (3, "ˈoʊ")],
        [(0, "ɪ"), (1, "")],
    ):
        assert segments(events, 4)[1][2] == "SIL", events


def test_sentences_differ_and_none_is_of_both_splits():
    train, test = sentences("train"), sentences("test")
    assert (len(train), len(test), len({*train, *test})) == (600, 200, 800)
    assert all(re.fullmatch(r"[A-Z][A-Za-z ,]+[.?]", text) for text in train + test)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sentences_use_every_word_of_the_grammar(split):
    spoken = " ".join(sentences(split)).lower()
    missing = [
        word for words in espeak.WORDS.values() for word in words.split("|") if word.lower() not in spoken
    ]
    assert missing == []
    assert len(espeak.WORDS["digit"].split("|")) == 10


def test_voices_of_speakers_differ_and_the_variants_of_test_are_held_out():
    names = [espeak._voice(0, speaker).name for speaker in range(MAX_SPEAKERS)]
    assert len(set(names)) == MAX_SPEAKERS == 120
    used = {"train": set(), "test": set()}
    for speaker, name in enumerate(names):
        used[espeak._split_of(speaker)].add(name.split("+")[1])
    assert used == {"train": set(TRAIN_VARIANTS), "test": set(TEST_VARIANTS)}
    assert used["train"].isdisjoint(used["test"])
    assert {name.split("+")[0] for name in names[:12]} <= set(ACCENTS)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"run pip install espeakng-loader$"):
        SyntheticSpeechSource()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_speakers": 0},
        {"num_speakers": MAX_SPEAKERS + 1},
        {"utterances_per_speaker": 0},
        {"utterances_per_speaker": 201},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range(arguments):
    with pytest.raises(InputError, match=r"expected 1 to 120 speakers, 1 to 200 utterances"):
        SyntheticSpeechSource(**arguments)


def test_names_labels_and_files(source):
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test")) == (180, 60)
    items = list(source.items("train"))
    assert len(items) == 180
    assert (items[0].name, items[0].label) == ("speaker00_utt000", "speaker00")
    assert (items[-1].name, items[-1].label) == ("speaker10_utt019", "speaker10")
    with wave.open(io.BytesIO(items[0].content)) as file:
        assert file.getparams()[:3] == (1, 2, SAMPLE_RATE_HZ)
        assert 0.5 * SAMPLE_RATE_HZ < file.getnframes() < 20 * SAMPLE_RATE_HZ
    loudest = [np.abs(samples(item.content).astype(int)).max() for item in items]
    assert min(loudest) > 5_000


def test_speakers_and_texts_of_test_are_held_out(source):
    speakers = {split: {item.label for item in source.items(split)} for split in source.splits}
    assert speakers["test"] == {"speaker03", "speaker07", "speaker11"}
    assert speakers["train"].isdisjoint(speakers["test"])
    texts = {split: {u.text for u in source._utterances(split)} for split in source.splits}
    assert texts["train"].isdisjoint(texts["test"])
    assert any("held out" in note for note in source.notes("test"))
    assert not any("held out" in note for note in source.notes("train"))


def test_an_utterance_depends_on_seed_speaker_and_number_alone(source):
    # More than a second later, as espeak seeds its noise with the time in seconds by default.
    time.sleep(1.1)
    expected = contents(source, "train") | contents(source, "test")
    other = SyntheticSpeechSource(num_speakers=5, utterances_per_speaker=4)
    fewer = contents(other, "test") | contents(other, "train")
    assert len(fewer) == 20
    assert fewer == {name: expected[name] for name in fewer}
    # Two of the voices are breathy: theirs is the noise.
    assert {espeak._voice(0, speaker).name for speaker in range(5)} >= {"en-us+f2", "en-gb-scotland+f5"}


def test_it_travels_to_another_process(source):
    twin = pickle.loads(pickle.dumps(SyntheticSpeechSource(num_speakers=1, utterances_per_speaker=2)))
    assert twin.splits == ("train",)
    expected = contents(source, "train")
    assert contents(twin, "train") == {name: expected[name] for name in contents(twin, "train")}


def test_seeds_and_utterances_differ(source):
    other = SyntheticSpeechSource(num_speakers=1, utterances_per_speaker=2, seed=1)
    audio = [*contents(other, "train").values(), *contents(source, "train").values()]
    assert len(set(audio)) == len(audio)


@pytest.mark.parametrize("split", ["train", "test"])
def test_alignments_cover_each_utterance_without_gap(source, split):
    by_name = {}
    for timed in source.alignments(split):
        by_name.setdefault(timed.utterance, []).append(timed)
    audio = contents(source, split)
    assert list(by_name) == list(audio)
    for name, phones in by_name.items():
        assert {phone.speaker for phone in phones} == {name.split("_")[0]}
        assert phones[0].start == 0
        assert phones[-1].end == len(samples(audio[name])) / SAMPLE_RATE_HZ
        assert all(phone.start < phone.end for phone in phones)
        assert all(one.end == two.start for one, two in itertools.pairwise(phones))
        assert phones[0].phone == phones[-1].phone == "SIL"
        assert min(phones[0].end, phones[-1].end - phones[-1].start) >= 0.04
        assert all({one.phone, two.phone} != {"SIL"} for one, two in itertools.pairwise(phones))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_phone_is_spoken(source, split):
    assert {timed.phone for timed in source.alignments(split)} == set(PHONES)


def test_no_symbol_of_any_sentence_falls_through(loader):
    """Each sentence in one accent, which take turns; `phone_of` raises at what it does not know."""
    texts = sentences("train") + sentences("test")
    for start, accent in enumerate(ACCENTS):
        for pcm, events in espeak._synthesize(espeak._Voice(f"{accent}+m3", 50, 400), texts[start::5]):
            assert len(segments(events, len(pcm) // 2)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("accent", ACCENTS)
def test_no_symbol_of_any_sentence_falls_through_in_any_accent(loader, accent):
    voice = espeak._Voice(f"{accent}+m3", 50, 170)
    for pcm, events in espeak._synthesize(voice, sentences("train") + sentences("test")):
        assert len(segments(events, len(pcm) // 2)) > 8


def test_every_variant_speaks(loader):
    for variant in TRAIN_VARIANTS + TEST_VARIANTS:
        [(pcm, events)] = espeak._synthesize(espeak._Voice(f"en-us+{variant}", 50, 200), ["Sue saw ships."])
        phones = [phone for _, _, phone in segments(events, len(pcm) // 2)[1:-1]]
        assert phones == ["S", "UW", "S", "AO", "SH", "IH", "P", "S"]
        assert np.abs(np.frombuffer(pcm, np.int16).astype(int)).max() > 5_000


@pytest.mark.parametrize("shift_seconds", [0.0, 0.02, -0.02])
def test_labels_lie_where_the_sound_is(source, shift_seconds):
    """Hiss is above 4 kHz, vowels are loud and pauses silent; and not so where labels are 20 ms off."""
    high, energy = _energies(source, round(shift_seconds * SAMPLE_RATE_HZ))
    hiss = np.median(high["S"] + high["SH"])
    vowels = [phone for phone in PHONES if phone[0] in "AEIOU"]
    of_vowels = np.median(np.concatenate([high[phone] for phone in vowels]))
    loud = np.median(np.concatenate([energy[phone] for phone in vowels]))
    silent = np.percentile(energy["SIL"], 90)
    aligned = hiss > 0.5 and of_vowels < 0.02 and silent < loud / 1_000
    assert aligned == (shift_seconds == 0), (hiss, of_vowels, loud, silent)
    if aligned:
        assert all(np.median(energy["SIL"]) < np.median(energy[phone]) for phone in PHONES[:-1])


def _energies(source, shift):
    """Of each segment of the split test, by phone: share of energy above 4 kHz, and mean energy."""
    high, energy = ({phone: [] for phone in PHONES} for _ in range(2))
    audio = {name: samples(content).astype(float) for name, content in contents(source, "test").items()}
    for timed in source.alignments("test"):
        start, end = (round(at * SAMPLE_RATE_HZ) + shift for at in (timed.start, timed.end))
        sound = audio[timed.utterance][max(start, 0) : end]
        if len(sound) < 200:
            continue
        power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
        above = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ) > 4_000
        high[timed.phone].append(power[above].sum() / (power.sum() + 1e-9))
        energy[timed.phone].append((sound**2).mean())
    return high, energy


def test_written_split_reads_back_exactly(source, tmp_path):
    source.write(tmp_path / "new", "test")
    read = {item.name: item for item in FolderSource(tmp_path / "new", [".wav"]).items("all")}
    audio = contents(source, "test")
    assert {item.content.stem: item.content.read_bytes() for item in read.values()} == audio
    assert read["speaker07/speaker07_utt003.wav"].label == "speaker07"

    alignments = Alignments.read(tmp_path / "new" / "phones.tsv")
    assert alignments.utterances == tuple(audio)
    expected = [(timed.start, timed.end, timed.phone) for timed in source.alignments("test")]
    found = [(s.start, s.end, s.phone) for name in audio for s in alignments.segments(name)]
    assert found == expected
    assert alignments.speaker("speaker07_utt003") == "speaker07"

    header, *rows = (tmp_path / "new" / "utts.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["utt", "speaker", "split", "text"]
    assert [row.split("\t")[0] for row in rows] == list(audio)
    assert {row.split("\t")[2] for row in rows} == {"test"}
    assert {row.split("\t")[3] for row in rows} <= set(sentences("test"))


def test_nothing_is_written_into_a_folder_in_use(source, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match=r"expected a new or empty folder"):
            source.write(folder, "test")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("ask", ["count", "items", "notes", "alignments"])
def test_unknown_split(source, ask):
    with pytest.raises(InputError, match=r"expected one of the splits train, test of .*speech, got 'all'"):
        list(getattr(source, ask)("all"))


def test_what_espeak_cannot_do(loader):
    with pytest.raises(InputError, match=r"en-xx, exit status 1 \(unknown voice\)"):
        espeak._synthesize(espeak._Voice("en-xx", 50, 170), ["Hello."])
