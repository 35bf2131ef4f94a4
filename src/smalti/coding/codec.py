"""Coding of blocks of items: their codes under a prior, then their levels under p(x | codes).

Encoder and decoder must compute the same probabilities, to the last bit. So both walk over the same batch
with the same code, in the precision of the weights, on the CPU and in one thread: an autoregressive prior by
its cached step, never by the parallel pass of training. `Codec.arithmetic` says which software and which
probabilities a file depends on, and the digest of each block finds whatever is left.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.coding.archive import ArchiveInfo, digest
from smalti.coding.streams import Decoder, Encoder, Probe, ProbeFull
from smalti.core.coders import SymbolCoder
from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.core.precision import full_precision
from smalti.core.priors import DensityPrior, Prior
from smalti.core.weights import fingerprint
from smalti.data.padding import whole_length
from smalti.evaluation.bounds import LabelPrior

BLOCK = 128
"""Most items of a block, which are coded together: more are faster, fewer give finer access."""
BLOCK_VALUES = 1 << 24
"""Most parameters of the likelihood of a block, which bounds the memory."""
MOST_VALUES = 1 << 28
"""Most codes or levels of a block."""
PROBED_ITEMS, PROBED_GROUPS = 2, 48
"""Size of the batch, and number of groups of symbols, whose probabilities are part of the arithmetic."""


@final
@dataclass(frozen=True)
class Coded:
    """A coded block.

    Attributes:
        content: its stream.
        digest: of codes, levels and labels.
        code_bits: information content of the codes under the prior, and of the labels where they are read:
            log2 of the number of labels for each item that has one, as in `smalti.evaluation.bounds`.
        bits: that of codes and levels.
    """

    content: bytes
    digest: bytes
    code_bits: float
    bits: float


@final
class Codec:
    """Codes the items of a model losslessly, or their codes only.

    Args:
        model: on the CPU.
        prior: over its codes.
        lossless: whether levels are coded, too.

    Raises:
        InputError: if the model is on another device, its data has no exact levels, its decoder reads
            conditions other than labels, or the prior has no density.
    """

    def __init__(self, model: Autoencoder, prior: Prior, lossless: bool = False) -> None:
        if next(model.parameters()).device.type != "cpu":
            raise InputError(
                "expected a model on the CPU, whose arithmetic is repeatable, received one on another "
                'device: load it with device="cpu"'
            )
        if not isinstance(prior, DensityPrior):
            raise InputError(
                f"expected a prior with probabilities, received {prior.name!r}, which only draws samples: "
                "use the prior uniform, unigram or an autoregressive one"
            )
        if lossless and model.signal.is_continuous:
            raise InputError(
                "expected data with exact levels for lossless compression, received a model of continuous "
                "data: leave out --lossless"
            )
        if others := sorted(readable_conditions(model) - {"label", "local"}):
            raise InputError(
                f"expected a decoder that reads no conditions but labels, received one that reads "
                f"{', '.join(others)}, which archives do not hold: use another model"
            )
        self.model, self.prior, self.lossless = model.eval(), prior.eval(), lossless
        self.reads_labels = bool(model.num_label_classes) or isinstance(prior, LabelPrior)
        """True if labels are part of an archive, since the model or the prior reads them."""

    def block_items(self, length: int | None = None) -> int:
        """Return the number of items of a block.

        Args:
            length: first side of the items; None for that of the model's signal.
        """
        size = self.model.signal.size
        positions = math.prod(size) * (1 if length is None else length / size[0])
        each = max(self.model.signal.channels, self.model.family.num_parameters) * positions
        return max(1, min(BLOCK, int(BLOCK_VALUES / each)))

    @cached_property
    def software(self) -> dict[str, str]:
        """Software and processor that the arithmetic depends on."""
        packages = {name: _version(name) for name in ("torch", "numpy", "numba", "constriction")}
        capability = torch.backends.cpu.get_cpu_capability()
        return {**packages, "processor": f"{platform.machine()} {capability}"}

    @cached_property
    def arithmetic(self) -> str:
        """Digest of the software, and of the probabilities of a few arbitrary items."""
        grid = self.model.grid
        codes = torch.zeros(PROBED_ITEMS, self.model.num_codebooks, *grid, dtype=torch.int64)
        labels = [0] * PROBED_ITEMS if self.reads_labels else None
        digests = [self._probed(lambda coder: self._code_codes(codes, labels, coder))]
        if self.lossless:
            codes = torch.arange(codes.numel()).view(codes.shape) * 7 % self.model.num_codes
            levels = torch.zeros(PROBED_ITEMS, *self._item_shape(), dtype=torch.int64)
            digests.append(self._probed(lambda coder: self._code_levels(levels, codes, labels, coder)))
        text = json.dumps([self.software, digests], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def info(self, is_ragged: bool = False) -> ArchiveInfo:
        """Return the header of an archive.

        Args:
            is_ragged: whether items differ in their first side.
        """
        first, *others = self.model.grid
        channels, side, *sides = self._item_shape()
        return ArchiveInfo(
            lossless=self.lossless,
            model=fingerprint(self.model),
            prior=self.prior.name,
            prior_model=self._prior_fingerprint,
            arithmetic=self.arithmetic,
            software=self.software,
            num_codes=self.model.num_codes,
            code_shape=(self.model.num_codebooks, None if is_ragged else first, *others),
            item_shape=(channels, None if is_ragged else side, *sides),
        )

    def check(self, info: ArchiveInfo, is_ragged: bool = False) -> None:
        """Check that an archive was written by this codec, with the same arithmetic.

        Raises:
            InputError: if the model, the prior or an arithmetic differs.
        """
        if info.model != fingerprint(self.model):
            raise InputError(
                f"expected an archive of the model {fingerprint(self.model)[:12]}, received one of "
                f"{info.model[:12]}: use the run that compressed it"
            )
        if (info.prior, info.prior_model) != (self.prior.name, self._prior_fingerprint):
            raise InputError(
                f"expected codes under the prior {self.prior.name!r} as it is now, received codes under "
                f"{info.prior!r} with other weights: use the prior that compressed the archive"
            )
        own = self.info(is_ragged)
        if info.software != own.software:
            names = sorted(
                name
                for name in {*info.software, *own.software}
                if info.software.get(name) != own.software.get(name)
            )
            there, here = (
                ", ".join(f"{name} {each.get(name)}" for name in names)
                for each in (info.software, own.software)
            )
            raise InputError(
                f"expected the arithmetic of {here}, received an archive of {there}: decompress it with the "
                "software and the kind of processor that compressed it"
            )
        if info.arithmetic != own.arithmetic:
            raise InputError(
                "expected an archive of the same probabilities, received one of others, although the "
                "software is the same: decompress it on the kind of machine that compressed it"
            )
        if (info.lossless, info.code_shape, info.item_shape, info.num_codes) != (
            own.lossless,
            own.code_shape,
            own.item_shape,
            own.num_codes,
        ):
            raise InputError(
                f"expected items of shape {own.item_shape} with codes of shape {own.code_shape}, received "
                f"{info.item_shape} with {info.code_shape}: the file is damaged or edited"
            )

    @torch.no_grad()
    def encode(
        self,
        codes: Int64[Tensor, "b g *grid"],
        levels: Int64[Tensor, "b c *size"] | None = None,
        labels: Sequence[int] | None = None,
    ) -> Coded:
        """Encode a block.

        Args:
            codes: of the items.
            levels: of the items, for lossless coding; may be shorter than the codes cover.
            labels: of the items, -1 for none, if `reads_labels`.
        """
        labels = labels if self.reads_labels else None
        label_bits = (
            0.0 if labels is None else math.log2(self._num_labels) * sum(each >= 0 for each in labels)
        )
        encoder = Encoder()
        with _repeatable(self.model):
            self._code_codes(codes.clone(), labels, encoder)
            code_bits = encoder.bits + label_bits
            if levels is not None:
                self._code_levels(levels.clone(), codes, labels, encoder)
        bits = encoder.bits + label_bits
        return Coded(encoder.finish(), _digest(codes, levels, labels), code_bits, bits)

    @torch.no_grad()
    def decode(
        self,
        content: bytes,
        num: int,
        grid_length: int,
        length: int,
        labels: Sequence[int] | None = None,
        expected: bytes | None = None,
    ) -> tuple[Int64[Tensor, "b g *grid"], Int64[Tensor, "b c *size"] | None]:
        """Decode a block to codes, and levels if they were coded.

        Args:
            content: its stream; untrusted.
            num: number of items.
            grid_length: first side of the code grid.
            length: first side of the items.
            labels: of the items.
            expected: digest of the content; None checks none.

        Raises:
            InputError: if the sizes are out of bounds, or the content has another digest.
        """
        codes_shape, shape = self.shapes(num, grid_length, length)
        labels = self._checked_labels(labels, num)
        decoder = Decoder(content)
        codes = torch.zeros(codes_shape, dtype=torch.int64)
        levels = None
        with _repeatable(self.model):
            self._code_codes(codes, labels, decoder)
            if self.lossless:
                levels = torch.zeros(shape, dtype=torch.int64)
                self._code_levels(levels, codes, labels, decoder)
        if expected is not None and _digest(codes, levels, labels) != expected:
            raise InputError(
                "expected content with the stored digest, received other content: the file is damaged, or "
                "the arithmetic of this machine differs from that of the machine that compressed it"
            )
        return codes, levels

    def shapes(self, num: int, grid_length: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the codes and of the levels of a block.

        Args:
            num: number of items.
            grid_length: first side of the code grid.
            length: first side of the items.

        Raises:
            InputError: if the block is empty or too large, or the codes do not cover the items exactly.
        """
        channels, side, *sides = self._item_shape()
        first, *others = self.model.grid
        codes, levels = (num, self.model.num_codebooks, grid_length, *others), (num, channels, length, *sides)
        if max(math.prod(codes), math.prod(levels)) > MOST_VALUES or min(*codes, *levels) < 1:
            raise InputError(
                f"expected a block of 1 to {MOST_VALUES} values, received one of shape {levels}: cut the "
                "data into shorter items, or copy the file again if it is damaged"
            )
        if whole_length(length, self.model.stride) * first != grid_length * side:
            raise InputError(
                f"expected a block whose codes cover its items, received a grid of length {grid_length} for "
                f"items of length {length}: the file is damaged or edited"
            )
        return codes, levels

    def conditions(self, labels: Sequence[int] | None, num: int) -> Conditions:
        """Return the conditions of the decoder for the labels of a block."""
        if not self.model.num_label_classes:
            return Conditions()
        return Conditions(label=torch.tensor([-1] * num if labels is None else list(labels)))

    def _checked_labels(self, labels: Sequence[int] | None, num: int) -> Sequence[int] | None:
        """Return the labels if they are read; they are untrusted."""
        if labels is None or not self.reads_labels:
            return None
        if len(labels) != num or any(not -1 <= label < self._num_labels for label in labels):
            raise InputError(
                f"expected {num} labels from -1 to {self._num_labels - 1}, received others: the file is "
                "damaged or edited"
            )
        return labels

    @property
    def _num_labels(self) -> int:
        """Number of labels of the model, or of a prior with labels, if `reads_labels`."""
        numbers = [self.model.num_label_classes] if self.model.num_label_classes else []
        if isinstance(self.prior, LabelPrior):
            numbers.append(self.prior.num_labels)
        return min(numbers)

    @cached_property
    def _prior_fingerprint(self) -> str | None:
        return fingerprint(self.prior) if self.prior.state_dict() else None

    def _item_shape(self) -> tuple[int, ...]:
        return (self.model.signal.channels, *self.model.signal.size)

    def _code_codes(self, codes: Tensor, labels: Sequence[int] | None, coder: SymbolCoder) -> None:
        is_given = labels is not None and isinstance(self.prior, LabelPrior)
        conditions = Conditions(label=torch.tensor(list(labels or ()))) if is_given else Conditions()
        self.prior.code(codes, coder, conditions)

    def _code_levels(
        self, levels: Tensor, codes: Tensor, labels: Sequence[int] | None, coder: SymbolCoder
    ) -> None:
        self.model.likelihood(codes, self.conditions(labels, len(codes))).code(levels, coder)

    def _probed(self, walk: Callable[[SymbolCoder], None]) -> str:
        probe = Probe(PROBED_GROUPS)
        with torch.no_grad(), _repeatable(self.model), suppress(ProbeFull):
            walk(probe)
        return probe.digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"  # such as numba, which is optional at run time


@contextmanager
def _repeatable(model: Autoencoder) -> Iterator[None]:
    """Compute in one thread, so that the order of sums does not depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with full_precision(model):
            yield
    finally:
        torch.set_num_threads(threads)


def _digest(codes: Tensor, levels: Tensor | None, labels: Sequence[int] | None) -> bytes:
    parts = [codes.numpy().astype("<i8").tobytes()]
    if levels is not None:
        parts.append(levels.numpy().astype("<i4").tobytes())
    if labels is not None:
        parts.append(repr(list(labels)).encode())
    return digest(*parts)
