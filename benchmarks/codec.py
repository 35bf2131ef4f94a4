"""Speech codecs judged by independent packages: records and table for `docs/speech.md`.

`python benchmarks/codec.py RUN --speech FOLDER --transcripts TABLE --dataset NAME` needs `smalti[judges]`.
FOLDER has recordings at 16 kHz of speakers that the run has not heard in its split test, and TABLE
(tab-separated, columns `utt` and `text`) their words. Each recording is judged as it is, and after each
codec; `tables.py` writes the table.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import soundfile
import torch
import typer

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.delimited import read_lines
from smalti.modalities.audio.modality import AudioConfig
from smalti.nn.spectral import LogMel, griffin_lim
from smalti.studies.records import Record, markdown, read_records, write_records
from smalti.studies.speech.independent import (
    PITCH,
    QUALITY,
    RATE_HZ,
    WORDS,
    WordRecognizer,
    matched,
    praat_figures,
    quality,
)
from smalti.tokenizer import Tokenizer, load

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "codec.jsonl"
Codec = Callable[[np.ndarray], tuple[np.ndarray, float, float, float]]
"""Waveform -> waveform, bits, and the seconds of encoding and decoding it."""


def original(waveform: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """The recording itself, in 16-bit samples."""
    return waveform, 16.0 * len(waveform), 0.0, 0.0


def of_tokenizer(tokenizer: Tokenizer) -> Codec:
    """A codec of a run; every code has log2 K bits."""
    bits = float(np.log2(tokenizer.autoencoder.num_codes))

    def code(waveform: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        (codes,) = tokenizer.encode([waveform], sample_rate=RATE_HZ)
        middle = time.perf_counter()
        (decoded,) = tokenizer.decode([codes])
        end = time.perf_counter()
        made = np.asarray(decoded, np.float32).reshape(-1)[: len(waveform)]
        return made, bits * codes.numel(), middle - begin, end - middle

    return code


def opus(kbit_s: float) -> Codec:
    """libopus for speech at a target rate; the rate that is stated is that of its packets."""

    def code(waveform: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        file, bits = io.BytesIO(), 0
        with av.open(file, "w", format="ogg") as container:
            stream = container.add_stream("libopus", rate=RATE_HZ, layout="mono")
            stream.bit_rate = round(1000 * kbit_s)
            stream.options = {"application": "voip", "frame_duration": "60", "vbr": "on"}
            samples = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = RATE_HZ
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                bits += 8 * packet.size
                container.mux(packet)
        middle = time.perf_counter()
        made = AudioConfig(sample_rate_hz=RATE_HZ, encoding="linear").build().decode(file.getvalue())
        decoded = _amplitudes(made)
        return decoded[: len(waveform)], bits, middle - begin, time.perf_counter() - middle

    return code


def log_mel(waveform: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """80 log-mels without any quantization, and phases by Griffin-Lim: the bound of log-mel recipes."""
    begin = time.perf_counter()
    transform = LogMel(RATE_HZ, 80, 160, 640)
    spectrogram = transform(torch.from_numpy(waveform)[None, None])
    middle = time.perf_counter()
    made = griffin_lim(spectrogram, transform, iterations=60)[0, 0].numpy()
    return made, 32.0 * spectrogram.numel(), middle - begin, time.perf_counter() - middle


def _amplitudes(levels: np.ndarray) -> np.ndarray:
    modality = AudioConfig(sample_rate_hz=RATE_HZ, encoding="linear").build()
    return np.asarray(modality.render(modality.to_model(torch.from_numpy(levels[None])))[0]).reshape(-1)


def recordings(folder: Path, num: int, table: Path) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """Yield evenly spaced test recordings with a transcript: name, waveform and words."""
    header, *rows = [line.fields for line in read_lines(table, ("utt",))]
    if not {"utt", "text"} <= {*header}:
        raise InputError(f"expected the columns utt and text in {table}, received {', '.join(header)}")
    utt, text = header.index("utt"), header.index("text")
    words = {row[utt]: row[text].lower().split() for row in rows}
    source = open_source(str(folder), (".flac", ".wav"))
    items = [item for item in source.items("test") if Path(item.name).stem in words]
    if not items:
        raise InputError(
            f"expected recordings of {table} in the split test of {folder}, found none: check both"
        )
    chosen = np.linspace(0, len(items) - 1, min(num, len(items))).round().astype(int)
    for index in chosen.tolist():
        item = items[index]
        assert isinstance(item.content, Path)
        waveform, rate = soundfile.read(item.content, dtype="float32", always_2d=True)
        waveform = waveform.mean(1)
        if rate != RATE_HZ:
            raise InputError(
                f"expected recordings at {RATE_HZ} Hz, received {item.name} at {rate}: convert it"
            )
        yield Path(item.name).stem, waveform, words[Path(item.name).stem]


def judge(codecs: dict[str, Codec], tests: list[tuple[str, np.ndarray, list[str]]]) -> list[Record]:
    """Judge every recording after every codec; the first codec gives the originals."""
    recognizer = WordRecognizer([word for _, _, words in tests for word in words])
    known = set(recognizer.words)
    seconds = sum(len(waveform) for _, waveform, _ in tests) / RATE_HZ
    records: list[Record] = []
    of_originals: list[int] = []
    for name, codec in codecs.items():
        scores, correct, sounds, bits, times = [], [], [], 0.0, np.zeros(2)
        for _, waveform, words in tests:
            made, own_bits, encode_s, decode_s = codec(waveform)
            bits += own_bits
            times += (encode_s, decode_s)
            sounds.append(made)
            scores.append(quality(made))
            correct.append(matched([word for word in words if word in known], recognizer.recognise(made)))
        of_originals = of_originals or correct
        # The number of words is at least one, since the recognizer has some.
        total = sum(word in known for _, _, words in tests for word in words)
        records.append(
            {
                "codec": name,
                "kbit_s": bits / seconds / 1000,
                "recordings": len(tests),
                "seconds": seconds,
                "words": total,
                "judge": {"quality": QUALITY, "words": WORDS, "pitch": PITCH},
                "metrics": {
                    "dnsmos": {key: float(np.mean([each[key] for each in scores])) for key in scores[0]},
                    "words_recognised": sum(correct) / total,
                    **praat_figures([each for _, each, _ in tests], sounds, RATE_HZ),
                },
                "words_kept": sum(map(min, correct, of_originals)) / max(1, sum(of_originals)),
                "encode_real_time_factor": times[0] / seconds,
                "decode_real_time_factor": times[1] / seconds,
            }
        )
        print(records[-1], flush=True)
    return records


def table() -> str:
    """One row for each codec and data set."""
    rows = [
        [
            record["dataset"],
            record["codec"],
            f"{record['kbit_s']:.2f}",
            f"{record['metrics']['dnsmos']['overall']:.2f}",
            f"{record['metrics']['dnsmos']['signal']:.2f}",
            f"{100 * record['metrics']['words_recognised']:.0f} %",
            f"{100 * record['words_kept']:.0f} %",
            f"{100 * record['metrics']['voiced_kept']:.0f} %",
            f"{record['metrics']['f0_error_semitones']:.2f}",
        ]
        for record in read_records(RECORDS)
    ]
    header = [
        "data",
        "codec",
        "kbit/s",
        "DNSMOS overall",
        "signal",
        "words recognised",
        "of those of the originals",
        "voiced frames",
        "F0 error, semitones",
    ]
    return markdown(header, rows)


def main(
    run: Annotated[Path, typer.Argument(help="run of the recipe speech-codec")],
    speech: Annotated[Path, typer.Option(help="folder with a split test")],
    transcripts: Annotated[Path, typer.Option(help="table with the columns utt and text")],
    dataset: Annotated[str, typer.Option(help="name in the records")],
    num: Annotated[int, typer.Option(help="recordings")] = 100,
) -> None:
    """Judge the codecs on held-out speakers, and replace the records of this data set."""
    torch.set_num_threads(1)
    tokenizer = load(run, "cpu")
    whole = tokenizer.autoencoder.num_codebooks
    codecs: dict[str, Codec] = {
        "originals": original,
        f"speech-codec, {whole} codes": of_tokenizer(tokenizer),
        f"speech-codec, first {whole // 2}": of_tokenizer(
            Tokenizer(tokenizer.trained.first_codes(whole // 2))
        ),
        "Opus": opus(6),
        "80 log-mels, not quantized, Griffin-Lim": log_mel,
    }
    records = judge(codecs, list(recordings(speech, num, transcripts)))
    about = {"dataset": dataset, "model": tokenizer.fingerprint, "run": tokenizer.trained.about}
    others = [record for record in read_records(RECORDS) if record["dataset"] != dataset]
    write_records(RECORDS, [*others, *(about | record for record in records)])


if __name__ == "__main__":
    typer.run(main)
