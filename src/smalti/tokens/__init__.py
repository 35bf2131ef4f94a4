"""Codes as tokens of a language model: the mapping, its description, and files of tokens."""

from __future__ import annotations

from smalti.tokens.layout import TokenLayout

__all__ = ["TokenLayout"]
