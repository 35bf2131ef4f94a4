"""`smalti reproduce lab`: section 4.2's second experiment, frames of a first-person world named by 27 bits.

What the paper shows in pictures is measured: what three codes are worth to a decoder that could do without
them, how much of each codebook is used, and a continuous VAE beside it, whose KL tells whether it collapses.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.data.codes import read_codes
from smalti.evaluation.codebook import CodebookUse
from smalti.interfaces import Autoencoder, InputError
from smalti.recipes import Recipe, build_modality
from smalti.recipes.world_studies import LabStudy, lab_study
from smalti.tokenizer import Tokenizer, load
from smalti.trained import prior_directory
from smalti.training.checkpoints import RunDirectory
from smalti.verbs.codes import encode
from smalti.verbs.console import note
from smalti.verbs.data import open_data, pick_split
from smalti.verbs.evaluate import RESULTS, evaluate
from smalti.verbs.provenance import described
from smalti.verbs.records import Record, last_step, publish, stage
from smalti.verbs.runs import check_data, check_model, check_target, model_of
from smalti.verbs.train import train_recipe
from smalti.verbs.train_prior import train_prior_recipe
from smalti.web.page import write_page

EXPERIMENT = "lab"
QUESTION = "Are three codes of a frame used by a decoder that could model it without them?"
SHOWN = 8
"""Frames in a row of a picture."""
DRAWS = 10
"""From the continuous control's posterior, of each item."""


def reproduce_lab(
    data: str | None, out: Path, budget: str = "cpu", seeds: int = 1, quiet: bool = False
) -> list[Record]:
    """Train both stages, their priors and the control, measure them, write records, a table and a page.

    What is finished is not done again, so that the same command goes on after a stop.

    Args:
        data: frames with a test split, such as `smalti collect doom` writes.
        out: where runs, records and the page go.
        budget: "tiny" to see it run, "cpu" for two cores, "paper" for the same networks with a GPU's steps
            (the paper tells neither widths nor steps).
        seeds: 0 to `seeds` - 1.
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake.
    """
    study = lab_study(budget)
    if data is None:
        raise InputError("expected frames to reproduce lab with, received none: add --data SOURCE")
    source = open_data(data, build_modality(study.frames.data))
    split = pick_split(source, None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to measure on, found only {split!r} in {data}: collect some "
            "with smalti collect doom"
        )
    folder = out / f"{EXPERIMENT}-{budget}"
    records: list[Record] = []
    for seed in range(seeds):
        note(f"lab, seed {seed}", quiet)
        records += _of_seed(study.seeded(seed), seed, data, split, folder / f"seed{seed}", quiet)
    records = [{**record, "budget": budget} for record in records]
    publish(folder, records, quiet)
    note(f"The runs, records.jsonl and table.md are in {folder}, a page in each seed's folder.", quiet)
    return records


def _of_seed(study: LabStudy, seed: int, data: str, split: str, folder: Path, quiet: bool) -> list[Record]:
    frames, second, control = (folder / name for name in ("frames", "second", "control"))
    _train(study.frames, data, frames, True, quiet)
    _evaluate(frames, data, split, quiet)
    codes = folder / "codes"
    for name in ("train", split):
        file = codes / f"{name}.parquet"
        if not file.is_file() or read_codes(file)[0].model != RunDirectory(frames).fingerprint():
            codes.mkdir(parents=True, exist_ok=True)
            encode(str(frames), data, file, name, quiet)
    _train(study.second, str(codes), second, True, quiet)
    _evaluate(second, str(codes), split, quiet)
    _train(study.control, str(codes), control, False, quiet)
    _evaluate(control, str(codes), split, quiet)
    _page(load(str(frames)), load(str(second)), codes / f"{split}.parquet", folder, seed)
    source = open_data(data, build_modality(study.frames.data))
    shared = {
        "experiment": EXPERIMENT,
        "dataset": Path(data).name,
        "split": split,
        "measured_on": described(source, split, data),
        "seed": seed,
        "note": QUESTION,
    }
    records = [{**shared, **row} for run in (frames, second, control) for row in _bounds(run)]
    worth = {**shared, **_about(second, None), "prior": None, "metrics": _worth(second, codes, split)}
    return [*records, worth]


def _train(recipe: Recipe, data: str, path: Path, has_prior: bool, quiet: bool) -> None:
    """Train a model and its prior, unless that was done."""
    run = RunDirectory(path)
    check_target(run, recipe)
    check_data(run, data)
    check_model(run, model_of(open_data(data, build_modality(recipe.data))))
    if last_step(run) < recipe.training.steps or not (run.figures_path / "learning_curves.png").is_file():
        train_recipe(recipe, data, path, quiet)
    if not has_prior:
        return
    own = RunDirectory(prior_directory(path))
    if last_step(own) < recipe.prior.training.steps or not (own.figures_path / "samples.png").is_file():
        train_prior_recipe(path, recipe.prior, quiet)


def _evaluate(run: Path, data: str, split: str, quiet: bool) -> None:
    own = prior_directory(run)
    prior = RunDirectory(own).fingerprint() if own.is_dir() else None
    if (run / RESULTS).is_file():
        report = json.loads((run / RESULTS).read_text())
        if (report["model"], report["priors"].get("learned"), report["split"]) == (
            RunDirectory(run).fingerprint(),
            prior,
            split,
        ):
            return
    evaluate(str(run), data, split, quiet=quiet, draws=DRAWS)


def _bounds(run: Path) -> list[Record]:
    """A record for each bound of a run, in bits/dim and in nats an item."""
    report = json.loads((run / RESULTS).read_text())
    records = []
    for name, row in report["bits_per_dim"].items():
        dims = _dims(run)
        nats = {f"{part}_nats": row[part] * dims * math.log(2) for part in ("rate", "distortion")}
        learned = "learned" if name.startswith("learned") else None
        metrics = {**row, **nats, **report["reconstruction"], **report["codebook"], "num": report["num"]}
        records.append({**_about(run, learned), "prior": name, "metrics": metrics})
    return records


def _about(run: Path, of_prior: str | None) -> Record:
    """What was trained, and how."""
    stages = [stage(run)] + ([stage(prior_directory(run, of_prior), of_prior)] if of_prior else [])
    report = json.loads((run / RESULTS).read_text())
    is_control = run.name == "control"
    return {
        "model": f"control: {report['title']}" if is_control else f"{report['title']}, {run.name}",
        "steps": sum(one["steps"] for one in stages),
        "seconds": sum(one["seconds"] for one in stages),
        "device": stages[0]["device"],
        "commit": stages[0]["commit"],
        "config": RunDirectory(run).read_config("recipe")["recipe"],
        "stages": stages,
    }


def _worth(run: Path, codes: Path, split: str) -> dict[str, Any]:
    """Nats a grid with true, shuffled and no codes, the gain in bits, and each codebook's perplexity."""
    report, dims = json.loads((run / RESULTS).read_text()), _dims(run)
    nats = {
        f"nats_{kind}": report["codebook"][f"distortion_{kind}"] * dims * math.log(2)
        for kind in ("true", "shuffled", "none")
    }
    tokenizer = load(str(run))
    model = tokenizer.autoencoder
    use = CodebookUse(model.num_codebooks, model.num_codes)
    for _, grids, _ in read_codes(codes / f"{split}.parquet", 64)[1]:
        use.update(tokenizer.encode(torch.tensor(grids)))
    return {
        **nats,
        "gain_bits": (nats["nats_none"] - nats["nats_true"]) / math.log(2),
        "rate_bits": model.num_codebooks * math.log2(model.num_codes) * math.prod(model.grid),
        **{f"perplexity_{index}": value for index, value in enumerate(use.perplexities())},
        "num": report["num"],
    }


def _dims(run: Path) -> int:
    recipe = RunDirectory(run).read_config("recipe")["recipe"]
    return build_modality(Recipe.model_validate(recipe).data).spec.dims


def _page(frames: Tokenizer, second: Tokenizer, codes: Path, folder: Path, seed: int) -> None:
    """Pictures: frames through their codes and through three codes, and drawn ones."""
    # Far apart in the split, which goes walk after walk.
    grids = torch.cat([torch.tensor(batch[1]) for batch in read_codes(codes, 64)[1]])
    own = grids[torch.linspace(0, len(grids) - 1, SHOWN).long()]
    assert isinstance(second.autoencoder, Autoencoder)
    of_three = second.encode(own)
    draws = [_drawn(second, of_three, seed + draw) for draw in range(3)]
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    modality = frames.modality
    modality.preview([frames.decode_signals(rows) for rows in (own, *draws)]).save(
        figures / "second_stage.png"
    )
    pictures = {
        "first_samples": frames.sample_codes(2 * SHOWN, seed=seed),
        "second_samples": _drawn(second, second.sample_codes(2 * SHOWN, seed=seed), seed),
    }
    for name, drawn in pictures.items():
        modality.preview([frames.decode_signals(drawn)]).save(figures / f"{name}.png")
    write_page(
        folder / "index.html",
        "lab.html.j2",
        title=frames.recipe.name,
        reconstructions=frames.directory / "figures" / "reconstructions.png",
        second_stage=figures / "second_stage.png",
        first_samples=figures / "first_samples.png",
        second_samples=figures / "second_samples.png",
        bits=f"{math.log2(second.autoencoder.num_codes) * second.autoencoder.num_codebooks:g}",
    )


def _drawn(second: Tokenizer, codes: Tensor, seed: int) -> Tensor:
    """Code grids drawn from their three codes."""
    return second.modality.to_stored(second.decode_signals(codes, seed=seed))
