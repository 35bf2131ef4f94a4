"""The command line: parse, call a verb, show. A user's mistake ends in one sentence and exit status 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="smalti",
    help="Learn discrete codes from your own pictures, sounds and clips, go to codes and back, and generate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DATA_HELP = "A folder, a tar or Parquet file, idx or CIFAR files, owner/name on the Hub, or the word letters."
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or owner/name on the Hub.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]
Data = Annotated[str, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the results go.")]
Split = Annotated[str | None, typer.Option("--split", help="Which split of the source.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings of the recipe to change.")
]
DecoderTemperature = Annotated[
    float, typer.Option("--temperature", min=0, help="Where decoding draws: below 1 has less noise.")
]
Temperature = Annotated[
    float, typer.Option(help="Below 1 is more typical; 0 always takes the likeliest code.")
]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest codes.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest codes that make up this share.")]
PriorName = Annotated[
    str, typer.Option("--prior", metavar="NAME", help="Which learned prior, where a run has several.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name that `smalti recipes` lists.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's directory.")],
    data: Annotated[str | None, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Begin with this run's weights.")
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train an autoencoder. The same command goes on with a run that was stopped.

    Example: `smalti train image --data photos --out runs/mine training.steps=2000 num_codes=256`
    """
    from smalti.verbs.train import train as run

    run(recipe, data, out, overrides or [], quiet, start)


@app.command("train-prior")
def train_prior(
    run: RunPath,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of a further prior beside the first.")
    ] = "learned",
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train the prior over a run's codes, for sampling and for fewer bits.

    Example: `smalti train-prior runs/mine training.steps=2000 network.layers=8`
    """
    from smalti.verbs.train_prior import train_prior as verb

    verb(run, overrides or [], quiet, name)


@app.command()
def encode(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="CODES",
            help="A .parquet file for all codes, a .smc file for one item's, or a directory for one each.",
        ),
    ],
    split: Split = None,
    quiet: Quiet = False,
) -> None:
    """Turn pictures, sounds or clips into codes: a Parquet file with a row for each, or compact files.

    Example: `smalti encode runs/mine --data photos --out codes.parquet`
    """
    from smalti.verbs.codes import encode as verb

    verb(run, data, out, split, quiet)


@app.command()
def decode(
    run: Run,
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="What `encode` wrote.")],
    out: Out,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class or speaker to decode as.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the draws, where decoding draws.")] = 0,
    temperature: DecoderTemperature = 1.0,
    quiet: Quiet = False,
) -> None:
    """Turn codes back into pictures, sounds or clips.

    Example: `smalti decode runs/mine codes.parquet --out decoded`
    """
    from smalti.verbs.codes import decode as verb

    verb(run, codes, out, quiet, class_name, seed, temperature)


@app.command()
def reconstruct(
    run: Run,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Pictures, sounds or clips.")],
    out: Out,
    quiet: Quiet = False,
) -> None:
    """Encode and decode files, and show them beside the originals.

    Example: `smalti reconstruct runs/mine photos/one.jpg photos/two.png --out reconstructed`
    """
    from smalti.verbs.codes import reconstruct as verb

    verb(run, files, out, quiet)


@app.command()
def sample(
    run: Run,
    out: Out,
    num: Annotated[int, typer.Option("--num", help="How many.")] = 16,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Only this class.")
    ] = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed draws the same items.")] = 0,
    prior: PriorName = "learned",
    length: Annotated[
        int | None,
        typer.Option(
            "--length", min=1, help="Codes in time of each sound or clip; default: as it was trained."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make new pictures, sounds or clips with the learned prior.

    Example: `smalti sample runs/mine --num 16 --class cat --temperature 0.9 --out samples`
    """
    from smalti.verbs.sample import sample as verb

    verb(run, num, out, class_name, temperature, top_k, top_p, seed, quiet, prior, length)


@app.command()
def rollout(
    run: Run,
    clip: Annotated[
        str,
        typer.Option("--input", metavar="CLIP", help="A clip to go on from, or a source of several."),
    ],
    out: Out,
    actions: Annotated[
        str | None, typer.Option("--actions", help='What is done, such as "forward*10 left*3".')
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="How many are drawn, where no actions are given.")
    ] = None,
    num: Annotated[int, typer.Option("--num", help="How many continuations.")] = 4,
    given: Annotated[int, typer.Option("--given", help="Frames of the clip that are gone on from.")] = 6,
    start: Annotated[
        int | None, typer.Option("--start", help="The first of them; default: the clip's last ones.")
    ] = None,
    item: Annotated[int, typer.Option("--item", help="Which clip, where the input has several.")] = 0,
    split: Split = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed draws the same clips.")] = 0,
    prior: PriorName = "learned",
    quiet: Quiet = False,
) -> None:
    """Go on from a clip under actions of your choice: MP4, GIF, and a strip of all frames.

    Example: `smalti rollout runs/walks --input clip.mp4 --actions "forward*10" --out rolled`
    """
    from smalti.verbs.rollout import rollout as verb

    verb(
        run,
        clip,
        out,
        actions=actions,
        frames=frames,
        num=num,
        given=given,
        start=start,
        item=item,
        split=split,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        prior=prior,
        quiet=quiet,
    )


@app.command()
def convert(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="IN", help="A recording.")],
    speaker: Annotated[str, typer.Option("--speaker", metavar="NAME", help="Whose voice is wanted.")],
    out: Annotated[Path, typer.Option("--out", metavar="OUT", help="The WAV or FLAC file to write.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the draws.")] = 0,
    temperature: DecoderTemperature = 1.0,
    quiet: Quiet = False,
) -> None:
    """Say what a recording says in the voice of another speaker of the training data.

    Example: `smalti convert runs/voices me.wav --speaker jackson --out converted.wav`
    """
    from smalti.verbs.convert import convert as verb

    verb(run, file, speaker, out, quiet, seed, temperature)


@app.command()
def phonemes(
    run: Run,
    data: Data,
    alignments: Annotated[
        Path, typer.Option("--alignments", metavar="TSV", help="Phones in time: utt, start, end, phone.")
    ],
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much of the phonemes is in the codes of speech, on speakers held out from the map.

    Example: `smalti phonemes runs/units --data speech --alignments speech/phones.tsv`
    """
    from smalti.verbs.phonemes import phonemes as verb
    from smalti.verbs.phonemes import show

    report = verb(run, data, alignments, quiet or as_json, split)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


@app.command()
def evaluate(
    run: Run,
    data: Data,
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="From each posterior, of a VAE or VIMCO.")
    ] = 50,
    quiet: Quiet = False,
) -> None:
    """Measure bits/dim for each prior, PSNR, SSIM and codebook use, and say how each was measured.

    Example: `smalti evaluate runs/mine --data held_out_photos --json`
    """
    from smalti.verbs.evaluate import evaluate as verb
    from smalti.verbs.evaluate import show

    report = verb(run, data, split, quiet=quiet or as_json, draws=draws)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="fashion-mnist, cifar10, speech, conversion, phonemes, lab or video."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help=DATA_HELP + " Default: the whole, from the Hub."),
    ] = None,
    out: Out = Path("reproduced"),
    part: Annotated[
        str, typer.Option("--part", help="table, codes, beta, codebook or likelihood.")
    ] = "table",
    budget: Annotated[
        str, typer.Option("--budget", help="tiny to see it run, cpu for two cores, paper for the paper's.")
    ] = "cpu",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each model (of VIMCO one).")] = 1,
    pretrain: Annotated[
        str | None,
        typer.Option("--pretrain", metavar="SOURCE", help="Data to train on before --data itself."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="MODEL", help="One of the models; run others elsewhere.")
    ] = None,
    alignments: Annotated[
        Path | None, typer.Option("--alignments", metavar="TSV", help="Phones in time, for phonemes.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train the models of an experiment of the paper, and print its table beside the paper's figures.

    Example: `smalti reproduce fashion-mnist --data fashion-mnist --seeds 3 --out runs/table`
    """
    if name in ("speech", "conversion", "phonemes", "lab", "video"):
        from smalti.interfaces import InputError

        if part != "table" or pretrain is not None or only is not None:
            raise InputError(f"expected neither --part, --pretrain nor --only for {name}: leave them out")
    if name in ("speech", "conversion", "phonemes"):
        from smalti.verbs.reproduce_speech import reproduce_speech

        reproduce_speech(name, data, out, budget, seeds, alignments, quiet)
        return
    if name == "lab":
        from smalti.verbs.reproduce_lab import reproduce_lab

        reproduce_lab(data, out, budget, seeds, quiet)
        return
    if name == "video":
        from smalti.verbs.reproduce_video import reproduce_video

        reproduce_video(data, out, budget, seeds, quiet)
        return
    from smalti.verbs.reproduce import reproduce as verb

    verb(name, data, out, part, budget, seeds, pretrain, only, quiet)


@app.command()
def collect(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="doom.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the data set.")],
    num: Annotated[int, typer.Option("--num", min=1, help="Frames in all.")] = 20_000,
    scenario: Annotated[str, typer.Option("--scenario", help="One of ViZDoom's.")] = "my_way_home",
    size: Annotated[int, typer.Option("--size", min=1, help="Side of a frame, pixels.")] = 84,
    length: Annotated[int, typer.Option("--length", min=1, help="Frames of an episode.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal files.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Collect first-person frames with their actions as a data set (needs `pip install 'smalti[doom]'`).

    Example: `smalti collect doom --scenario my_way_home --num 20000 --out doom`
    """
    from smalti.verbs.collect import collect as verb

    verb(world, out, num, scenario, size, length, seed, quiet)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show every setting of this recipe.")] = None,
) -> None:
    """List the recipes, or every setting of one.

    Example: `smalti recipes image`
    """
    from smalti.verbs.inspect import list_recipes, show_recipe

    print(show_recipe(name) if name else list_recipes())


@app.command()
def inspect(run: Run) -> None:
    """Say what a run holds: its settings, its progress, its last figures.

    Example: `smalti inspect runs/mine`
    """
    from smalti.verbs.inspect import inspect as verb

    print(verb(run))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the runs and the page go.")] = Path(
        "demo"
    ),
    write_images: Annotated[
        Path | None,
        typer.Option("--write-images", metavar="DIR", help="Only write a folder of letters as pictures."),
    ] = None,
    write_speech: Annotated[
        Path | None,
        typer.Option("--write-speech", metavar="DIR", help="Only write a folder of synthetic speech."),
    ] = None,
    num: Annotated[int, typer.Option("--num", help="How many items --write-... writes.")] = 2600,
    split: Annotated[
        str, typer.Option("--split", help="For --write-images: train, or test for fonts held out from it.")
    ] = "train",
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train on drawn letters, evaluate on fonts held out, and write one page about it. Needs no data.

    Example: `smalti demo --out demo`, or `smalti demo --write-images pictures`
    """
    from smalti.verbs.demo import demo as verb
    from smalti.verbs.demo import write_pictures, write_sounds

    if write_images:
        write_pictures(write_images, num, split, quiet)
    elif write_speech:
        write_sounds(write_speech, num, quiet)
    else:
        verb(out, overrides or [], quiet)


def main() -> None:
    """Entry point: one sentence and exit status 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        app()
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        sentence, status = told
        print(f"smalti: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)


def _told(error: Exception) -> tuple[str, int] | None:
    """A sentence and an exit status for what a user can mend; None for what is a defect of ours."""
    # Imported here, so that `smalti --help` does not wait for torch.
    from smalti.files import is_disk_full
    from smalti.interfaces import InputError
    from smalti.training.loop import Interrupted

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, Interrupted):
        return str(error), 130
    if is_disk_full(error):
        return "the disk is full: free some space and run the same command again", 2
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError):
        return f"{error.filename} cannot be used ({error.strerror}): choose another place", 2
    return None


if __name__ == "__main__":
    main()
