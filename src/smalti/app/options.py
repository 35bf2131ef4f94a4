"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def _load(names: list[str] | None) -> list[str] | None:
    if names:
        # Imported here so that `smalti --help` stays fast.
        from smalti.core.plugins import load_plugin

        for name in names:
            load_plugin(name)
    return names


FILES = tuple(
    f".{name}"
    for names in (
        "avif bmp gif jpeg jpg png tif tiff webp",
        "flac m4a mp3 ogg opus wav",
        "avi mkv mov mp4 webm",
        "arrow csv h5 hdf5 json jsonl npy npz parquet pickle pkl sma smc tsv",
        "bin gz html pt pth safetensors tar txt zip",
    )
    for name in names.split()
)
"""Extensions of files: a directory with such a name is a mistake, unless it exists."""


def expanded(path: Path | None) -> Path | None:
    """Return a path with a leading `~` expanded, which a shell leaves in `--out=~/runs`."""
    if path is None or not str(path).startswith("~"):
        return path
    # Imported here so that `smalti --help` stays fast.
    from smalti.core.arguments import as_path

    return as_path(path)


def folder(path: Path | None) -> Path | None:
    """Return the path of an output directory, with a leading `~` expanded.

    Raises:
        InputError: if its name is that of a file.
    """
    path = expanded(path)
    if path is not None and path.suffix.lower() in FILES and not path.is_dir():
        from smalti.core.errors import InputError

        raise InputError(
            f"expected a directory, received {path}, the name of a file: leave out {path.suffix}, or create "
            "the directory first"
        )
    return path


DATA_HELP = (
    "Folder, tar, WebDataset or Parquet files, an address such as s3://bucket/folder, idx or CIFAR files, "
    "owner/name on the Hub, or letters (demo data)."
)
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's directory, a model of this package, or owner/name on the Hub."
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.", callback=expanded)]
Data = Annotated[str, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where to write the results.", callback=folder)
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="SOURCE", help="Held-out data. Default: the validation items of the run's own data."
    ),
]
OutOrRun = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where to write the results. Default: the run.", callback=folder
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of the source to use.")]
_SIZE = "`native` takes pictures and clips at their own height and width, `model` at those of the training."
Size = Annotated[Literal["model", "native"], typer.Option("--size", help=_SIZE)]
SizeOrNative = Annotated[
    Literal["model", "native"] | None,
    typer.Option("--size", help=f"{_SIZE} Default: native, if the model takes any size."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Recipe settings to change.")
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Python module that registers your own parts or recipes; SMALTI_PLUGINS=MODULE does the same.",
        callback=_load,
    ),
]
"""Of every command that opens a run. The module is imported while the command line is parsed, before the
command runs; the command itself does not use the value."""
DecoderTemperature = Annotated[
    float,
    typer.Option("--temperature", min=0, help="Sampling temperature of the decoder; below 1, less noise."),
]
Temperature = Annotated[
    float, typer.Option(help="Below 1, samples are more typical; 0 takes the most probable code.")
]
TopK = Annotated[int | None, typer.Option(help="Sample from the k most probable codes.")]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the most probable codes with this total probability.")
]
PriorName = Annotated[
    str, typer.Option("--prior", metavar="NAME", help="Learned prior to use, if the run has several.")
]
Protocol = Annotated[
    bool, typer.Option("--protocol", help="Print the definitions of the figures; --json has them too.")
]
Files = Annotated[
    bool, typer.Option("--files", help="Also compress the items losslessly to a real file, and restore them.")
]
Features = Annotated[
    bool,
    typer.Option("--features", help="Also compare reconstructions and samples in a network's features."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Hide progress.")]
