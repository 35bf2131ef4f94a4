"""`smalti compress` and `smalti decompress`: an archive of real files, by a model and a prior."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.data import open_data, pick_split, prepare
from smalti.app.outputs import OutputFolder, output_paths
from smalti.app.runs import check_model, model_of
from smalti.coding.archive import ENDING, Archive
from smalti.coding.codec import Codec
from smalti.coding.files import Restored, Written, restore, signal_of
from smalti.coding.files import compress as write
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior, Prior
from smalti.core.suggestions import suggestion
from smalti.evaluation.bounds import LabelPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.tokenizer import Tokenizer
from smalti.training.checkpoints import RunDirectory


def compress(
    run: str,
    data: str,
    out: Path,
    split: str | None = None,
    lossless: bool = False,
    prior: str | None = None,
    quiet: bool = False,
) -> Written:
    """Compress every item of a source into one archive, and return its size.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        out: the archive.
        split: split of the source; None selects `all` if it exists, else `train`.
        lossless: whether to code the exact levels after the codes.
        prior: name of the prior of the codes; None selects the most informed one.
        quiet: hide progress.

    Raises:
        InputError: for a user error, when no item can be read, or when the output file exists.
    """
    if out.suffix != ENDING:
        raise InputError(f"expected an archive, a file name that ends in {ENDING}, received {out}: rename it")
    if out.exists():
        raise InputError(f"{out} exists already: choose another --out")
    tokenizer = _tokenizer(run, prior)
    codec = Codec(tokenizer.autoencoder, chosen_prior(tokenizer.priors, prior), lossless)
    _ = codec.arithmetic  # a model or prior that cannot code is found before the data is read
    source = open_data(data, tokenizer.modality)
    check_model(RunDirectory(tokenizer.directory), model_of(source))
    name = pick_split(source, split, "all", "train")
    with TemporaryDirectory(prefix="smalti-") as scratch:
        store = prepare(
            Path(scratch) / "data", source, name, tokenizer.modality, quiet=quiet, skipped_in=None
        )
        with counting("Compressing", quiet) as count:
            written = write(out, codec, tokenizer.modality, store, tokenizer.trained.label_ids, count)
    note(f"{out} holds {amount(written.num, 'items')} of the split {name}: {summary(written, codec)}.", quiet)
    return written


def summary(written: Written, codec: Codec) -> str:
    """Return the size of an archive in words: bytes, bits/dim, the bound and the share of plain levels."""
    raw = ""
    if not codec.model.signal.is_continuous:
        plain = written.dims * math.log2(codec.model.signal.levels) / 8
        raw = f", {100 * written.size / plain:.3g} % of the size of the plain values"
    what = "the exact values that the model reads" if codec.lossless else "their codes"
    return (
        f"{what}, {written.size:,} bytes with headers, {8 * written.size / written.dims:.4f} bits/dim "
        f"(the bound of the prior {codec.prior.name}: {written.bits / written.dims:.4f}){raw}"
    )


def decompress(
    run: str, archive: Path, out: Path, items: Sequence[str] | None = None, quiet: bool = False
) -> int:
    """Decompress an archive, or some of its items, and return the number of files.

    Output files keep the names of the items. The same command completes a stopped one.

    Args:
        run: the run that compressed it, a directory or a name on the Hub.
        archive: output of `compress`.
        out: output directory.
        items: names of the items; None for all.
        quiet: hide progress.

    Raises:
        InputError: for a damaged archive, another model, prior or arithmetic, an unknown item, or when an
            output file of another command exists; nothing is written in these cases, except the blocks before
            a damaged one.
    """
    with Archive(archive) as opened:
        tokenizer = _tokenizer(run, opened.info.prior)
        prior = chosen_prior(tokenizer.priors, opened.info.prior)
        codec = Codec(tokenizer.autoencoder, prior, opened.info.lossless)
        codec.check(opened.info, tokenizer.modality.is_ragged)
        numbers = list(range(len(opened.names))) if items is None else opened.find(items)
        targets = output_paths(out, opened.names, tokenizer.modality.ending)
        folder = OutputFolder(
            out,
            "decompress",
            model=opened.info.model,
            prior=opened.info.prior_model,
            archive=_digest(archive),
        )
        folder.check(targets[number] for number in numbers)
        missing = [number for number in numbers if not targets[number].exists()]
        with counting("Decompressing", quiet) as count:
            done = len(numbers) - len(missing)
            for block in restore(opened, codec, missing):
                for number, signal in zip(block.numbers, _signals(tokenizer, codec, block), strict=True):
                    save = partial(tokenizer.modality.save, signal[None, :, : block.length])
                    folder.save(targets[number], save)
                done += len(block.numbers)
                count(done, len(numbers))
    note(f"{out} holds {amount(len(numbers), tokenizer.modality.plural_name)}.", quiet)
    return len(numbers)


def chosen_prior(priors: dict[str, Prior], name: str | None) -> Prior:
    """Return the prior of this name, or the most informed one that codes without labels.

    Raises:
        InputError: if there is no prior of this name.
    """
    if name is None:
        known = (each for each in priors.values() if isinstance(each, DensityPrior))
        return [each for each in known if not isinstance(each, LabelPrior)][-1]
    if name not in priors:
        raise InputError(f"expected a prior of this run, received {name!r}: {suggestion(name, priors)}")
    return priors[name]


def _tokenizer(run: str, prior: str | None) -> Tokenizer:
    needs_learned = prior not in (UniformPrior.name, UnigramPrior.name)
    return Tokenizer.from_pretrained(run, "cpu", load_priors=needs_learned)


def _signals(tokenizer: Tokenizer, codec: Codec, block: Restored) -> Tensor:
    if block.levels is not None:
        return signal_of(block.levels, tokenizer.modality)
    with torch.no_grad():
        conditions = codec.conditions(block.labels, len(block.codes))
        return tokenizer.decode_signals(block.codes, conditions=conditions)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
