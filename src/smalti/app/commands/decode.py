"""`smalti decode`: decode a Parquet table or compact files of codes into media files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from smalti.app.console import counting, note
from smalti.app.files import codes_info
from smalti.app.outputs import OutputFolder, output_paths
from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo, check_codes, read_codes
from smalti.data.packed import ENDING, read_packed
from smalti.tokenizer import Tokenizer, load


def decode(
    run: str,
    codes: Path,
    out: Path,
    quiet: bool = False,
    class_name: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
) -> int:
    """Decode a file of codes, or a directory of compact files, and return the number of files written.

    Output files keep the names of the encoded items. The same command completes a stopped one.

    Args:
        run: a run's directory, or a name on the Hub.
        codes: output of `encode`.
        out: output directory.
        quiet: hide progress.
        class_name: the class (speaker) that conditions the decoder.
        seed: sampling seed of an autoregressive decoder.
        temperature: sampling temperature of that decoder.

    Raises:
        InputError: for codes of another model, out of range or of the wrong shape, or when an output file
            of another command exists; nothing is written in these cases.
    """
    tokenizer = load(run)
    # The codes are read twice, so that all of them are checked before anything is written.
    names, digest = _surveyed(codes, tokenizer)
    targets = output_paths(out, names, tokenizer.modality.ending)
    folder = OutputFolder(
        out,
        "decode",
        model=tokenizer.fingerprint,
        codes=digest,
        class_name=class_name,
        seed=seed,
        temperature=temperature,
    )
    folder.check(targets)
    with counting("Decoding", quiet) as count:
        for done, (target, one) in enumerate(zip(targets, _read(codes, tokenizer), strict=True), 1):
            if not target.exists():
                signal = tokenizer.decode_signals(
                    one.codes, class_name=class_name, seed=seed, temperature=temperature
                )[:, :, : one.length]
                folder.save(target, partial(tokenizer.modality.save, signal))
            count(done, len(targets))
    note(f"{len(targets)} {tokenizer.modality.plural_name} are in {out}.", quiet)
    return len(targets)


@dataclass(frozen=True)
class _Item:
    """One item of a file of codes: name, codes `(1, G, *grid)`, and length (None: no cropping)."""

    name: str
    codes: Tensor
    length: int | None


def _surveyed(path: Path, tokenizer: Tokenizer) -> tuple[list[str], str]:
    """Return the names of all items, and a digest of names and codes; check the codes."""
    names, digest = [], hashlib.sha256()
    for one in _read(path, tokenizer):
        names.append(one.name)
        digest.update(f"{one.name!r} {tuple(one.codes.shape)} {one.length}".encode())
        digest.update(one.codes.numpy().tobytes())
    return names, digest.hexdigest()


def _read(path: Path, tokenizer: Tokenizer) -> Iterator[_Item]:
    """Read the items of a table, of a compact file, or of a directory of compact files."""
    expected = codes_info(tokenizer)
    if path.is_dir():
        files = sorted(path.rglob(f"*{ENDING}"))
        if not files:
            raise InputError(f"expected files that end in {ENDING} below {path}, found none: check the path")
        for file in files:
            yield _read_packed(file, expected)
    elif path.suffix == ENDING:
        yield _read_packed(path, expected)
    else:
        info, batches = read_codes(path)
        check_codes(info, expected)
        for names, codes, _ in batches:
            for name, one in zip(names, torch.from_numpy(codes.copy()), strict=True):
                yield _Item(name, one.unsqueeze(0), None)


def _read_packed(path: Path, expected: CodesInfo) -> _Item:
    packed = read_packed(path)
    info = packed.info
    grid = (None, *info.grid[1:]) if expected.is_ragged and info.grid else info.grid
    check_codes(
        CodesInfo(grid=grid, num_codebooks=info.num_codebooks, num_codes=info.num_codes, model=info.model),
        expected,
    )
    return _Item(info.name, torch.from_numpy(packed.codes).unsqueeze(0), info.length)
