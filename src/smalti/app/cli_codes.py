"""The commands on codes: `encode`, `decode`, `verify`, `tokens`, and the archives of `compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from smalti.app.options import (
    Data,
    DecoderTemperature,
    Out,
    Plugin,
    Quiet,
    Run,
    Size,
    Split,
    expanded,
)


def add_commands(app: typer.Typer) -> None:
    """Add the commands on codes to the command line, in the order of `smalti --help`."""
    for command in (encode, decode, verify, tokens, compress, decompress):
        app.command()(command)


def encode(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="CODES",
            help="A .parquet file for all items, a .smc file for one item, or a directory of .smc files "
            "(with --shards, of Parquet files).",
            callback=expanded,
        ),
    ],
    split: Split = None,
    size: Size = "model",
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, metavar="N", help="Write N Parquet files.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="i/n", help="Part of the shards for job i of n, from 0. Default: all."
        ),
    ] = None,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option("--engine", help="`ray` encodes the shards by the processes of a Ray cluster."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Of the Ray cluster. Default: RAY_ADDRESS, or else one on this machine.",
        ),
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Encode pictures, sounds or clips as a Parquet table with one row per item, or as compact files.

    Examples: `smalti encode runs/mine --data photos --out codes.parquet`,
    `smalti encode runs/mine --data photos --out codes --shards 64 --shard 0/8`,
    `smalti encode runs/mine --data photos --out codes --shards 64 --engine ray`
    """
    if shards is not None:
        from smalti.app.commands.encode_shards import encode_shards
        from smalti.app.parts import Part

        part = None if shard is None else Part.parse(shard)
        encode_shards(run, data, out, shards, part, split, quiet, size, engine, address)
        return
    for name, value in {"--shard": shard, "--engine": engine, "--address": address}.items():
        if value is not None:
            from smalti.core.errors import InputError

            raise InputError(f"expected --shards with {name}, received only {name} {value}: add --shards N")
    from smalti.app.commands.encode import encode as verb

    verb(run, data, out, split, quiet, size)


def decode(
    run: Run,
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="Output of `smalti encode`.")],
    out: Out,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Class or speaker for the decoder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed for decoders that sample.")] = 0,
    temperature: DecoderTemperature = 1.0,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Decode codes into pictures, sounds or clips.

    Example: `smalti decode runs/mine codes.parquet --out decoded`
    """
    from smalti.app.commands.decode import decode as verb

    verb(run, codes, out, quiet, class_name, seed, temperature)


def verify(
    codes: Annotated[
        Path,
        typer.Argument(
            metavar="CODES", help="Output of `smalti encode --shards`, or a Parquet file.", callback=expanded
        ),
    ],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="The run that encoded the codes, for --data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="The source, of which a sample is encoded again."),
    ] = None,
    num: Annotated[int, typer.Option("--num", min=1, help="Items of the sample.")] = 8,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Check counts, ranges, checksums and duplicates of codes, and a sample of them against their source.

    Example: `smalti verify codes --run runs/mine --data photos`
    """
    from smalti.app.commands.verify import verify as verb

    verb(codes, run, data, num, quiet)


def tokens(
    codes: Annotated[
        Path,
        typer.Argument(
            metavar="CODES",
            help="Parquet file of codes, or a folder of them: output of `smalti encode`.",
            callback=expanded,
        ),
    ],
    out: Out,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="parquet, webdataset, megatron or npy.")
    ] = "parquet",
    separators: Annotated[
        str,
        typer.Option(
            "--separators",
            help="Tokens before and after items (bos, eos) and after rows and frames (row, frame); eos=2 is "
            "a token that your language model has already; none for none.",
        ),
    ] = "bos,eos",
    offset: Annotated[int, typer.Option("--offset", min=0, help="First token to use.")] = 0,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            min=0,
            help="Distance between the tokens of consecutive codebooks; 0 lets all share their tokens. "
            "Default: the number of codes.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write codes as token sequences for training a language model, and a description of the tokens.

    Example: `smalti tokens codes.parquet --to megatron --separators bos,eos,row --out tokens`
    """
    from smalti.app.commands.tokens import tokens as verb

    verb(codes, out, to, separators, offset, stride, quiet)


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
