"""Commands of the studies: `phonemes`, `reproduce`, `compare` and `collect`, added through an entry point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.app.options import DATA_HELP, Data, Out, Plugin, Quiet, Run, Split, folder


def add_commands(app: typer.Typer) -> None:
    """Add the commands of the studies to the command line."""
    for command in (phonemes, reproduce, compare, collect):
        app.command()(command)


def phonemes(
    run: Run,
    data: Data,
    alignments: Annotated[
        Path,
        typer.Option("--alignments", metavar="TSV", help="Phone alignments: columns utt, start, end, phone."),
    ],
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Measure the phoneme content of speech codes, on speakers not used to fit the code-to-phone map.

    Example: `smalti phonemes runs/units --data speech --alignments speech/phones.tsv`
    """
    from smalti.studies.speech.phonemes import phonemes as verb
    from smalti.studies.speech.phonemes import show

    report = verb(run, data, alignments, quiet or as_json, split)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="fashion-mnist, cifar10, speech, conversion, voices-codec, phonemes, lab or video.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help=DATA_HELP + " Default: the data set on the Hub."),
    ] = None,
    out: Out = Path("reproduced"),
    part: Annotated[
        str, typer.Option("--part", help="Study of a data set: table, codes, beta, codebook or likelihood.")
    ] = "table",
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            help="tiny: smoke test; cpu: two cores; cpu-long: a day of two cores (cifar10); paper: as the "
            "paper.",
        ),
    ] = "cpu",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs per model (VIMCO: one).")] = 1,
    pretrain: Annotated[
        str | None,
        typer.Option("--pretrain", metavar="SOURCE", help="Data for pretraining, before --data."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="MODEL", help="Train a single model of the study.")
    ] = None,
    alignments: Annotated[
        Path | None, typer.Option("--alignments", metavar="TSV", help="Phone alignments, for phonemes.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Reproduce an experiment of the paper, and print the results next to the paper's figures.

    Example: `smalti reproduce fashion-mnist --data fashion-mnist --seeds 3 --out runs/table`
    """
    of_speech = ("speech", "conversion", "voices-codec", "phonemes")
    if name in (*of_speech, "lab", "video"):
        from smalti.core.errors import InputError

        if part != "table" or pretrain is not None or only is not None:
            raise InputError(f"--part, --pretrain and --only do not apply to {name}: leave them out")
    if name in of_speech:
        from smalti.studies.speech.reproduce import reproduce_speech

        reproduce_speech(name, data, out, budget, seeds, alignments, quiet)
        return
    if name == "lab":
        from smalti.studies.worlds.lab import reproduce_lab

        reproduce_lab(data, out, budget, seeds, quiet)
        return
    if name == "video":
        from smalti.studies.worlds.video import reproduce_video

        reproduce_video(data, out, budget, seeds, quiet)
        return
    from smalti.studies.likelihood.reproduce import reproduce as verb

    verb(name, data, out, part, budget, seeds, pretrain, only, quiet)


def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="QUANTIZERS [key=value ...]",
            help="Names such as vq,fsq, settings such as 'kind=fsq levels=8,8,8', or a JSON file of settings "
            "by name; then recipe settings to change.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help=DATA_HELP + " With a test split; or gaussian, for vectors (dimension=4 correlation=0.9).",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Recipe of all models and priors. Default: image."),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            "--bits", metavar="BITS[,BITS...]", help="Nominal bits per item, for quantizers given by name."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps per model. Default: the recipe's.")
    ] = None,
    prior_steps: Annotated[
        int | None,
        typer.Option("--prior-steps", min=1, help="Training steps per learned prior. Default: the recipe's."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Models per quantizer.")] = 3,
    search: Annotated[
        int, typer.Option("--search", min=1, help="Settings of the loss weights to try, an odd number.")
    ] = 3,
    fraction: Annotated[
        float,
        typer.Option("--search-fraction", min=0.01, max=1, help="Share of --steps that each trial trains."),
    ] = 0.25,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes, with one thread each if there are several.")
    ] = 1,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            "--known",
            metavar="RECORDS",
            help="records.jsonl of the same comparison made elsewhere, whose trainings are not repeated.",
        ),
    ] = None,
    out: Out = Path("compared"),
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Compare quantizers on your data: same network, budget and bits; rate, distortion, code use and cost.

    The same command goes on after an interruption; quantizers and seeds can be added. Runs may be deleted
    when records.jsonl has been written.

    Example: `smalti compare vq,fsq --data letters --recipe letters --bits 448 --steps 500 --out compared`
    """
    from smalti.core.errors import InputError
    from smalti.studies.quantizers.compare import compare as verb
    from smalti.studies.quantizers.known import read_known

    try:
        rates = [float(text) for text in (bits or "").split(",") if text]
    except ValueError:
        raise InputError(f"expected numbers for --bits, received {bits!r}: write for example 441") from None
    records = read_known(known or ())
    verb(words, data, out, recipe, rates, steps, prior_steps, seeds, search, fraction, jobs, records, quiet)


def collect(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="doom or speech (synthetic).")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="New folder for the data set.", callback=folder)
    ],
    num: Annotated[
        int | None,
        typer.Option("--num", min=1, help="Total frames (default 20,000) or utterances (default 64)."),
    ] = None,
    scenario: Annotated[str, typer.Option("--scenario", help="ViZDoom scenario, or A,B.")] = "my_way_home",
    size: Annotated[int, typer.Option("--size", min=1, help="Frame height and width, pixels.")] = 84,
    length: Annotated[int, typer.Option("--length", min=1, help="Frames per episode.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal files.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Generate a data set: first-person frames with actions (`doom`), or synthetic speech (`speech`).

    `doom` needs `pip install 'smalti[doom]'`, `speech` needs `pip install 'smalti[speech]'`.

    Example: `smalti collect doom --scenario my_way_home --num 20000 --out doom`
    """
    if what == "speech":
        from smalti.studies.speech.collect import collect_speech

        collect_speech(out, 64 if num is None else num, quiet)
        return
    from smalti.studies.worlds.collect import collect as collect_frames

    collect_frames(what, out, 20_000 if num is None else num, scenario, size, length, seed, quiet)
