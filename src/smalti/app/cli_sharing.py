"""The commands that show and share what was trained: `export`, `demo`, `serve` and `docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.app.options import Out, Overrides, Plugin, Quiet, Run, folder


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line, in the order of `smalti --help`."""
    for command in (export, demo, serve, docs):
        app.command()(command)


def export(
    run: Run,
    out: Out,
    onnx: Annotated[bool, typer.Option("--onnx", help="encode.onnx and decode.onnx, checked.")] = False,
    torch: Annotated[
        bool, typer.Option("--torch", help="encode.pt2 and decode.pt2, which need only torch.")
    ] = False,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="What AutoModel of transformers and smalti.load read.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="For the model card, such as mit.")
    ] = None,
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16", help="Round the weights to bfloat16; files of --transformers have half the size."
        ),
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Write a run for other programs, with a model card.

    Example: `smalti export runs/mine --onnx --transformers --out exported`
    """
    from smalti.app.commands.export import export as verb

    chosen = {"onnx": onnx, "torch": torch, "transformers": transformers}
    verb(run, out, [name for name, is_chosen in chosen.items() if is_chosen], licence, bf16, quiet)


def demo(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Directory for the runs and the page.", callback=folder),
    ] = Path("demo"),
    write_images: Annotated[
        Path | None,
        typer.Option(
            "--write-images",
            metavar="DIR",
            help="Only write the letters to a folder of pictures.",
            callback=folder,
        ),
    ] = None,
    num: Annotated[int, typer.Option("--num", help="Number of pictures for --write-images.")] = 2600,
    split: Annotated[
        str, typer.Option("--split", help="For --write-images: train, or test with held-out fonts.")
    ] = "train",
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train on generated pictures of letters, evaluate on held-out fonts, and write an HTML report.

    Example: `smalti demo --out demo`, or `smalti demo --write-images pictures`
    """
    from smalti.app.commands.demo import demo as verb
    from smalti.app.commands.demo import write_pictures

    if write_images:
        write_pictures(write_images, num, split, quiet)
    else:
        verb(out, overrides or [], quiet)


def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Runs, trained models, or names on the Hub. Default: the package's models.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for a free one.")] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="Address to bind to. Default: reachable from this machine only.")
    ] = "127.0.0.1",
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Serve a local page to look at codes, change them, generate, convert and compare (extra `smalti[page]`).

    Example: `smalti serve runs/mine`, or `smalti serve` for the trained models in this package
    """
    from smalti.app.commands.serve import serve as verb

    verb(runs or [], port, host, quiet)


def docs(
    is_opened: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
    quiet: Quiet = False,
) -> None:
    """Show the documentation of this version in a browser, until Ctrl-C.

    Example: `smalti docs`
    """
    from smalti.app.commands.docs import docs as verb

    verb(is_opened, quiet)
