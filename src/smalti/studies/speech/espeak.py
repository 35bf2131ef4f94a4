"""Synthetic speech from espeak-ng with exact phone times, as ground truth without a forced aligner.

All voices share one pronunciation model, so scores on this speech are optimistic: report real speech as well.
"""

from __future__ import annotations

import base64
import functools
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import require_split
from smalti.studies.speech.phones import segments

SAMPLE_RATE_HZ = 22_050

# espeak lists the voice "en" as en-gb.
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc")
TRAIN_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "Denis", "Jacky", "Mike"),
    *("f1", "f2", "f3", "f5", "Andrea", "Annie", "anika", "belinda", "steph"),
)
TEST_VARIANTS = ("m5", "m8", "Gene", "f4", "grandma", "shelby")
"""Voice variants of the test speakers; no training speaker has them."""

MAX_SPEAKERS = len(ACCENTS) * (len(TRAIN_VARIANTS) + len(TEST_VARIANTS))
TEST_EVERY = 4
"""Every fourth speaker and every fourth sentence belong to the test split."""

PITCHES = (35, 65)
WORDS_PER_MINUTE = (140, 200)
EDGE_SAMPLES = (1_100, 4_400)
"""Minimum and maximum length of the silence before and after an utterance: 50 to 200 ms."""

NUM_SENTENCES = 800
TEMPLATES = (
    "{person} {did} {thing} {place}.",
    "{time}, {person} {did} {thing}.",
    "{person} {went} {place}, and {person} {went} {time}.",
    "{person} {did} {thing}, but {person} {did} {thing}.",
    "Where is {thing} that {person} {did} {time}?",
    "Why is {thing} {place}?",
    "Which {noun} is {place}, and who has {thing}?",
    "Can you see {thing}, or is it {place}?",
    "{digit}, {digit}, {digit}, {digit}.",
    "{person} {did} {digit} of them, and {digit} {went} {place}.",
)
WORDS = {
    "digit": "zero|one|two|three|four|five|six|seven|eight|nine",
    "noun": "judge|child|fish|zebra|chair|boat|thief|joke|vase|village|measure|toy",
    "person": (
        "my father|her teacher|a young nurse|the judge|our neighbour|that noisy boy|the old thief|your aunt|"
        "a good cook|the church choir|each child|George|a shy girl|the royal guard|nobody"
    ),
    "did": (
        "found|chose|lifted|brought|watched|painted|measured|shook|carried|touched|bought|used|pushed|enjoyed|"
        "threw|hid|polished|wanted|described"
    ),
    "went": "went home|sang|laughed|waited|walked|slept|worked|yawned|fell|argued|voted|rejoiced",
    "thing": (
        "a yellow boat|the treasure map|the wooden chair|a huge fish|an oil lamp|the brown cow|a joyful song|"
        "the thin thread|a beige coat|an orange shirt|the fresh bread|a jar of honey|a cheap watch|"
        "a leather shoe|the garage key|the usual soup|a young fox|the other half|a vision of youth|the zoo"
    ),
    "place": (
        "near the river|by the garage|under the bridge|behind the school|in the south|on the beach|"
        "beyond the valley|around the house|at the edge of town|above the theatre|outside the city"
    ),
    "time": (
        "this morning|at noon|before lunch|last Thursday|in July|as usual|with pleasure|without a choice|"
        "in bad weather|after the azure dawn|just for leisure|once a year"
    ),
}


class TimedPhone(NamedTuple):
    """A phone from `start` to `end` (exclusive), in seconds."""

    utterance: str
    speaker: str
    start: float
    end: float
    phone: str


class _Voice(NamedTuple):
    name: str
    pitch: int
    words_per_minute: int


class _Utterance(NamedTuple):
    name: str
    speaker: str
    text: str
    pcm: bytes
    """16-bit samples."""
    segments: list[tuple[int, int, str]]
    """Start, end (samples) and phone."""


@final
class SyntheticSpeechSource(Source):
    """Sentences spoken by espeak-ng, as the bytes of WAV files: mono, 16 bits, 22.05 kHz.

    The class is the speaker: an accent, a variant of espeak's voice, a pitch and a rate. Every fourth speaker
    and every fourth sentence belong to the test split, which shares no speaker, variant or sentence with the
    training split.

    Utterance m of speaker n depends only on the seed, n and m, not on the order of access, the number of
    processes, or the number of speakers and utterances. Bytes are reproducible for one version of
    espeakng-loader and one C library. espeak's output depends on what its process has spoken before, so each
    speaker has its own process, which speaks all utterances in order on the first access. They stay in
    memory, about 0.15 MB each.

    Args:
        num_speakers: total number of speakers; with fewer than 4 there is no test split.
        utterances_per_speaker: number of different sentences per speaker.
        seed: seed of voices and sentences, 0 or above.

    Raises:
        InputError: when an argument is out of range, or espeakng-loader is not installed.
    """

    def __init__(self, num_speakers: int = 12, utterances_per_speaker: int = 20, seed: int = 0):
        num_texts = len(sentences("test"))
        if not (1 <= num_speakers <= MAX_SPEAKERS and 1 <= utterances_per_speaker <= num_texts and seed >= 0):
            raise InputError(
                f"expected 1 to {MAX_SPEAKERS} speakers, 1 to {num_texts} utterances per speaker and a seed "
                f"of at least 0, received {num_speakers}, {utterances_per_speaker} and {seed}"
            )
        _locate()
        self._speakers: dict[str, list[int]] = {}
        for speaker in range(num_speakers):
            self._speakers.setdefault(_split_of(speaker), []).append(speaker)
        self.splits = tuple(self._speakers)
        self._num_utterances = utterances_per_speaker
        self._seed = seed
        self._spoken: dict[int, list[_Utterance]] = {}
        sizes = ", ".join(f"{split} {self.count(split):,}" for split in self.splits)
        self.description = f"synthetic speech of {num_speakers} speakers, seed {seed} ({sizes})"

    def count(self, split: str) -> int:
        return len(self._of(split)) * self._num_utterances

    def items(self, split: str) -> Iterator[Item]:
        for utterance in self._utterances(split):
            yield Item(utterance.name, _wav(utterance.pcm), utterance.speaker)

    def notes(self, split: str) -> list[str]:
        self._of(split)
        notes = ["all synthetic voices share one pronunciation model: report real speech as well"]
        if split == "test":
            notes.append("speakers, voice variants and sentences of test are held out from train")
        return notes

    def alignments(self, split: str) -> list[TimedPhone]:
        """Return the phone segments of all utterances, in order and without gaps from 0 to each end."""
        return [
            TimedPhone(utterance.name, utterance.speaker, start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ, phone)
            for utterance in self._utterances(split)
            for start, end, phone in utterance.segments
        ]

    def write(self, directory: Path, split: str) -> None:
        """Write a split: recordings `speaker00/speaker00_utt000.wav` and so on, `phones.tsv` and `utts.tsv`.

        Args:
            directory: a new or empty folder.
            split: "train" or "test".

        Raises:
            InputError: when the folder is not empty, or there is no such split.
        """
        self._of(split)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(
                f"expected a new or empty folder for the speech, received {directory}: choose another"
            )
        phones, texts = ["utt\tspeaker\tstart\tend\tphone"], ["utt\tspeaker\tsplit\ttext"]
        phones += ["\t".join(map(str, timed)) for timed in self.alignments(split)]
        for utterance in self._utterances(split):
            folder = directory / utterance.speaker
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{utterance.name}.wav").write_bytes(_wav(utterance.pcm))
            texts.append(f"{utterance.name}\t{utterance.speaker}\t{split}\t{utterance.text}")
        for name, lines in (("phones.tsv", phones), ("utts.tsv", texts)):
            (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")

    def _of(self, split: str) -> list[int]:
        require_split(split, self.splits, "the synthetic speech")
        return self._speakers[split]

    def _utterances(self, split: str) -> Iterator[_Utterance]:
        for speaker in self._of(split):
            if speaker not in self._spoken:
                self._spoken[speaker] = _speak(self._seed, speaker, self._num_utterances)
            yield from self._spoken[speaker]


@functools.cache
def sentences(split: str) -> tuple[str, ...]:
    """Return the distinct sentences of a split, generated by a small grammar; the same for every seed."""
    rng = np.random.default_rng(0)

    def word(slot: re.Match[str]) -> str:
        words = WORDS[slot[1]].split("|")
        return words[rng.integers(len(words))]

    found: dict[str, None] = {}
    while len(found) < NUM_SENTENCES:
        text = re.sub(r"\{(\w+)\}", word, TEMPLATES[rng.integers(len(TEMPLATES))])
        found[text[0].upper() + text[1:]] = None
    return tuple(text for number, text in enumerate(found) if _split_of(number) == split)


def _split_of(number: int) -> str:
    return "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train"


def _voice(seed: int, speaker: int) -> _Voice:
    """Return a speaker's voice; within a seed, no two speakers share both accent and variant."""
    split = _split_of(speaker)
    variants = TRAIN_VARIANTS if split == "train" else TEST_VARIANTS
    rank = sum(_split_of(earlier) == split for earlier in range(speaker))
    rng = np.random.default_rng((seed, 0, ("train", "test").index(split)))
    variant = int(rng.permutation(len(variants))[rank % len(variants)])
    # Each further use of a variant takes its next accent.
    accent = int(rng.integers(len(ACCENTS), size=len(variants))[variant]) + rank // len(variants)
    rng = np.random.default_rng((seed, 1, speaker))
    return _Voice(
        f"{ACCENTS[accent % len(ACCENTS)]}+{variants[variant]}",
        int(rng.integers(*PITCHES, endpoint=True)),
        int(rng.integers(*WORDS_PER_MINUTE, endpoint=True)),
    )


def _speak(seed: int, speaker: int, num_utterances: int) -> list[_Utterance]:
    rng = np.random.default_rng((seed, 2, speaker))
    texts = sentences(_split_of(speaker))
    chosen = [texts[index] for index in rng.permutation(len(texts))[:num_utterances]]
    edges = rng.integers(*EDGE_SAMPLES, (num_utterances, 2))
    name = f"speaker{speaker:02d}"
    utterances = []
    spoken = zip(chosen, _synthesize(_voice(seed, speaker), chosen), edges.tolist(), strict=True)
    for number, (text, (pcm, events), (before, after)) in enumerate(spoken):
        pcm = bytes(2 * before) + pcm + bytes(2 * after)
        events = [(sample + before, symbol) for sample, symbol in events]
        # The last pause of a clause merges with the added silence.
        phones = segments(events, len(pcm) // 2)
        utterances.append(_Utterance(f"{name}_utt{number:03d}", name, text, pcm, phones))
    return utterances


def _locate() -> tuple[Path, Path]:
    """Return the paths of espeak's library and data folder."""
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError as error:
        raise InputError(
            "expected espeak-ng for synthetic speech, found none: run pip install espeakng-loader"
        ) from error
    return Path(loader.get_library_path()), Path(loader.get_data_path())


def _synthesize(voice: _Voice, texts: Sequence[str]) -> list[tuple[bytes, list[tuple[int, str]]]]:
    """Speak texts in order in a new process, and return the samples and events of each."""
    library, data = _locate()
    request = {"library": str(library), "data": data.name, **voice._asdict(), "texts": texts}
    # The process runs the function's source, since importing this module would also import torch. It runs in
    # the parent of the data folder, since espeak accepts paths of at most 160 bytes.
    program = f"{inspect.getsource(_espeak_process)}\n_espeak_process()\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        input=json.dumps(request).encode(),
        capture_output=True,
        cwd=data.parent,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise InputError(
            f"espeak-ng failed with the voice {voice.name}, exit status {done.returncode} ({said[-1]}): "
            "reinstall espeakng-loader"
        )
    return [
        (base64.b64decode(pcm), [(sample, symbol) for sample, symbol in events])
        for pcm, events in json.loads(done.stdout)
    ]


def _espeak_process() -> None:
    """Read a JSON request from standard input, speak its texts, and write JSON to standard output.

    This function is the whole program of its process, so it has its own imports, all from the standard
    library. Names and numbers are those of espeak-ng's speak_lib.h.
    """
    import base64
    import ctypes
    import json
    import sys

    synchronous, phoneme_events, phoneme_ipa, dont_exit = 2, 1, 2, 0x8000
    rate, pitch, pos_character, chars_utf8 = 1, 3, 1, 1
    event_list_terminated, event_phoneme = 0, 7

    class Event(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("unique_identifier", ctypes.c_uint),
            ("text_position", ctypes.c_int),
            ("length", ctypes.c_int),
            ("audio_position", ctypes.c_int),
            ("sample", ctypes.c_int),
            ("user_data", ctypes.c_void_p),
            ("string", ctypes.c_char * 8),
        )

    pcm = bytearray()
    events = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    def heard(samples, num_samples, given):
        if samples and num_samples > 0:
            pcm.extend(ctypes.string_at(samples, 2 * num_samples))
        index = 0
        while given[index].type != event_list_terminated:
            if given[index].type == event_phoneme:
                # The field audio_position is rounded to milliseconds, sample is not.
                events.append((given[index].sample, given[index].string.decode(errors="replace")))
            index += 1
        return 0

    request = json.load(sys.stdin)
    espeak = ctypes.CDLL(request["library"])
    options = phoneme_events | phoneme_ipa | dont_exit
    if espeak.espeak_Initialize(synchronous, 0, request["data"].encode(), options) != 22_050:
        sys.exit("the voice data cannot be read, or the sample rate is not 22050 Hz")
    # espeak seeds the noise of breathy voices with the time of day.
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))
    espeak.espeak_SetSynthCallback(heard)
    if espeak.espeak_SetVoiceByName(request["name"].encode()):
        sys.exit("unknown voice")
    espeak.espeak_SetParameter(rate, request["words_per_minute"], 0)
    espeak.espeak_SetParameter(pitch, request["pitch"], 0)
    answer = []
    for text in request["texts"]:
        pcm.clear()
        events.clear()
        data = text.encode()
        if espeak.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, pos_character, 0, chars_utf8, None, None
        ):
            sys.exit(f"cannot speak {text!r}")
        answer.append((base64.b64encode(pcm).decode(), list(events)))
    sys.stdout.write(json.dumps(answer))


def _wav(pcm: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(pcm)
    return buffer.getvalue()
