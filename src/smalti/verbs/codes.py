"""`smalti encode`, `decode` and `reconstruct`: data to codes in Parquet, and back to files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch

from smalti.data.codes import CodesBatch, CodesInfo, check_codes, read_codes, write_codes
from smalti.data.ingest import decode_ahead, readable
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
            items = decode_ahead(source.items(name), tokenizer.modality.decode)
            for done, (item, picture) in enumerate(items, 1):
                if isinstance(picture, UnreadableItem):
                    skipped.append({"name": readable(item.name), "reason": readable(str(picture))})
                else:
                    pictures.append(torch.from_numpy(picture))
                    names.append(readable(item.name))
                    labels.append(_shown(tokenizer, item.label))
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
        f"{written} items of the split {name} are in {out}: {_shape(tokenizer)} codes each, "
        f"out of {tokenizer.autoencoder.num_codes}.",
        quiet,
    )
    return written


def decode(run: str, codes: Path, out: Path, quiet: bool = False) -> int:
    """Decode a Parquet file of codes into picture files of the same names; gives their number.

    Raises:
        InputError: for codes of another model, out of range or of the wrong shape, or when a file of one of
            the names exists; nothing is written then.
    """
    tokenizer = load(run)
    info, batches = read_codes(codes)
    check_codes(info, codes_info(tokenizer))
    # The file is read twice, so that all of it is checked before anything is written.
    targets = _free_targets(out, (name for names, _, _ in batches for name in names))
    _, batches = read_codes(codes)
    decoded = (picture for _, values, _ in batches for picture in tokenizer.decode(torch.tensor(values)))
    for target, picture in zip(targets, decoded, strict=True):
        _save(tokenizer, picture, target)
    note(f"{len(targets)} pictures are in {out}.", quiet)
    return len(targets)


def reconstruct(run: str, files: Sequence[Path], out: Path, quiet: bool = False) -> int:
    """Write each file's reconstruction, and one picture of originals above reconstructions.

    Raises:
        InputError: when a file does not exist, none can be read, or a reconstruction's name is in use.
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
            skipped.append({"name": readable(str(file)), "reason": readable(str(error))})
    report_skipped(skipped)
    if not pictures:
        raise InputError(
            f"expected at least one readable picture, none of {len(files)} is: {skipped[0]['reason']}"
        )
    comparison, *targets = _free_targets(out, [COMPARISON, *names])
    originals = torch.stack(pictures)
    reconstructed = tokenizer.reconstruct(originals)
    for target, picture in zip(targets, reconstructed, strict=True):
        _save(tokenizer, picture, target)
    tokenizer.modality.preview([originals[:64], reconstructed[:64]]).save(comparison)
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
    if label is None:
        return None
    return tokenizer.recipe.class_names.get(readable(label), readable(label))


def _shape(tokenizer: Tokenizer) -> str:
    return " x ".join(str(n) for n in tokenizer.code_shape)


def _free_targets(out: Path, names: Iterable[str]) -> list[Path]:
    """A file of its own below `out` for each name.

    Raises:
        InputError: when one of them exists.
    """
    taken: dict[str, None] = {}
    for name in names:
        taken[_free_name(name, taken)] = None
    targets = [out / name for name in taken]
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already: choose another --out")
    return targets


def _save(tokenizer: Tokenizer, picture: torch.Tensor, target: Path) -> None:
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
