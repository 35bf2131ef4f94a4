"""The commands `compress` and `decompress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.app.options import Data, Out, Plugin, Quiet, Run, Split, expanded

archives = typer.Typer()


@archives.command()
def compress(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="The archive to write, a .sma file.", callback=expanded),
    ],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep the exact values that the model reads, not only codes.")
    ] = False,
    prior: Annotated[
        str | None, typer.Option("--prior", metavar="NAME", help="Prior of the codes. Default: the best one.")
    ] = None,
    split: Split = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Compress pictures, sounds or clips into one archive, on the CPU: their codes, or losslessly.

    Example: `smalti compress runs/mine --data photos --out photos.sma --lossless`
    """
    from smalti.app.commands.compress import compress as verb

    verb(run, data, out, split, lossless, prior, quiet)


@archives.command()
def decompress(
    run: Run,
    archive: Annotated[
        Path, typer.Argument(metavar="FILE", help="Output of `smalti compress`.", callback=expanded)
    ],
    out: Out,
    items: Annotated[
        str | None,
        typer.Option("--items", metavar="NAME,...", help="Only these items, by name, separated by commas."),
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Restore the items of an archive, with the run that compressed it.

    Example: `smalti decompress runs/mine photos.sma --out restored`
    """
    from smalti.app.commands.compress import decompress as verb

    verb(run, archive, out, None if items is None else items.split(","), quiet)
