"""Token layouts: an exact inverse for every grid, and sequences that are none are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo
from smalti.tokens import TokenLayout

# Type checkers of arguments draw from the module random.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def info(grid: tuple[int | None, ...], num_codes: int = 5, num_codebooks: int = 1) -> CodesInfo:
    fields = {"grid": grid, "num_codebooks": num_codebooks, "num_codes": num_codes, "model": "0" * 16}
    # Grids of any sides: what files of codes hold is not the matter here.
    return CodesInfo.model_construct(**fields)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[TokenLayout, np.ndarray]:
    """A layout, and codes that it fits."""
    sides = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    num_free = draw(st.integers(0, len(sides)))
    needed = {("row", "frame")[axis < len(sides) - 1] for axis in range(1, num_free)}
    possible = (
        {"bos", "eos"} | ({"row"} if len(sides) > 1 else set()) | ({"frame"} if len(sides) > 2 else set())
    )
    chosen = needed | draw(st.sets(st.sampled_from(sorted(possible))))
    num_codes, num_codebooks = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    stride = draw(st.sampled_from([None, 0, num_codes, num_codes + 3]))
    grid = tuple(None if axis < num_free else side for axis, side in enumerate(sides))
    known = {"eos": 1000} if "eos" in chosen and draw(st.booleans()) else None
    layout = TokenLayout.of(
        info(grid, num_codes, num_codebooks), sorted(chosen), draw(st.integers(0, 300)), stride, known
    )
    seed = draw(st.integers(0, 99))
    return layout, np.random.default_rng(seed).integers(0, num_codes, (num_codebooks, *sides))


@given(layouts())
def test_the_inverse_is_exact(pair: tuple[TokenLayout, np.ndarray]) -> None:
    layout, codes = pair
    tokens = layout.tokens(codes)
    assert tokens.dtype == layout.dtype
    assert tokens.max() < layout.vocabulary_size
    assert np.array_equal(layout.codes(tokens), codes)
    assert set(tokens.tolist()) <= set(layout.names)


@given(layouts(), st.data())
def test_a_spoiled_sequence_is_no_item(pair: tuple[TokenLayout, np.ndarray], data: st.DataObject) -> None:
    layout, codes = pair
    tokens = layout.tokens(codes).astype(np.int64)
    place = data.draw(st.integers(0, len(tokens) - 1))
    spoiled = tokens.copy()
    spoiled[place] = data.draw(st.integers(0, layout.vocabulary_size + 3))
    assume(spoiled[place] != tokens[place])
    try:
        again = layout.codes(spoiled)
    except InputError:
        return
    assert np.array_equal(layout.tokens(again), spoiled)


@given(layouts())
def test_what_is_allowed_leads_to_items(pair: tuple[TokenLayout, np.ndarray]) -> None:
    layout, codes = pair
    assume(None not in layout.grid[1:])
    tokens = layout.tokens(codes).tolist()
    for place, token in enumerate(tokens):
        assert token in layout.allowed(tokens[:place])
    if "eos" in layout.separators or None not in layout.grid:
        assert layout.allowed(tokens).size == 0
    rng = np.random.default_rng(0)
    drawn: list[int] = []
    for _ in range(100):
        allowed = layout.allowed(drawn)
        if not allowed.size:
            assert layout.tokens(layout.codes(np.array(drawn))).tolist() == drawn
            break
        drawn.append(int(rng.choice(allowed)))


def test_order_and_numbers() -> None:
    """Two codebooks of ten, a grid of one row and two columns, written by hand."""
    codes = np.array([[[1, 2]], [[3, 4]]])
    layout = TokenLayout.of(info((1, 2), 10, 2), ["bos", "eos", "row"])
    assert layout.separators == {"bos": 0, "eos": 1, "row": 2}
    assert layout.tokens(codes).tolist() == [0, 3 + 1, 3 + 10 + 3, 3 + 2, 3 + 10 + 4, 2, 1]
    shared = TokenLayout.of(info((1, 2), 10, 2), [], 100, 0)
    assert shared.tokens(codes).tolist() == [101, 103, 102, 104]
    assert shared.vocabulary_size == 110
    wide = TokenLayout.of(info((1, 2), 10, 2), ["eos"], 32_000, 16, {"eos": 2})
    assert wide.tokens(codes).tolist() == [32_001, 32_019, 32_002, 32_020, 2]
    assert wide.names[32_019] == "<|code_1_3|>"
    assert wide.names[2] == "<|eos|>"


def test_frames_and_rows() -> None:
    layout = TokenLayout.of(info((None, 2, 1), 10), ["row", "frame"])
    assert layout.tokens(np.arange(4).reshape(1, 2, 2, 1)).tolist() == [2, 0, 3, 0, 1, 4, 0, 5, 0, 1]


@pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65_536, "uint32")])
def test_type_is_the_smallest(largest: int, dtype: str) -> None:
    assert TokenLayout.of(info((1,), largest + 1), []).dtype == dtype


@pytest.mark.parametrize(
    ("grid", "separators", "offset", "stride", "known"),
    [
        ((4,), ["row"], 0, None, {}),
        ((4, 4), ["frame"], 0, None, {}),
        ((4, 4), ["end"], 0, None, {}),
        ((4, 4), [], 0, 3, {}),
        ((4, 4), ["eos"], 0, None, {"eos": 2}),
        ((4, 4), ["bos", "eos"], 10, None, {"eos": 10}),
        ((4, 4), [], 2**31 - 3, None, {}),
        ((4, 4), [], -1, None, {}),
    ],
)
def test_impossible_layouts(
    grid: tuple[int, ...], separators: list[str], offset: int, stride: int | None, known: dict[str, int]
) -> None:
    with pytest.raises(InputError):
        TokenLayout.of(info(grid), separators, offset, stride, known)


def test_several_free_sides_need_separators() -> None:
    free = TokenLayout.of(info((4, 4))).model_dump() | {"grid": (None, None)}
    with pytest.raises(ValueError, match="row"):
        TokenLayout.model_validate(free)


@pytest.mark.parametrize(
    "codes",
    [np.zeros((1, 4, 3), int), np.zeros((1, 4), int), np.full((1, 4, 4), 5), -np.ones((1, 4, 4), int)],
)
def test_codes_that_do_not_fit(codes: np.ndarray) -> None:
    with pytest.raises(InputError):
        TokenLayout.of(info((4, 4))).tokens(codes)


def test_description_is_read_back(tmp_path: Path) -> None:
    layout = TokenLayout.of(info((None, 4), 300, 2), ["bos", "eos", "row"], 7, 512, {"eos": 2})
    layout.write(tmp_path / "tokens.json")
    assert TokenLayout.read(tmp_path / "tokens.json") == layout
    described = json.loads((tmp_path / "tokens.json").read_text())
    assert described["vocabulary_size"] == layout.vocabulary_size
    assert described["dtype"] == "uint16"
    name = described["names"]["codes"].format(slot=1, code=3)
    assert layout.names[layout.offset + 512 + 3] == name
    for content in ("{}", "[]", "Dear Anna"):
        (tmp_path / "tokens.json").write_text(content)
        with pytest.raises(InputError):
            TokenLayout.read(tmp_path / "tokens.json")
