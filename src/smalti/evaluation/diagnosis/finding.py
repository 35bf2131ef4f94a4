"""A fault of a run, with what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@final
@dataclass(frozen=True)
class Finding:
    """A fault of a run.

    Attributes:
        name: of the fault, such as `dead-codes`.
        severity: "error", "warning" or "note".
        codebook: name of the quantizer's module; empty for a model with one quantizer, or for the whole run.
        text: description, with figures.
        advice: settings to change.
    """

    name: str
    severity: Severity
    codebook: str
    text: str
    advice: str
