"""Command-line interface: parse arguments, run a command, report user errors with exit status 2."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from smalti import __version__
from smalti.app import cli_codes, cli_sharing, cli_worlds
from smalti.app.failures import user_error
from smalti.app.options import (
    DATA_HELP,
    Data,
    DecoderTemperature,
    Features,
    Files,
    HeldOut,
    Out,
    OutOrRun,
    Overrides,
    Plugin,
    PriorName,
    Protocol,
    Quiet,
    Run,
    RunPath,
    Size,
    SizeOrNative,
    Split,
    Temperature,
    TopK,
    TopP,
    expanded,
    folder,
)
from smalti.app.threads import choose_threads
from smalti.core.plugins import VARIABLE, broken_package, installed, load_plugins

app = typer.Typer(
    name="smalti",
    help="Train a discrete tokenizer on your own images, audio or video; encode, decode and generate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ADDED: set[str] = set()
"""Entry points whose commands are already added, since `main` may be called more than once."""


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        print(f"smalti {__version__}")
        raise typer.Exit
    return is_wanted


Version = Annotated[
    bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
]


@app.callback()
def common(version: Version = False) -> None:
    """Train a discrete tokenizer on your own images, audio or video; encode, decode and generate."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe; see `smalti recipes`.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Directory of the run.", callback=folder)],
    data: Annotated[str | None, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Initialize the weights from this run.", callback=expanded
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option("--freeze", metavar="codes", help="Keep the codes of --from; train the decoder alone."),
    ] = None,
    plugin: Plugin = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train an autoencoder. The same command resumes a stopped run.

    Example: `smalti train image --data photos --out runs/mine training.steps=2000 num_codes=256`
    """
    from smalti.app.commands.train import train as run

    kept = [] if freeze is None else [f"objective.freeze={freeze}"]
    run(recipe, data, out, [*(overrides or []), *kept], quiet, start)


@app.command("train-prior")
def train_prior(
    run: RunPath,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of an additional prior.")
    ] = "learned",
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Initialize the weights from the prior of this run: of the same name, or else 'learned'.",
            callback=expanded,
        ),
    ] = None,
    plugin: Plugin = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train a prior over a run's codes, for sampling and for lower bits/dim.

    Example: `smalti train-prior runs/mine training.steps=2000 network.layers=8`
    """
    from smalti.app.commands.train_prior import train_prior as verb

    verb(run, overrides or [], quiet, name, start=start)


cli_codes.add_commands(app)


@app.command()
def reconstruct(
    run: Run,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Pictures, sounds or clips.")],
    out: Out,
    size: SizeOrNative = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Encode and decode files, and write a comparison with the originals.

    Example: `smalti reconstruct runs/mine photos/one.jpg photos/two.png --out reconstructed`
    """
    from smalti.app.commands.reconstruct import reconstruct as verb

    verb(run, files, out, quiet, size)


@app.command()
def sample(
    run: Run,
    out: Out,
    num: Annotated[int, typer.Option("--num", help="Number of items.")] = 16,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Sample only this class.")
    ] = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Equal seeds give equal items.")] = 0,
    prior: PriorName = "learned",
    length: Annotated[
        int | None,
        typer.Option(
            "--length", min=1, help="Length of each sound or clip in codes. Default: the training length."
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option("--guidance", min=0, help="1 disables guidance; 2 or 3 follow the class more closely."),
    ] = 1.0,
    picture: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="With --keep: the picture to complete.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="MASK",
            help="With --input: a picture, bright where codes are kept. Autoregressive priors draw "
            "each code given those before it only; masked ones given all.",
        ),
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Generate pictures, sounds or clips with the learned prior.

    Example: `smalti sample runs/mine --num 16 --class cat --temperature 0.9 --out samples`
    """
    from smalti.app.commands.sample import sample as verb

    drawing = (temperature, top_k, top_p, seed)
    verb(run, num, out, class_name, *drawing, quiet, prior, length, guidance, picture, keep)


cli_worlds.add_commands(app)


@app.command()
def convert(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="IN", help="Recording to convert.")],
    speaker: Annotated[str, typer.Option("--speaker", metavar="NAME", help="Target speaker.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="OUT", help="The WAV or FLAC file to write.", callback=expanded),
    ],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed for decoders that sample.")] = 0,
    temperature: DecoderTemperature = 1.0,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Convert a recording to the voice of another speaker of the training data.

    Example: `smalti convert runs/voices me.wav --speaker jackson --out converted.wav`
    """
    from smalti.app.commands.convert import convert as verb

    verb(run, file, speaker, out, quiet, seed, temperature)


@app.command()
def evaluate(
    run: Run,
    data: Data,
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Samples from each posterior (VAE and VIMCO).")
    ] = 50,
    files: Files = False,
    features: Features = False,
    size: Size = "model",
    protocol: Protocol = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Measure bits/dim for each prior, PSNR, SSIM and codebook usage.

    Example: `smalti evaluate runs/mine --data held_out_photos --json`
    """
    from smalti.app.commands.evaluate import evaluate as verb
    from smalti.app.commands.evaluate import show

    report = verb(
        run, data, split, quiet=quiet or as_json, draws=draws, files=files, size=size, features=features
    )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report, protocol)


@app.command()
def diagnose(
    run: Run,
    data: HeldOut = None,
    split: Split = None,
    out: OutOrRun = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a run's codebook, and which settings to change.

    Example: `smalti diagnose runs/mine`
    """
    from smalti.app.commands.diagnose import describe
    from smalti.app.commands.diagnose import diagnose as verb

    report = verb(run, data, split, out, quiet=quiet or as_json)
    print(json.dumps(report, indent=2) if as_json else describe(report))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show every setting of this recipe.")] = None,
    plugin: Plugin = None,
) -> None:
    """List the recipes, or every setting of one with its meaning.

    Example: `smalti recipes image`
    """
    from smalti.app.commands.recipes import list_recipes, show_recipe

    print(show_recipe(name) if name else list_recipes())


@app.command()
def inspect(run: Run, plugin: Plugin = None) -> None:
    """Show a run: its settings, progress and latest metrics.

    Example: `smalti inspect runs/mine`
    """
    from smalti.app.commands.inspect import inspect as verb

    print(verb(run))


cli_sharing.add_commands(app)


def add_commands(to: typer.Typer) -> None:
    """Add the commands of installed packages that define an entry point in the group `smalti.commands`.

    The entry point is a function that takes the `typer.Typer` application. It should import what it needs
    inside its commands, so that `smalti --help` stays fast.

    Raises:
        InputError: if one of them cannot be loaded.
    """
    for point in installed("smalti.commands"):
        if point.value not in _ADDED:
            try:
                point.load()(to)
            except (Exception, SystemExit) as error:  # whatever a stranger's module raises
                raise broken_package(point, error) from error
            _ADDED.add(point.value)


def main() -> None:
    """Run the command line; exit with status 2 and one sentence for a user error, 130 after Ctrl-C."""
    choose_threads()
    _ignore_warnings_of_libraries()
    try:
        add_commands(app)
        if os.environ.get(VARIABLE):
            load_plugins()
        # Not standalone: errors of the command line are reported like all others.
        status = app(prog_name="smalti", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except Exception as error:
        report = user_error(error, sys.argv[1:])
        if report is None:
            raise
        sentence, status = report
        print(f"smalti: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)


def _ignore_warnings_of_libraries() -> None:
    """Ignore warnings that a user of the command line can do nothing about, unless `python -W` asks for them.

    Pillow warns of damaged pictures, which are listed anyway; others warn of future changes of their own.
    """
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=FutureWarning)
