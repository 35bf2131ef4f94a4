"""Objectives compared on frames: records, table and picture for `docs/objectives.md`.

`python benchmarks/objectives.py RUNS --data FRAMES` evaluates the runs `RUNS/NAME-seedN` without a record on
held-out frames, adds their records to `results/objectives.jsonl`, and draws reconstructions of seed 0.
`RUNS/times.txt` has a line `NAME-seedN SECONDS` of processor time for each run. `tables.py` writes the table.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, ImageDraw, ImageFont

from smalti.app.commands.evaluate import evaluate
from smalti.app.data import open_data
from smalti.modalities.image.pixels import picture_grid
from smalti.studies.records import Record, markdown, read_records, write_records
from smalti.tokenizer import load
from smalti.training.checkpoints import RunDirectory

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "objectives.jsonl"
PICTURE = ROOT / "docs" / "images" / "objectives.png"
TITLES = {
    "conv": "paper's networks, likelihood",
    "resnet": "`resnet`, likelihood",
    "resnet-coarse": "`resnet`, `full_resolution=false`, likelihood",
    "resnet-perceptual": "`resnet`, perceptual (weight 2)",
    "resnet-coarse-perceptual": "`resnet`, `full_resolution=false`, perceptual (weight 2)",
    "resnet-adversarial-light": "`resnet`, perceptual, adversarial (0.15, slower discriminator)",
    "resnet-adversarial": "`resnet`, perceptual, adversarial (0.5)",
}
"""What each run is, in the order of the table."""
SHOWN = 10
LEFT = 180
"""Width of the names beside the picture, pixels."""


def table() -> str:
    """Means over seeds, with the smallest and the largest value."""
    records = read_records(RECORDS)
    rows = []
    for name, title in TITLES.items():
        own = [record for record in records if record["objective"] == name]
        if own:
            metrics = [record["metrics"] for record in own]
            rows.append(
                [
                    title,
                    f"{own[0]['steps']:,}",
                    _range([record["processor_s"] for record in own], "{:,.0f}"),
                    _range([each["feature_distance"] for each in metrics], "{:.0f}"),
                    _range([each["psnr"] for each in metrics], "{:.2f}"),
                    _range([each["ssim"] for each in metrics], "{:.3f}"),
                ]
            )
    header = ["objective", "steps", "processor seconds", "feature distance", "PSNR, dB", "SSIM"]
    return markdown(header, rows)


def _range(values: Sequence[float], form: str) -> str:
    mean = form.format(statistics.mean(values))
    if len(values) == 1:
        return f"{mean} (one seed)"
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def record_of(run: Path, report: dict[str, Any], processor_s: float) -> Record:
    """Describe a run and its evaluation."""
    directory = RunDirectory(run)
    config = directory.read_config("recipe")
    name, _, seed = run.name.rpartition("-seed")
    return {
        "experiment": "objectives",
        "dataset": "ViZDoom my_way_home, 64x64",
        "objective": name,
        "seed": int(seed),
        "steps": config["recipe"]["training"]["steps"],
        "batch_size": config["recipe"]["training"]["batch_size"],
        "seconds": round(directory.seconds),
        "processor_s": processor_s,
        "device": config.get("device", "unknown"),
        "commit": config.get("commit", "unknown"),
        "judge": report["features"]["network"],
        "protocol": report["protocol"]["features"],
        "num": report["num"],
        "metrics": {
            "feature_distance": report["features"]["reconstructions"],
            "feature_distance_halves": report["features"]["halves"],
            **{key: report["reconstruction"][key] for key in ("psnr", "ssim", "mse_over_variance")},
            "bits_per_dim": report["bits_per_dim"]["uniform"]["bits_per_dim"],
            "usage": report["codebook"]["usage"],
        },
        "config": {key: config["recipe"][key] for key in ("model", "objective", "training")},
    }


def draw(runs: Sequence[Path], data: str) -> None:
    """Draw originals above the reconstructions of each run."""
    source = open_data(data, load(str(runs[0])).modality)
    count = source.count("test")
    modality = load(str(runs[0])).modality
    chosen = [next(iter(source.section("test", n, n + 1))) for n in range(0, count, -(-count // SHOWN))]
    originals = torch.stack([torch.from_numpy(modality.decode(item.content)) for item in chosen])
    rows, names = [originals.numpy()], ["originals"]
    for run in runs:
        tokenizer = load(str(run))
        rows.append(tokenizer.decode(tokenizer.encode(originals)).numpy())
        names.append(run.name.rpartition("-seed")[0])
    grid = picture_grid(rows, len(chosen)).convert("RGB")
    canvas = Image.new("RGB", (LEFT + grid.width, grid.height), "white")
    canvas.paste(grid, (LEFT, 0))
    for row, name in enumerate(names):
        place = (LEFT - 8, round((row + 0.5) * grid.height / len(names)))
        ImageDraw.Draw(canvas).text(place, name, fill="black", font=ImageFont.load_default(14), anchor="rm")
    canvas.save(PICTURE)


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs NAME-seedN, and of times.txt.")],
    data: Annotated[str, typer.Option(help="The frames, as given to smalti train.")],
) -> None:
    """Evaluate runs, write their records, and draw reconstructions."""
    times = dict(line.split() for line in (runs / "times.txt").read_text().splitlines())
    found = [path for name in TITLES for path in sorted(runs.glob(f"{name}-seed[0-9]"))]
    known = {(record["objective"], record["seed"]): record for record in read_records(RECORDS)}
    for run in found:
        name, _, seed = run.name.rpartition("-seed")
        if run.name in times and (name, int(seed)) not in known:
            report = evaluate(str(run), data, features=True, quiet=True)
            known[name, int(seed)] = record_of(run, report, float(times[run.name]))
            write_records(RECORDS, list(known.values()))
    draw([run for run in found if run.name.endswith("seed0")], data)


if __name__ == "__main__":
    typer.run(main)
