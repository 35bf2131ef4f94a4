"""Generate the tables of the README and the docs from the records: `python benchmarks/tables.py [--check]`.

A document marks the place of a table by `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import codec
import coupled
import masked
import objectives
from compared import TRAINED, comparison, errors, gaussian, gaussian_usage, usage
from names import records_of
from speeds import speed, speed_in_full

from smalti.studies.likelihood.recipes import PAPER, PARTS, SCALES
from smalti.studies.records import (
    Record,
    bounds_table,
    by,
    caption,
    markdown,
    read_records,
    standard_error,
    swaps_table,
)

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "docs/comparison.md",
    "docs/compression.md",
    "docs/experiments.md",
    "docs/likelihood.md",
    "docs/objectives.md",
    "docs/parts.md",
    "docs/quantizers.md",
    "docs/results.md",
    "docs/speech.md",
    "docs/speed.md",
    "docs/video.md",
)
BUDGETS = ("tiny", "cpu", "cpu-long", "paper")
"""Budgets of studies in ascending order."""
PROCESSOR = ("encode_processor_s", "decode_processor_s")
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def images() -> str:
    """Table of bits/dim and reconstruction metrics by model and prior."""
    rows = [
        [
            f"{r['dataset']} {r['split']} (n = {r['metrics']['num']:,})",
            r["model"],
            r["prior"],
            f"{r['metrics']['bits_per_dim']:.3f} ± {r['metrics']['stderr']:.3f}",
            f"{r['metrics']['rate']:.3f} + {r['metrics']['distortion']:.3f}",
            f"{r['metrics']['psnr']:.2f}",
            f"{r['metrics']['ssim']:.3f}",
            f"{r['metrics']['usage']:.1%}",
            f"{r['steps']:,} / {r['seconds'] / 60:.0f} min",
        ]
        for r in records_of(ROOT / "results" / "images.jsonl")
    ]
    header = [
        "data",
        "model",
        "prior",
        "bits/dim",
        "rate + distortion",
        "PSNR",
        "SSIM",
        "codes used",
        "steps / time",
    ]
    return markdown(header, rows)


def bounds(experiment: str) -> str:
    """Caption and table of bits/dim for every model of a study, with the paper's figures if any."""
    chosen = [r for r in likelihood(experiment) if "swaps" not in r["metrics"]]
    if not chosen:
        return "No results yet.\n"
    paper = PAPER if experiment == "cifar10-table" else {}
    return f"{caption(chosen)}\n\n{markdown(*bounds_table(chosen, paper))}"


def swaps() -> str:
    """Table of the likelihood approximation, compared with sums over more and more codes."""
    chosen = [r for name in STUDIES for r in likelihood(name) if "swaps" in r["metrics"]]
    return markdown(*swaps_table(chosen))


def likelihood(experiment: str) -> list[Record]:
    """Return the records of one likelihood study at its largest budget."""
    return largest(by(records_of(ROOT / "results" / "likelihood.jsonl"), "experiment").get(experiment, []))


def phonemes() -> str:
    """Table of phoneme accuracy of units and controls, averaged over seeds."""
    chosen = [r for r in speech("phonemes") if "phoneme_accuracy" in r["metrics"]]
    rows = []
    for (dataset, model), group in by(chosen, "dataset", "model").items():
        metrics = [record["metrics"] for record in group]
        rows.append(
            [
                dataset,
                model,
                f"{mean(metrics, 'phoneme_accuracy'):.1%} {error_over_seeds(metrics, 'phoneme_accuracy')}",
                f"{mean(metrics, 'phoneme_accuracy_with_silence'):.1%}",
                f"{mean(metrics, 'majority'):.1%}",
                f"{mean(metrics, 'shuffled'):.1%}",
                f"{mean(metrics, 'bigram'):.1%}",
                f"{mean(metrics, 'mutual_information'):.2f}",
                abx_of(metrics),
            ]
        )
    header = ["data", "codes", "phoneme accuracy", "with silence", "majority", "shuffled"]
    return markdown([*header, "bigram map", "MI, nats", "ABX error"], rows)


def abx_of(metrics: list[dict[str, float]]) -> str:
    """Format the ABX error of the code vectors, or "-" if it was not measured."""
    known = [m["abx code vectors, angular"] for m in metrics if "abx code vectors, angular" in m]
    return f"{sum(known) / len(known):.1f} %" if known else "-"


def speech_bits() -> str:
    """Table of bits/dim and nats per code of speech by prior, averaged over seeds."""
    # The likelihood has no weight in the training of voices-codec.
    names = ("speech", "conversion", "phonemes")
    chosen = [r for name in names for r in speech(name) if "bits_per_dim" in r["metrics"]]
    rows = []
    for (dataset, experiment, prior), group in by(chosen, "dataset", "experiment", "prior").items():
        metrics = [record["metrics"] for record in group]
        rows.append(
            [
                dataset,
                "waveform" if experiment == "speech" else "log-mel",
                experiment,
                prior,
                f"{mean(metrics, 'bits_per_dim'):.3f} {error_over_seeds(metrics, 'bits_per_dim', '.3f')}",
                f"{mean(metrics, 'rate'):.4f} + {mean(metrics, 'distortion'):.3f}",
                f"{mean(metrics, 'nats_per_code'):.3f}",
                f"{mean(metrics, 'usage'):.0%}",
            ]
        )
    header = [
        "data",
        "signal",
        "study",
        "prior",
        "bits/dim",
        "rate + distortion",
        "nats/code",
        "codes used",
    ]
    return markdown(header, rows)


def code_use() -> str:
    """Table of the waveform decoder's distortion with true, shuffled and no codes, one row per seed."""
    chosen = [r for r in speech("speech") if "distortion_true" in r["metrics"] and r["prior"] == "uniform"]
    rows = [
        [r["dataset"], str(r["seed"]), f"{r['steps']:,}"]
        + [f"{r['metrics'][f'distortion_{kind}']:.3f}" for kind in ("true", "shuffled", "none")]
        for r in chosen
    ]
    return markdown(["data", "seed", "steps", "true codes", "shuffled", "no codes"], rows)


def conversion() -> str:
    """Table of the judges' scores of recordings, reconstructions and conversions."""
    names = {"speech": "waveform", "conversion": "log-mel", "voices-codec": "harmonics"}
    chosen = [r for name in names for r in speech(name) if "target_speaker_rate" in r["metrics"]]
    rates = ("target_speaker_rate", "source_speaker_rate", "content_rate", "content_kept")
    independent = ("target_speaker_rate", "content_rate", "content_kept")
    rows = []
    for (dataset, experiment, model), group in by(chosen, "dataset", "experiment", "model").items():
        metrics = [record["metrics"] for record in group]
        rows.append(
            [
                dataset,
                names[experiment],
                model,
                f"{len(group)} x {metrics[0]['num']}",
                *(share_of(metrics, name) for name in rates),
                f"{mean(metrics, 'mel_distance'):.2f}",
                share_of(metrics, "independent_voiced_kept"),
                semitones_of(metrics),
                *(share_of(metrics, f"independent_{name}") for name in independent),
            ]
        )
    header = ["data", "signal", "audio", "seeds x n", "target speaker", "source speaker", "digit correct"]
    others = ["target speaker, independent", "digit correct, independent", "digit kept, independent"]
    voice = ["voiced frames, independent", "F0 from target's, independent"]
    return markdown([*header, "digit kept", "mel distance", *voice, *others], rows)


def semitones_of(metrics: list[dict[str, float]]) -> str:
    """Format the distance of the median F0 from the target's by the independent judge, semitones."""
    name = "independent_f0_from_target_semitones"
    return f"{mean(metrics, name):.1f}" if all(name in m for m in metrics) else "-"


def share_of(metrics: list[dict[str, float]], name: str) -> str:
    """Format a mean share over seeds, with its standard error if there are several; "-" if not measured."""
    if any(name not in m for m in metrics):
        return "-"
    error = standard_error([m[name] for m in metrics])
    return f"{mean(metrics, name):.1%}" + (f" ± {error:.1%}" if error else "")


def frames(experiment: str, model: str) -> str:
    """Table of single frames: reconstruction, codebook usage and the bound of each prior."""
    rows = [
        [
            r["dataset"],
            f"{r['metrics']['num']:,}",
            r["prior"],
            f"{r['metrics']['nats_per_code']:.3f}",
            f"{r['metrics']['bits_per_dim']:.3f}",
            f"{r['metrics']['psnr']:.2f}",
            f"{r['metrics']['ssim']:.3f}",
            f"{r['metrics']['usage']:.1%}",
            f"{r['steps']:,} / {r['seconds'] / 60:.0f} min",
        ]
        for r in worlds(experiment)
        if r["model"].endswith(model)
    ]
    header = ["data", "n", "prior", "nats/code", "bits/dim", "PSNR", "SSIM", "codes used", "steps / time"]
    return markdown(header, rows)


def lab_second() -> str:
    """Table of the second stage with three codes per grid, and its controls."""
    rows = []
    for r in worlds("lab"):
        m = r["metrics"]
        trained = f"{r['steps']:,} / {r['seconds'] / 60:.0f} min"
        if r["prior"] is None:
            nats = [f"{m[f'nats_{kind}']:.1f}" for kind in ("true", "shuffled", "none")]
            used = ", ".join(f"{m[f'perplexity_{index}']:.0f}" for index in range(3))
            gain = f"{m['gain_bits']:.1f} of {m['rate_bits']:.0f}"
            rows.append([r["dataset"], r["model"], *nats, gain, used, "-", trained])
        elif r["model"].startswith("control") and r["prior"] == "normal":
            cells = [f"{m['distortion_nats']:.1f}", "-", "-", "-", "-", f"{m['rate_nats']:.2f}"]
            rows.append([r["dataset"], r["model"], *cells, trained])
        elif r["model"].endswith("frames") and r["prior"] == "learned":
            cells = ["-", "-", f"{m['rate_nats']:.1f}", "-", "-", "-"]
            rows.append([r["dataset"], "control: PixelCNN of the same size", *cells, trained])
    header = ["data", "model", "nats/grid", "shuffled codes", "no codes", "gain, bits", "perplexities"]
    return markdown([*header, "KL, nats", "steps / time"], rows)


def video_actions() -> str:
    """Table of the nats that actions save the prior, and of the judge's accuracy on its samples."""
    rows = []
    for (dataset, seed), group in by(worlds("video"), "dataset", "seed").items():
        entries = {record.get("entry"): record for record in group}
        gains, judged, drawn = (entries[name]["metrics"] for name in ("actions", "judge", "rollouts"))
        record, guided = entries["rollouts"], entries.get("guided rollouts")
        rows.append(
            [
                dataset,
                str(seed),
                f"{gains['num']:,}",
                *(f"{gains[f'nats_{kind}']:.1f}" for kind in ("true", "shuffled", "none")),
                f"{gains['gain_over_shuffled']:.1f} ± {gains['gain_over_shuffled_stderr']:.1f}",
                *(f"{m['pair_accuracy']:.0%}" for m in (judged, drawn)),
                f"{judged['action_accuracy']:.0%}",
                f"{drawn['action_accuracy']:.0%} ± {drawn['action_accuracy_stderr']:.0%}",
                by_action(drawn),
                "-" if guided is None else f"{by_action(guided['metrics'])} (weight {guided['guidance']:g})",
                f"{record['steps']:,} / {record['seconds'] / 60:.0f} min",
            ]
        )
    header = ["data", "seed", "windows", "nats/frame", "shuffled actions", "no actions", "gain"]
    pairs = ["pair accuracy, real", "pair accuracy, generated"]
    clips = ["action accuracy, real", "action accuracy, generated", "by action", "guided", "steps / time"]
    return markdown([*header, *pairs, *clips], rows)


def by_action(accuracy: Mapping[str, float]) -> str:
    """Share of the clips of each action that the judge names correctly."""
    clips = {name.removeprefix("clips_of_"): rate for name, rate in accuracy.items() if "clips_of_" in name}
    return ", ".join(f"{name} {rate:.0%}" for name, rate in clips.items())


def video_horizon() -> str:
    """Table of PSNR and sharpness of generated frames by their distance from the last given frame."""
    frames = (1, 2, 3, 5, 7, 10)
    rows = [
        [
            f"{r['dataset']}, seed {r['seed']}",
            r["entry"].removeprefix("horizon, "),
            *(f"{r['metrics']['psnr'][n - 1]:.1f} / {r['metrics']['sharpness'][n - 1]:.2f}" for n in frames),
        ]
        for r in worlds("video")
        if r.get("entry", "").startswith("horizon")
    ]
    return markdown(["PSNR / sharpness", "frames", *(f"frame {number}" for number in frames)], rows)


def files() -> str:
    """Table of lossless files by data set, codec and prior."""
    rows = []
    for record in read_records(ROOT / "results" / "files.jsonl"):
        own = record["metrics"]
        bound = f"{own['bits_per_dim']:.4f}" if "bits_per_dim" in own else "-"
        times = [f"{own[name]:.0f} s" if name in own else "-" for name in PROCESSOR]
        size = [f"{own['bytes']:,}", f"{own['bits_per_dim_of_files']:.4f}"]
        model = f"{own['model_bytes'] / 1e6:.1f} MB" if own.get("model_bytes") else "-"
        names = [record["dataset"], record["codec"], record["prior"] or "-"]
        rows.append([*names, *size, bound, *times, model])
    header = ["data", "codec", "prior", "bytes", "bits/dim", "bound", "coding", "decoding", "model"]
    return markdown(header, rows)


def worlds(experiment: str) -> list[Record]:
    """Return the records of one study of worlds at its largest budget."""
    return largest(by(records_of(ROOT / "results" / "video.jsonl"), "experiment").get(experiment, []))


def speech(experiment: str) -> list[Record]:
    """Return the records of one speech study at its largest budget."""
    return largest(by(records_of(ROOT / "results" / "speech.jsonl"), "experiment").get(experiment, []))


def largest(records: list[Record]) -> list[Record]:
    """Return the records of the largest budget."""
    budget = max((BUDGETS.index(record["budget"]) for record in records), default=0)
    return [record for record in records if record["budget"] == BUDGETS[budget]]


def mean(metrics: list[dict[str, float]], name: str) -> float:
    """Return the mean of a metric over seeds."""
    return sum(m[name] for m in metrics) / len(metrics)


def error_over_seeds(metrics: list[dict[str, float]], name: str, form: str = ".1%") -> str:
    """Format the standard error over seeds, and the number of seeds."""
    error = standard_error([m[name] for m in metrics])
    return "(1 seed)" if error is None else f"± {error:{form}} ({len(metrics)} seeds)"


STUDIES = [f"{data}-{part}" for data in SCALES for part in PARTS]
TABLES: dict[str, Callable[[], str]] = {
    "images": images,
    "speed": speed,
    "speed-in-full": speed_in_full,
    "swaps": swaps,
    "phonemes": phonemes,
    "speech-bits": speech_bits,
    "code-use": code_use,
    "conversion": conversion,
    "lab-frames": lambda: frames("lab", "frames"),
    "frames128": lambda: frames("frames128", "codebook"),
    "lab-second": lab_second,
    "video-actions": video_actions,
    "video-horizon": video_horizon,
    "coupled": coupled.table,
    "files": files,
    "objectives": objectives.table,
    "codec": codec.table,
    "samples": masked.table,
    "gaussian": gaussian,
    "gaussian-usage": gaussian_usage,
    "quantizers-errors": errors,
    "quantizers-usage": usage,
    **{name: lambda name=name: comparison(name) for name in TRAINED},
    **{name: lambda name=name: bounds(name) for name in STUDIES},
}


def filled(text: str) -> str:
    """Return a document with its tables regenerated."""
    return MARK.sub(lambda mark: mark[1] + TABLES[mark[2]]() + mark[3], text)


def main() -> None:
    """Write all tables; with --check, exit with an error if any is out of date."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        if filled(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(filled(text))
    if "--check" in sys.argv and stale:
        sys.exit(f"tables are out of date in {', '.join(stale)}: run `make results`")


if __name__ == "__main__":
    main()
