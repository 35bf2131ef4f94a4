"""Errors of pydantic: every type that a config can raise is said in our words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from smalti.core.config import Configuration
from smalti.core.suggestions import suggestion
from smalti.core.validation import MOST_SHOWN, sentence_of


class Robust(Configuration):
    mode: Literal["robust"] = "robust"


class Faithful(Configuration):
    mode: Literal["faithful"] = "faithful"


class Everything(Configuration):
    whole: int = Field(default=1, ge=1, le=9)
    rate: float = Field(default=0.5, gt=0, lt=1, allow_inf_nan=False)
    is_on: bool = True
    name: str = ""
    sides: tuple[int, ...] = Field(default=(1,), min_length=1, max_length=2)
    names: list[str] = Field(default_factory=list)
    table: dict[str, int] = Field(default_factory=dict)
    inner: Robust = Robust()
    either: Annotated[Robust | Faithful, Field(discriminator="mode")] = Robust()
    choice: Literal["red", "green"] = "red"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("whole", "many", "expected a whole number, received 'many'"),
        ("whole", 1.5, "expected a whole number, received 1.5"),
        ("whole", None, "expected a whole number, received None"),
        ("whole", 0, "expected a number of at least 1, received 0"),
        ("whole", 10, "expected a number of at most 9, received 10"),
        ("rate", "x", "expected a number, received 'x'"),
        ("rate", 0, "expected a number above 0, received 0"),
        ("rate", 1, "expected a number below 1, received 1"),
        ("rate", float("nan"), "expected a finite number, received nan"),
        ("is_on", "maybe", "expected true or false, received 'maybe'"),
        ("is_on", [], "expected true or false, received []"),
        ("name", 3, "expected text, received 3"),
        ("sides", 3, "expected a list, received 3"),
        ("sides", (), "expected at least 1 values, received ()"),
        ("sides", (1, 2, 3), "expected at most 2 values, received (1, 2, 3)"),
        ("names", 3, "expected a list, received 3"),
        ("table", 3, "expected settings with names, received 3"),
        ("inner", 3, "expected settings with names, received 3"),
        ("choice", "gren", "expected red or green, received 'gren': did you mean green?"),
        ("choice", "blue", "expected red or green, received 'blue'"),
        ("either", {"mode": "robst"}, "did you mean robust?"),
        ("other", 3, "expected no such key, received 3"),
    ],
)
def test_sentences(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate({key: value})
    sentence = sentence_of(raised.value.errors()[0], key)
    assert sentence.startswith(f"{key}: expected ")
    assert sentence.endswith(expected)


def test_long_values_are_cut() -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate({"whole": list(range(1000))})
    assert len(sentence_of(raised.value.errors()[0], "whole")) < MOST_SHOWN + 50


def test_suggestions() -> None:
    names = ("image", "hierarchy", "fashion-mnist")
    assert suggestion("imgae", names) == "did you mean image?"
    assert suggestion("Fashion-MNITS", names) == "did you mean fashion-mnist?"
    assert suggestion("fashion", names) == "did you mean fashion-mnist?"
    assert suggestion("gpu", ["cpu", "paper"]) == "there are cpu, paper"
    assert suggestion("im", ["imagen", "imager"]) == "there are imagen, imager"
    assert suggestion("", ["image"]) == "there is only image"
    assert suggestion("zebra", names) == "there are image, hierarchy, fashion-mnist"
    assert suggestion("zebra", ["image"]) == "there is only image"
    assert suggestion("zebra", [], "the classes are") == "the classes are none"
    assert suggestion("zebra", [str(n) for n in range(30)]).endswith("19, and 10 more")
