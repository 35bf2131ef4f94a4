"""`smalti encode`, `decode` and `reconstruct`: data to codes in Parquet, and back to files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch

from smalti.data.codes import CodesBatch, CodesInfo, check_codes, read_codes, write_codes
from smalti.data.sources import UnreadableItem
from smalti.interfaces import InputError
from smalti.tokenizer import Tokenizer, load
from smalti.verbs.console import counting, note
from smalti.verbs.data import open_data, pick_split, report_skipped

BATCH = 64
COMPARISON = "comparison.png"


def encode(run: str, data: str, out: Path, split: str | None = None, quiet: bool = False) -> int:
    """Encode every picture of a source into a Parquet file of codes; gives their number.

    Unreadable files are skipped and named.

    Raises:
        InputError: for a user's mistake, or when nothing can be read.
    """
    tokenizer = load(run)
    source = open_data(data)
    name = pick_split(source, split, "all", "train")
    skipped: list[dict[str, str]] = []
    total = source.count(name)

    def batches() -> Iterator[CodesBatch]:
        with counting("Encoding", quiet) as count:
            names: list[str] = []
            labels: list[str | None] = []
            pictures: list[torch.Tensor] = []
            for done, item in enumerate(source.items(name), 1):
                try:
                    pictures.append(torch.from_numpy(tokenizer.modality.decode(item.content)))
                    names.append(item.name)
                    labels.append(_shown(tokenizer, item.label))
                except UnreadableItem as error:
                    skipped.append({"name": item.name, "reason": str(error)})
                if pictures and (len(pictures) == BATCH or done == total):
                    yield names, tokenizer.encode(torch.stack(pictures)).numpy(), labels
                    names, labels, pictures = [], [], []
                    count(done, total)
        if skipped and len(skipped) == total:
            raise InputError(
                f"none of the {total} items of {source.description} can be read (the first, "
                f"{skipped[0]['name']}: {skipped[0]['reason']}): check the files"
            )

    for text in source.notes(name):
        note(text, quiet)
    written = write_codes(out, codes_info(tokenizer), batches())
    report_skipped(skipped)
    note(
        f"{written} items are in {out}: {_shape(tokenizer)} codes each, "
        f"out of {tokenizer.autoencoder.num_codes}.",
        quiet,
    )
    return written


def decode(run: str, codes: Path, out: Path, quiet: bool = False) -> int:
    """Decode a Parquet file of codes into picture files of the same names; gives their number.

    Raises:
        InputError: for codes of another model, out of range or of the wrong shape.
    """
    tokenizer = load(run)
    info, batches = read_codes(codes)
    check_codes(info, codes_info(tokenizer))
    taken: set[str] = set()
    for names, values, _ in batches:
        for name, picture in zip(names, tokenizer.decode(torch.tensor(values)), strict=True):
            _save(tokenizer, picture, out, name, taken)
    note(f"{len(taken)} pictures are in {out}.", quiet)
    return len(taken)


def reconstruct(run: str, files: Sequence[Path], out: Path, quiet: bool = False) -> int:
    """Write each file's reconstruction, and one picture of originals above reconstructions.

    Raises:
        InputError: when a file does not exist, or none can be read.
    """
    tokenizer = load(run)
    names: list[str] = []
    pictures: list[torch.Tensor] = []
    skipped: list[dict[str, str]] = []
    for file in files:
        if not file.is_file():
            raise InputError(f"expected picture files, found none at {file}: check the path")
        try:
            pictures.append(torch.from_numpy(tokenizer.modality.decode(file)))
            names.append(file.name)
        except UnreadableItem as error:
            skipped.append({"name": str(file), "reason": str(error)})
    report_skipped(skipped)
    if not pictures:
        raise InputError(
            f"expected at least one readable picture, none of {len(files)} is: {skipped[0]['reason']}"
        )
    originals = torch.stack(pictures)
    reconstructed = tokenizer.reconstruct(originals)
    taken = {COMPARISON}
    for name, picture in zip(names, reconstructed, strict=True):
        _save(tokenizer, picture, out, name, taken)
    tokenizer.modality.preview([originals[:64], reconstructed[:64]]).save(out / COMPARISON)
    note(f"{len(names)} reconstructions are in {out}; {COMPARISON} shows them under the originals.", quiet)
    return len(names)


def codes_info(tokenizer: Tokenizer) -> CodesInfo:
    """What a file of this tokenizer's codes says of itself."""
    return CodesInfo(
        grid=tokenizer.autoencoder.grid,
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        num_codes=tokenizer.autoencoder.num_codes,
        model=tokenizer.fingerprint,
        classes=tokenizer.classes,
    )


def _shown(tokenizer: Tokenizer, label: str | None) -> str | None:
    return None if label is None else tokenizer.recipe.class_names.get(label, label)


def _shape(tokenizer: Tokenizer) -> str:
    return " x ".join(str(n) for n in tokenizer.code_shape)


def _save(tokenizer: Tokenizer, picture: torch.Tensor, out: Path, name: str, taken: set[str]) -> None:
    """Save a picture below `out`, under its own relative name; `taken` are the names in use."""
    free = _free_name(name, taken)
    taken.add(free)
    target = out / free
    target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.modality.save(picture, target)


def _free_name(name: str, taken: Collection[str]) -> str:
    """The name of a PNG file that no other has: of a.jpg and a.png both are kept, as a.png and a.png.png.

    A stranger's name cannot leave the folder.
    """
    parts = [part for part in PurePosixPath(name.replace("\0", "_")).parts if part not in ("/", "//", "..")]
    path = PurePosixPath(*(parts or ["unnamed"]))
    numbered = (f"{path}{number}.png" for number in ("", *range(2, len(taken) + 3)))
    return next(free for free in (str(path.with_suffix(".png")), *numbered) if free not in taken)
