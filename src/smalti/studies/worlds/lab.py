"""`smalti reproduce lab`: a second-stage VQ-VAE with 27 bits per frame (second experiment of section 4.2).

The paper shows pictures; here, the figures are how much a decoder that can model code grids without latents
relies on three codes, the perplexity of each codebook, and the KL of a continuous VAE as a control, which is
near zero if its posterior collapses.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.app.commands.encode import encode
from smalti.app.console import note
from smalti.app.pages.page import write_page
from smalti.app.provenance import described
from smalti.core.models import Autoencoder
from smalti.data.codes import read_codes
from smalti.evaluation.codebook import CodebookUse
from smalti.studies.records import Record, publish
from smalti.studies.stages import evaluate_once
from smalti.studies.worlds.recipes import LabStudy, lab_study
from smalti.studies.worlds.runs import DRAWS, about, bounds, measured_split, modality_of, train_once
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RESULTS, RunDirectory

EXPERIMENT = "lab"
QUESTION = "Does a decoder that can model frames without latents use three codes per frame?"
SHOWN = 8
"""Number of frames per row of a picture."""


def reproduce_lab(
    data: str | None, out: Path, budget: str = "cpu", seeds: int = 1, quiet: bool = False
) -> list[Record]:
    """Train and evaluate both stages, their priors and the control; write records, a table and pages.

    Finished stages are skipped, so the same command resumes an interrupted reproduction.

    Args:
        data: frames with a test split, such as those of `smalti collect doom`.
        out: directory of runs, records and pages.
        budget: "tiny" for a smoke test, "cpu" for two cores, "paper" for the same networks trained for a
            number of steps that suits a GPU (the paper gives neither widths nor steps).
        seeds: number of seeds, 0 to `seeds` - 1.
        quiet: hide progress.

    Returns:
        The records.

    Raises:
        InputError: for a user error.
    """
    study = lab_study(budget)
    data, source, split = measured_split(EXPERIMENT, data, study.frames.data.build())
    measured_on = described(source, split, data)
    folder = out / f"{EXPERIMENT}-{budget}"
    records: list[Record] = []
    for seed in range(seeds):
        note(f"lab, seed {seed}", quiet)
        records += _of_seed(study.seeded(seed), seed, data, split, measured_on, folder / f"seed{seed}", quiet)
    records = [{**record, "budget": budget} for record in records]
    publish(folder, records, quiet)
    note(f"The runs, records.jsonl and table.md are in {folder}, a page in each seed's folder.", quiet)
    return records


def _of_seed(
    study: LabStudy, seed: int, data: str, split: str, measured_on: str, folder: Path, quiet: bool
) -> list[Record]:
    frames, second, control = (folder / name for name in ("frames", "second", "control"))
    train_once(study.frames, data, frames, True, quiet)
    evaluate_once(frames, data, split, quiet, DRAWS)
    codes = folder / "codes"
    for name in ("train", split):
        file = codes / f"{name}.parquet"
        if not file.is_file() or read_codes(file)[0].model != RunDirectory(frames).fingerprint():
            file.unlink(missing_ok=True)
            encode(str(frames), data, file, name, quiet)
    train_once(study.second, str(codes), second, True, quiet)
    evaluate_once(second, str(codes), split, quiet, DRAWS)
    train_once(study.control, str(codes), control, False, quiet)
    evaluate_once(control, str(codes), split, quiet, DRAWS)
    _page(load(str(frames)), load(str(second)), codes / f"{split}.parquet", folder, seed)
    shared = {
        "experiment": EXPERIMENT,
        "dataset": Path(data).name,
        "split": split,
        "measured_on": measured_on,
        "seed": seed,
        "note": QUESTION,
    }
    records = [{**shared, **row} for run in (frames, second, control) for row in bounds(run)]
    reliance = {
        **shared,
        **about(second, None),
        "prior": None,
        "metrics": _reliance_on_codes(second, codes, split),
    }
    return [*records, reliance]


def _reliance_on_codes(run: Path, codes: Path, split: str) -> dict[str, Any]:
    """Return nats per grid with true, shuffled and no codes, the gain in bits, and codebook perplexities."""
    report, dims = json.loads((run / RESULTS).read_text()), modality_of(run).spec.dims
    nats = {
        f"nats_{kind}": report["codebook"][f"distortion_{kind}"] * dims * math.log(2)
        for kind in ("true", "shuffled", "none")
    }
    tokenizer = load(str(run))
    model = tokenizer.autoencoder
    use = CodebookUse(model.num_codebooks, model.num_codes)
    for _, grids, *_ in read_codes(codes / f"{split}.parquet", 64)[1]:
        use.update(tokenizer.encode(torch.tensor(grids)))
    return {
        **nats,
        "gain_bits": (nats["nats_none"] - nats["nats_true"]) / math.log(2),
        "rate_bits": model.num_codebooks * math.log2(model.num_codes) * math.prod(model.grid),
        **{f"perplexity_{index}": value for index, value in enumerate(use.perplexities())},
        "num": report["num"],
    }


def _page(frames: Tokenizer, second: Tokenizer, codes: Path, folder: Path, seed: int) -> None:
    """Write a page with reconstructions from code grids and from three codes, and samples of both priors."""
    # Evenly spaced over the split, which is sorted by episode.
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
        package="smalti.studies.worlds",
        title=frames.recipe.name,
        reconstructions=frames.directory / "figures" / "reconstructions.png",
        second_stage=figures / "second_stage.png",
        first_samples=figures / "first_samples.png",
        second_samples=figures / "second_samples.png",
        bits=f"{math.log2(second.autoencoder.num_codes) * second.autoencoder.num_codebooks:g}",
    )


def _drawn(second: Tokenizer, codes: Tensor, seed: int) -> Tensor:
    """Sample code grids given their three codes."""
    return second.modality.to_stored(second.decode_signals(codes, seed=seed))
