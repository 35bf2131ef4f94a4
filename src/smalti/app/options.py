"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA_HELP = "A folder, a tar or Parquet file, idx or CIFAR files, owner/name on the Hub, or the word letters."
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or owner/name on the Hub.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]
Data = Annotated[str, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the results go.")]
Split = Annotated[str | None, typer.Option("--split", help="Which split of the source.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings of the recipe to change.")
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="A Python module that registers parts of your own; other commands read SMALTI_PLUGINS.",
    ),
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
