"""Read input files by path."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.app.console import note
from smalti.app.data import open_data
from smalti.app.outputs import OutputFolder
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.weights import fingerprint
from smalti.data.codes import CodesInfo, write_codes
from smalti.data.sources import Item
from smalti.data.sources.base import Content
from smalti.tokenizer import Tokenizer


def items_of(modality: Modality, files: Iterable[Path]) -> Iterator[Item]:
    """Yield the items of files and folders, not decoded yet.

    Args:
        modality: of the items.
        files: files of the modality, and folders, whose files are read recursively.

    Raises:
        InputError: when a file does not exist, or a folder holds no file of the modality.
    """
    files = list(files)
    for file, name in zip(files, _names(files), strict=True):
        is_item = file.is_dir() and file.suffix.lower() in modality.extensions
        if is_item or file.is_file():
            yield Item(name, file)
        elif file.is_dir():
            source = open_data(str(file), modality)
            for split in source.splits:
                for text in source.notes(split):
                    note(text)
                yield from source.items(split)
        else:
            raise InputError(
                f"expected files or folders of {modality.plural_name}, found nothing at {file}: check the "
                "path"
            )


def _names(files: Sequence[Path]) -> list[str]:
    """Name files by the ends of their paths: as many parts as tell those of one name apart."""
    parts = [Path(os.path.abspath(file)).parts for file in files]
    same = defaultdict(set)
    for own in parts:
        same[own[-1]].add(own)
    names = []
    for own in parts:
        others = same[own[-1]] - {own}
        length = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names.append("/".join(own[-length:]))
    return names


def signal_of(modality: Modality, content: Content) -> Tensor:
    """Decode the content of an item to a signal `(1, C, *size)` in the model's range.

    Raises:
        UnreadableItem: when it is not a signal of the modality.
    """
    return modality.to_model(torch.from_numpy(modality.decode(content)).unsqueeze(0))


def stamp(items: Sequence[Item]) -> str:
    """Return a digest that differs if an item is added, removed or changed.

    Files are compared by their path, size and time of modification, other contents by their bytes.
    """
    digest = hashlib.sha256()
    for item in items:
        parts = item.content if isinstance(item.content, tuple) else (item.content,)
        digest.update(repr((item.name, [_stamp(part) for part in parts])).encode())
    return digest.hexdigest()


def _stamp(content: Path | bytes | np.ndarray) -> object:
    if not isinstance(content, Path):
        content = content.tobytes() if isinstance(content, np.ndarray) else content
        return hashlib.sha256(content).hexdigest()
    states = [(state.st_size, state.st_mtime_ns) for state in _states(content)]
    return os.path.realpath(content), *states


def last_change_ns(content: Content) -> int:
    """Return the time of the last change of an item's files, nanoseconds; 0 for content without files.

    Replacing a file counts, even by one with an older time of modification.
    """
    parts = content if isinstance(content, tuple) else (content,)
    states = [state for part in parts if isinstance(part, Path) for state in _states(part)]
    return max((max(state.st_mtime_ns, state.st_ctime_ns) for state in states), default=0)


def _states(path: Path) -> list[os.stat_result]:
    """Return the states of a file, or of a folder and the files in it; [] if it cannot be read."""
    try:
        paths = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        return [each.stat() for each in paths]
    except OSError:
        return []


def write_table(
    folder: OutputFolder,
    path: Path,
    tokenizer: Tokenizer,
    names: Sequence[str],
    codes: Int64[Tensor, "b g *grid"],
    class_name: str | None = None,
) -> None:
    """Write the codes of generated items of one class as a Parquet table, unless it exists."""
    rows = (list(names), codes.numpy(), [class_name] * len(names))
    folder.save(path, lambda temporary: write_codes(temporary, codes_info(tokenizer), [rows]))


def prior_fingerprint(tokenizer: Tokenizer, name: str) -> str | None:
    """Return the fingerprint of a learned prior of a run, or None if there is no such prior."""
    prior = tokenizer.trained.learned.get(name)
    return None if prior is None else fingerprint(prior)


def codes_info(tokenizer: Tokenizer) -> CodesInfo:
    """Return the header of a compact file for this tokenizer's codes."""
    return CodesInfo(
        grid=tokenizer.stored_code_shape[1:],
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        num_codes=tokenizer.autoencoder.num_codes,
        model=tokenizer.fingerprint,
        classes=tokenizer.classes,
    )
