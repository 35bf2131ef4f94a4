"""Append the latest evaluation of a run to `results/AREA.jsonl`, one record per prior.

    python benchmarks/results_of_run.py RUN --experiment fashion-mnist --dataset Fashion-MNIST --note "..."

Figures are read from the run's evaluation.json, seconds and steps from its metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.app.provenance import commit, device
from smalti.training.checkpoints import RunDirectory

RESULTS = Path(__file__).parents[1] / "results"
LEARNED = ("learned", "learned+class")


def main(
    run: Annotated[Path, typer.Argument(help="An evaluated run.")],
    experiment: Annotated[str, typer.Option(help="Name of the experiment.")],
    dataset: Annotated[str, typer.Option(help="Name of the data set.")],
    area: Annotated[str, typer.Option(help="Name of the file of records.")] = "images",
    at_commit: Annotated[
        str | None, typer.Option("--commit", help="Commit that trained the run. Default: the current one.")
    ] = None,
    budget: Annotated[str, typer.Option(help="As of a study: cpu, paper, ...")] = "cpu",
    note: Annotated[str, typer.Option(help="Additional remarks.")] = "",
) -> None:
    """Write the records."""
    autoencoder, prior = RunDirectory(run), RunDirectory(run / "prior")
    config = autoencoder.read_config()
    report = json.loads((run / "evaluation.json").read_text())
    training = config["recipe"]["training"]
    for name, row in report["bits_per_dim"].items():
        runs = [autoencoder, prior] if name in LEARNED else [autoencoder]
        line = {
            "experiment": experiment,
            "dataset": dataset,
            "split": report["split"],
            "model": report["title"],
            "prior": name,
            "metrics": {**row, **report["reconstruction"], **report["codebook"], "num": report["num"]},
            "seed": training["seed"],
            "budget": budget,
            "steps": sum(steps(run) for run in runs),
            "seconds": round(sum(run.seconds for run in runs)),
            "device": device(),
            "commit": at_commit or commit(),
            "config": config["recipe"],
            "note": note,
        }
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{area}.jsonl").open("a") as records:
            records.write(json.dumps(line) + "\n")
        print(f"{experiment} {name}: {row['bits_per_dim']:.4f} bits/dim")


def steps(run: RunDirectory) -> int:
    """Return the number of training steps of a run."""
    return max(line["step"] for line in run.metrics())


if __name__ == "__main__":
    typer.run(main)
