"""The pages of an Ogg file, found without decoding (RFC 3533)."""

from __future__ import annotations

from smalti.data.sources.base import UnreadableItem

FIRST_PAGE = 2
"""Flag of the first page of a stream."""


def pieces(data: bytes) -> list[bytes]:
    """Split a chained file into its links, each an Ogg file of its own; most files are one link.

    Raises:
        UnreadableItem: if the last page is incomplete, or bytes between pages are missing or damaged.
    """
    starts, at, was_first = [], 0, False
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            if not data[at:].strip(b"\0"):
                break
            raise UnreadableItem(f"damaged: no page follows its first {at} bytes")
        segments = data[at + 27 : at + 27 + data[at + 26]] if len(data) > at + 26 else b""
        end = at + 27 + len(segments) + sum(segments)
        if end > len(data) or (not segments and len(data) < at + 27):
            raise UnreadableItem("truncated: its last page is incomplete")
        is_first = bool(data[at + 5] & FIRST_PAGE)
        if is_first and not was_first:
            starts.append(at)
        at, was_first = end, is_first
    if not starts or starts[0] != 0:
        raise UnreadableItem("damaged: its first page is missing")
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]
