"""Share of the demo's new letters that a classifier of real letters names rightly.

`python benchmarks/letters.py RUN` draws letters of every class from the prior of RUN, a run of the recipe
`letters`, with the settings of the demo unless others are given. The judge is a small convolutional network,
trained on pictures of `LettersSource` in the training fonts with another seed than the demo's, and on no
generated or decoded picture. Originals in held-out fonts and their reconstructions are judged too, as an
upper limit of what can be expected of samples.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smalti.app.commands.demo import GUIDANCE, SAMPLES_PER_CLASS, TEMPERATURE
from smalti.app.letters import LettersSource
from smalti.app.provenance import commit, device
from smalti.core.conditions import Conditions
from smalti.stored_priors import PRIOR_DIRECTORY
from smalti.studies.records import Record, last_step, read_records, write_records
from smalti.tokenizer import Tokenizer, load
from smalti.training.checkpoints import RunDirectory

RECORDS = Path(__file__).parents[1] / "results" / "samples.jsonl"
EXPERIMENT = "letters"
JUDGE = "convolutional network of four layers"
JUDGE_SEED = 1
"""Seed of the judge's letters and weights; the demo's letters have seed 0."""
NUM_TRAIN, EPOCHS, BATCH = 20_000, 4, 128
AT_ONCE = 208
"""Grids that are drawn together."""

Pictures = tuple[Tensor, Tensor]
"""uint8 `(N, C, H, W)`, and labels."""


def draw_letters(source: LettersSource, split: str) -> Pictures:
    """All pictures of a split, and the indices of their letters in the alphabet."""
    items = list(source.items(split))
    pictures = torch.stack([torch.from_numpy(item.content).movedim(2, 0) for item in items])
    return pictures, torch.tensor([string.ascii_lowercase.index(item.label or "") for item in items])


def scaled(pictures: Tensor) -> Tensor:
    """uint8 pictures in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def build_judge() -> nn.Module:
    """An untrained judge of 32x32 RGB pictures."""
    torch.manual_seed(JUDGE_SEED)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, 1, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 16, len(string.ascii_lowercase))),
    )


def train_judge(network: nn.Module) -> None:
    """Train the judge for a minute on letters in the training fonts."""
    pictures, labels = draw_letters(LettersSource(NUM_TRAIN, 0, JUDGE_SEED), "train")
    steps = EPOCHS * -(-len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(pictures)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(network(scaled(pictures[chosen])), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


def ready_judge(path: Path | None) -> Callable[[Pictures], float]:
    """The judge, read from a file or trained and written to it: share of the pictures it names rightly."""
    network = build_judge()
    if path is not None and path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        train_judge(network)
        if path is not None:
            torch.save(network.state_dict(), path)
    network.eval()

    @torch.no_grad()
    def accuracy(given: Pictures) -> float:
        pictures, labels = given
        named = torch.cat([network(scaled(part)).argmax(1) for part in pictures.split(500)])
        return (named == labels).float().mean().item()

    return accuracy


def sample(tokenizer: Tokenizer, num: int, **settings: Any) -> Pictures:
    """Draw `num` letters of each class."""
    letters = [string.ascii_lowercase.index(name) for name in tokenizer.classes]
    labels = torch.arange(len(letters)).repeat(num)
    codes = tokenizer.sample_codes(
        len(labels), conditions=Conditions(label=labels), batch_size=AT_ONCE, **settings
    )
    return torch.as_tensor(tokenizer.decode(codes)), torch.tensor(letters).repeat(num)


def about(run: Path) -> Record:
    """Settings and training of both stages of a run."""
    prior = run / PRIOR_DIRECTORY
    config = RunDirectory(run).read_config("recipe")
    return {
        "commit": config.get("commit", "unknown"),
        "device": config.get("device", "unknown"),
        "steps": {"autoencoder": last_step(RunDirectory(run)), "prior": last_step(RunDirectory(prior))},
        "seconds": {
            "autoencoder": round(RunDirectory(run).seconds),
            "prior": round(RunDirectory(prior).seconds),
        },
        "training_seed": config["recipe"]["training"]["seed"],
    }


def main(
    run: Annotated[Path, typer.Argument(help="Run of the recipe letters, with a prior.")],
    num: Annotated[int, typer.Option(help="Samples of each class.")] = 5 * SAMPLES_PER_CLASS,
    temperature: Annotated[float, typer.Option()] = TEMPERATURE,
    top_p: Annotated[float | None, typer.Option()] = None,
    guidance: Annotated[float, typer.Option()] = GUIDANCE,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    judge: Annotated[Path | None, typer.Option(help="The judge's weights; written if absent.")] = None,
    source: Annotated[str, typer.Option(help="Name in the records; a record of this name is replaced.")] = "",
    keep: Annotated[bool, typer.Option(help="Write the record to results/samples.jsonl.")] = True,
) -> None:
    """Judge originals, reconstructions and samples, and record the shares."""
    torch.set_num_threads(1)
    tokenizer = load(run, "cpu")
    named = ready_judge(judge)
    originals, labels = draw_letters(LettersSource(0, 2000), "test")
    real = named((originals, labels))
    reconstructed = named((torch.as_tensor(tokenizer.decode(tokenizer.encode(originals))), labels))
    settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
    begin = time.process_time()
    samples = sample(tokenizer, num, **settings, seed=seed)
    seconds = time.process_time() - begin
    record: Record = {
        "experiment": EXPERIMENT,
        "dataset": "the demo's letters",
        "source": source or run.name,
        "model": tokenizer.fingerprint,
        "num": len(samples[0]),
        "seed": seed,
        "sampling": {**settings, "seconds_per_item": seconds / len(samples[0])},
        "run": about(run),
        "judge": {
            "class": JUDGE,
            "trained_on": f"{NUM_TRAIN:,} letters in the training fonts, seed {JUDGE_SEED}, {EPOCHS} epochs",
            "held_out_fonts": real,
            "reconstructions": reconstructed,
            "num": len(originals),
        },
        "device": device(),
        "judged_at": commit(),
        "metrics": {"judge_accuracy": named(samples)},
    }
    print(
        f"{record['source']}, {settings}, seed {seed}: {record['metrics']['judge_accuracy']:.1%} of "
        f"{record['num']} samples named rightly; held-out fonts {real:.1%}, reconstructions "
        f"{reconstructed:.1%} of {len(originals)}",
        flush=True,
    )
    if keep:
        _keep(record)


def _keep(record: Record) -> None:
    """Replace the record of this source and seed."""
    key = ("experiment", "source", "seed")
    others = [
        other for other in read_records(RECORDS) if any(other.get(name) != record[name] for name in key)
    ]
    write_records(RECORDS, [*others, record])


if __name__ == "__main__":
    typer.run(main)
