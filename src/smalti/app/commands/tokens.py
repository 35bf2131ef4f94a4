"""`smalti tokens`: write codes as token sequences in the formats of language models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from smalti.app.console import amount, counting, note
from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion
from smalti.data.codes import CodesInfo, check_codes, read_codes
from smalti.data.sources.codes import codes_files
from smalti.tokens.files import WRITERS, write_tokens
from smalti.tokens.layout import TokenLayout


def tokens(
    codes: Path,
    out: Path,
    to: str = "parquet",
    separators: str = "bos,eos",
    offset: int = 0,
    stride: int | None = None,
    quiet: bool = False,
) -> int:
    """Write codes as tokens and return the number of items.

    Args:
        codes: a Parquet file of codes, or a folder of them.
        out: a folder that does not exist.
        to: format, a key of `smalti.tokens.files.WRITERS`.
        separators: names, or name=token, divided by commas; "none" for none.
        offset, stride: see `TokenLayout.of`.
        quiet: hide progress.

    Raises:
        InputError: for an unknown format, an impossible layout, codes that are incomplete or damaged, or an
            existing output.
    """
    if to not in WRITERS:
        raise InputError(f"expected a format, received {to!r}: {suggestion(to, WRITERS)}")
    if out.exists():
        raise InputError(f"{out} exists already: choose another --out")
    files = _files(codes)
    info = read_codes(files[0])[0]
    names, known = _parsed(separators)
    layout = TokenLayout.of(info, names, offset, stride, known)
    total = sum(pq.read_metadata(file).num_rows for file in files)
    with counting("Writing tokens", quiet) as count:
        num = write_tokens(out, layout, _items(files, info, lambda done: count(done, total)), to)
    note(
        f"{out} holds {amount(num, 'items')} of {layout.dtype.name} tokens below {layout.vocabulary_size:,}.",
        quiet,
    )
    return num


def _files(codes: Path) -> list[Path]:
    """Files of codes, in order.

    Raises:
        InputError: if there are none, or some are not complete.
    """
    if not codes.is_dir():
        return [codes]
    files = codes_files(codes)
    if not files:
        raise InputError(f"expected Parquet files of codes in {codes}, found none: check the path")
    return files


def _items(
    files: list[Path], info: CodesInfo, progress: Callable[[int], None]
) -> Iterator[tuple[str, np.ndarray, str | None]]:
    done = 0
    for file in files:
        own, batches = read_codes(file)
        check_codes(own, info)
        for batch in batches:
            yield from zip(*batch[:3], strict=True)
            done += len(batch[0])
            progress(done)


def _parsed(separators: str) -> tuple[list[str], dict[str, int]]:
    """Names of separators, and the tokens of those that have one."""
    names: list[str] = []
    known: dict[str, int] = {}
    for part in [] if separators in ("", "none") else separators.split(","):
        name, equals, token = part.strip().partition("=")
        names.append(name)
        if equals and not token.isdecimal():
            raise InputError(
                f"expected a token after {name}=, received {token!r}: write {name}=2, for example"
            )
        if equals:
            known[name] = int(token)
    return names, known
