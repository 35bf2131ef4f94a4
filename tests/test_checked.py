"""Annotations are checked while tests run: shapes, and everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import beartype
import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation as Violation
from jaxtyping import Float
from torch import Tensor

from smalti.core.files import is_disk_full
from smalti.core.results import Bound
from smalti.nn.jitter import jitter
from tests.checked import JAXTYPED, MOST_CALLS, begin_test, checked, has_shape, resolved

Past = list[Float[Tensor, "b c"]]


def with_checks(fn):
    return checked(fn, typechecker=beartype.beartype)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("Float[Tensor, 'b']", True),
        ("Past", True),
        ("dict[str, Past] | None", True),
        ("Callable[[Float[Tensor, '']], None]", True),
        ("Callable[..., tuple[int, ...]]", False),
        ("Tensor", False),
        ("list[int] | None", False),
        ("Undefined", False),
        ("None", False),
    ],
)
def test_annotations_with_shapes_are_found(hint, expected):
    assert has_shape(resolved(hint, globals())) is expected


def test_shapes_agree_within_a_call():
    @with_checks
    def joined(a: Float[Tensor, "b c"], more: Past) -> Float[Tensor, "b n"]:
        return torch.cat([a, *more], 1)

    assert joined(torch.zeros(2, 3), [torch.zeros(2, 3)]).shape == (2, 6)
    with pytest.raises(Violation):
        joined(torch.zeros(2, 3), [torch.zeros(1, 3)])
    with pytest.raises(Violation):
        joined(torch.zeros(2, 3, dtype=torch.int64), [])

    @with_checks
    def square(a: Float[Tensor, "b b"]) -> Float[Tensor, "b c"]:
        # Axis names are those of a call: the inner one may be of another size.
        return joined(a.new_zeros(7, 2), [])[:1].expand(len(a) - len(a) % 2, -1)

    assert square(torch.zeros(4, 4)).shape == (4, 2)
    with pytest.raises(Violation):
        square(torch.zeros(3, 4))
    with pytest.raises(Violation):
        square(torch.zeros(3, 3))


def test_other_types_are_checked_without_a_context_of_shapes():
    @with_checks
    def half(number: int, names: list[str] | None = None) -> int:
        return number / 2 if number % 2 else number // 2

    assert half(4, ["a"]) == 2
    for wrong in (lambda: half("4"), lambda: half(4, [1]), lambda: half(3)):
        with pytest.raises(Violation):
            wrong()
    assert half.__annotations__ == {"number": "int", "names": "list[str] | None", "return": "int"}
    assert half.__name__ == "half"


def test_loops_are_checked_at_their_first_calls_of_each_test():
    @with_checks
    def double(a: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return a * 2

    whole = torch.zeros(2, dtype=torch.int64)
    for _ in range(MOST_CALLS):
        with pytest.raises(Violation):
            double(whole)
    assert double(whole).tolist() == [0, 0]
    begin_test()
    with pytest.raises(Violation):
        double(whole)


def test_methods_generators_and_dataclasses_are_checked():
    @with_checks
    @dataclass(frozen=True)
    class Pair:
        first: int
        rest: Callable[..., int] | None = None

    @with_checks
    def counted(to: int) -> Iterator[int]:
        yield from range(to)

    assert list(counted(3)) == [0, 1, 2]
    assert Pair(1).first == 1
    for wrong in (lambda: Pair("1"), lambda: Pair(1, 2), lambda: counted("3")):
        with pytest.raises((Violation, jaxtyping.TypeCheckError)):
            wrong()


def test_the_package_is_checked():
    assert jaxtyping.jaxtyped is checked is not JAXTYPED
    with pytest.raises(Violation):
        jitter(torch.zeros(2, 3, dtype=torch.int64), 0.5)
    with pytest.raises(Violation):
        is_disk_full("full")
    with pytest.raises((Violation, jaxtyping.TypeCheckError)):
        Bound(1)
