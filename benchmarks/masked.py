"""A masked and an autoregressive prior over the same codes: records, table and picture for `docs/parts.md`.

`python benchmarks/masked.py RUN --data DATA --dataset NAME` draws classes in turn from the priors `learned`
and `masked` of RUN, with and without guidance. A small classifier, which is trained on the training pictures,
and a Frechet distance of features judge the samples; originals and reconstructions are judged too.
`tables.py` writes the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smalti.app.data import open_data
from smalti.core.conditions import Conditions
from smalti.evaluation.features import PROTOCOL, FeatureStatistics, frechet_distance
from smalti.modalities.image.pixels import picture_grid
from smalti.stored_priors import prior_directory
from smalti.studies.records import Record, markdown, read_records, write_records
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RunDirectory

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "samples.jsonl"
PICTURE = ROOT / "docs" / "images" / "masked.png"
JUDGE = "convolutional network of three layers, trained on the training pictures"
EPOCHS, BATCH = 3, 128
AT_ONCE = 100
"""Grids that are drawn together."""
LEFT = 200
"""Width of the names beside the picture, pixels."""

Pictures = tuple[Tensor, Tensor]
"""uint8 `(N, C, H, W)`, and labels."""


def read(tokenizer: Tokenizer, data: str, split: str) -> Pictures:
    """All pictures of a split that have one of the run's classes."""
    modality = tokenizer.modality
    found = [
        (torch.from_numpy(modality.decode(item.content)), tokenizer.label(item.label))
        for item in open_data(data, modality).items(split)
        if item.label in tokenizer.classes
    ]
    return torch.stack([picture for picture, _ in found]), torch.tensor([label for _, label in found])


def train_judge(pictures: Tensor, labels: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    """Train a classifier of pictures; returns a function from pictures to labels."""
    torch.manual_seed(0)
    channels = pictures.shape[1]
    network = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(num_classes)),
    )
    network(scaled(pictures[:1]))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(pictures)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(network(scaled(pictures[chosen])), labels[chosen]).backward()
            optimizer.step()
    network.eval()

    @torch.no_grad()
    def classify(given: Tensor) -> Tensor:
        return torch.cat([network(scaled(part)).argmax(1) for part in given.split(1000)])

    return classify


def scaled(pictures: Tensor) -> Tensor:
    """uint8 pictures in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def samples(tokenizer: Tokenizer, prior: str, labels: Tensor, guidance: float) -> tuple[Tensor, float]:
    """Draw a picture of each label; also the processor seconds of drawing the codes, without decoding."""
    settings: dict[str, Any] = {"prior": prior, "guidance": guidance, "seed": 0, "batch_size": AT_ONCE}
    begin = time.process_time()
    codes = tokenizer.sample_codes(len(labels), conditions=Conditions(label=labels), **settings)
    seconds = time.process_time() - begin
    return torch.as_tensor(tokenizer.decode(codes)), seconds


def judged(
    classify: Callable[[Tensor], Tensor], reference: FeatureStatistics, pictures: Tensor, labels: Tensor
) -> dict[str, float]:
    """Share of the pictures that are named by their label, and their distance of features."""
    own = FeatureStatistics()
    own.update(scaled(pictures))
    accuracy = (classify(pictures) == labels).float().mean().item()
    return {"judge_accuracy": accuracy, "feature_distance": frechet_distance(own, reference)}


def draw(tokenizer: Tokenizer, rows: dict[str, Tensor], originals: Tensor) -> None:
    """Draw samples of each class, and the lower half of originals replaced."""
    codes = tokenizer.encode(originals)
    keep = torch.zeros_like(codes, dtype=torch.bool)
    keep[:, :, : keep.shape[2] // 2] = True
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(originals))
    drawn = tokenizer.trained.chosen_prior("masked").inpaint(
        codes, keep, Conditions(label=labels), generator=generator
    )
    rows = {
        **rows,
        "originals": originals,
        "their codes": torch.as_tensor(tokenizer.decode(codes)),
        "lower half drawn": torch.as_tensor(tokenizer.decode(drawn)),
    }
    grid = picture_grid([np.asarray(row) for row in rows.values()], len(originals), scale=2).convert("RGB")
    canvas = Image.new("RGB", (LEFT + grid.width, grid.height), "white")
    canvas.paste(grid, (LEFT, 0))
    for index, name in enumerate(rows):
        place = (LEFT - 8, round((index + 0.5) * grid.height / len(rows)))
        ImageDraw.Draw(canvas).text(place, name, fill="black", font=ImageFont.load_default(14), anchor="rm")
    canvas.save(PICTURE)


def table() -> str:
    """One row for each source of pictures."""
    rows = [
        [
            record["dataset"],
            record["source"],
            f"{record['passes']}" if record["passes"] else "-",
            f"{1000 * record['seconds_per_item']:.1f}" if record["passes"] else "-",
            f"{record['metrics']['judge_accuracy']:.1%}",
            f"{record['metrics']['feature_distance']:.0f}",
            f"{record['training_s'] / 60:.0f}" if record["passes"] else "-",
        ]
        for record in read_records(RECORDS)
        if record["experiment"] == "samples"
    ]
    header = [
        "data",
        "pictures",
        "passes for a grid",
        "processor ms a grid",
        "named by their class",
        "feature distance",
        "training, min",
    ]
    return markdown(header, rows)


def main(
    run: Annotated[Path, typer.Argument(help="Run with the priors learned and masked, with classes.")],
    data: Annotated[str, typer.Option(help="The pictures, as given to smalti train.")],
    dataset: Annotated[str, typer.Option(help="Name in the records.")],
    num: Annotated[int, typer.Option(help="Samples of each prior.")] = 2000,
    picture: Annotated[bool, typer.Option(help="Draw the picture for docs/parts.md.")] = True,
) -> None:
    """Judge the samples of both priors, and replace the records of this data set."""
    torch.set_num_threads(1)
    tokenizer = load(run, "cpu")
    classify = train_judge(*read(tokenizer, data, "train"), len(tokenizer.classes))
    pictures, labels = read(tokenizer, data, "test")
    num = min(num, len(pictures) // 2)
    chosen = torch.linspace(0, len(pictures) - 1, 2 * num).long()
    reference, other = chosen[::2], chosen[1::2]
    statistics = FeatureStatistics()
    statistics.update(scaled(pictures[reference]))
    directory = RunDirectory(run)
    about: dict[str, Any] = {
        "experiment": "samples",
        "dataset": dataset,
        "model": tokenizer.fingerprint,
        "run": tokenizer.trained.about,
        "num": num,
        "judge": {"class": JUDGE, "features": PROTOCOL},
        "device": directory.read_config("recipe").get("device", "unknown"),
    }
    records: list[Record] = []

    def add(source: str, made: Tensor, of: Tensor, **more: Any) -> None:
        measured = judged(classify, statistics, made, of)
        records.append({**about, "source": source, "passes": 0, **more, "metrics": measured})
        print(records[-1]["source"], measured, more, flush=True)

    add("originals, other half", pictures[other], labels[other])
    reconstructed = torch.as_tensor(tokenizer.decode(tokenizer.encode(pictures[other])))
    add("their reconstructions", reconstructed, labels[other])
    wanted = torch.arange(num) % len(tokenizer.classes)
    positions = int(np.prod(tokenizer.autoencoder.grid))
    rows: dict[str, Tensor] = {}
    for prior, title in (("learned", "autoregressive"), ("masked", "masked")):
        own = tokenizer.trained.chosen_prior(prior)
        passes = getattr(getattr(own, "config", None), "rounds", positions)
        trained = RunDirectory(prior_directory(run, prior))
        for guidance in (1.0, 2.0):
            made, seconds = samples(tokenizer, prior, wanted, guidance)
            name = title + (f", guidance {guidance:g}" if guidance > 1 else "")
            rows[name] = made[: len(tokenizer.classes)]
            more = {
                "passes": passes * (1 + (guidance > 1)),
                "seconds_per_item": seconds / num,
                "parameters": sum(each.numel() for each in own.parameters()),
                "training_s": trained.seconds,
            }
            add(name, made, wanted, **more)
    others = [record for record in read_records(RECORDS) if record["dataset"] != dataset]
    write_records(RECORDS, [*others, *records])
    if not picture:
        return
    first = torch.stack([(labels == label).nonzero()[0, 0] for label in range(len(tokenizer.classes))])
    draw(tokenizer, rows, pictures[first])


if __name__ == "__main__":
    typer.run(main)
