"""Interface of a comparison: how a quantizer is trained on data, and measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from smalti.core.config import Configuration
from smalti.core.parts import QuantizerConfig
from smalti.studies.quantizers.entries import Target
from smalti.studies.quantizers.tasks import Task

MIB = 2**20


@final
@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        metric: key in the metrics of a record.
        title: heading.
        form: format of the mean.
        has_error: True to show the standard error over seeds.
        is_score: True if the lowest values are marked.
    """

    metric: str
    title: str
    form: str = ".3f"
    has_error: bool = False
    is_score: bool = False


@final
@dataclass(frozen=True)
class Curve:
    """A reference in the plot.

    Attributes:
        name: in the legend.
        points: (bits an item, distortion).
        is_line: True to join them.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    is_line: bool = True


class Experiment(ABC):
    """Data, networks and budget that all quantizers of a comparison share."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that must not change when the comparison goes on, as plain JSON values."""

    @abstractmethod
    def target(self, bits: float) -> Target:
        """Rate of an item as a target for quantizers."""

    @abstractmethod
    def nominal_bits(self, config: QuantizerConfig) -> float:
        """Bits an item under the uniform prior.

        Raises:
            InputError: if the quantizer does not fit the data or the networks.
        """

    @abstractmethod
    def trial(self, title: str, config: QuantizerConfig, path: Path) -> Task:
        """A training with a part of the budget, of seed 0, to choose loss weights."""

    @abstractmethod
    def score(self, path: Path) -> float:
        """Score of a finished trial on validation data; lower is better."""

    @abstractmethod
    def unit(self, title: str, config: QuantizerConfig, seed: int, path: Path) -> Task:
        """The training with the whole budget, and its evaluation on the test split."""

    @property
    @abstractmethod
    def measured_on(self) -> str:
        """Data of all units, for their records."""

    @abstractmethod
    def unit_settings(self, config: QuantizerConfig, seed: int) -> Configuration:
        """Settings of a unit, which its record repeats under `config`."""

    @abstractmethod
    def time(self, path: Path) -> dict[str, float]:
        """Measure a finished unit: encode_ms and step_ms (medians), and mib of its quantizer."""

    @abstractmethod
    def measured(self, path: Path) -> dict[str, Any]:
        """Fields of the record of a finished unit, with `metrics`."""

    @abstractmethod
    def columns(self) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
        """Columns of the table of results, and of the table of code use and cost."""

    @abstractmethod
    def curves(self, bits: list[float]) -> list[Curve]:
        """References in the plot, for rates near these."""

    @abstractmethod
    def caption(self) -> str:
        """Sentences on the data, the budget and the figures."""

    def pictures(self, path: Path) -> Path | None:
        """Picture of reconstructions of a finished unit, or None."""
        return None


def mib(quantizer: nn.Module) -> float:
    """MiB of a quantizer's parameters and saved buffers."""
    return sum(t.numel() * t.element_size() for t in quantizer.state_dict().values()) / MIB
