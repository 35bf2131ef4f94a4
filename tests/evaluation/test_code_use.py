"""Reliance of a decoder on codes: a model whose every probability is known, counted by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from smalti.core.conditions import Batch, Conditions
from smalti.core.models import Autoencoder
from smalti.core.parts import Likelihood
from smalti.core.results import Loss
from smalti.core.signals import SignalSpec
from smalti.evaluation import code_use
from smalti.evaluation.code_use import KINDS, CodeUse
from smalti.likelihoods.categorical import Categorical
from smalti.likelihoods.levels import from_levels

LEVELS, STRIDE, SURE = 4, 2, 0.7
RIGHT, WRONG = -math.log2(SURE), -math.log2((1 - SURE) / (LEVELS - 1))


class Known(Autoencoder):
    """A code is the level of both of its samples with a probability of 0.7, or is ignored."""

    num_codebooks, num_codes = 1, LEVELS

    def __init__(self, has_none: bool = True, uses_codes: bool = True) -> None:
        super().__init__()
        self.signal = SignalSpec(1, (8,), LEVELS)
        self.has_none, self.uses_codes = has_none, uses_codes
        self.labels: list[Any] = []

    title, grid = "known", (4,)

    def loss(self, batch: Batch) -> Loss:
        raise NotImplementedError

    def encode(self, signal: torch.Tensor, conditions: Conditions | None = None) -> torch.Tensor:
        return ((signal[..., ::STRIDE] + 1) * (LEVELS - 1) / 2).round().long()

    def likelihood(self, codes: torch.Tensor, conditions: Conditions | None = None) -> Likelihood:
        self.labels.append(None if conditions is None else conditions.tensor("label"))
        if not self.uses_codes:
            codes = torch.zeros_like(codes)
        chosen = torch.nn.functional.one_hot(codes.repeat_interleave(STRIDE, -1), LEVELS).movedim(-1, 2)
        return Categorical(torch.where(chosen > 0, SURE, (1 - SURE) / (LEVELS - 1)).log())

    def likelihood_without_codes(
        self, num: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> Likelihood | None:
        self.labels.append(None if conditions is None else conditions.tensor("label"))
        return Categorical(torch.zeros(num, 1, LEVELS, grid[0] * STRIDE)) if self.has_none else None


def line(*codes: int) -> torch.Tensor:
    """The signal `(1, 1, T)` that these codes say, with each sample twice."""
    return from_levels(torch.tensor(codes).repeat_interleave(STRIDE).view(1, 1, -1), LEVELS)


def measured(model: Known, batches: Sequence[Batch]) -> dict[str, float]:
    use = CodeUse(model)
    for batch in batches:
        use.update(batch, model.encode(batch.data))
    return use.compute()


LINES = [(0, 1, 2, 3), (0, 1, 3, 2), (3, 1, 3, 2), (3, 3, 3, 3), (2, 1, 3, 3)]
ITEMS = [line(*codes) for codes in LINES]


@pytest.mark.parametrize("apart", [1, 2, 3, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_true_shuffled_and_none_by_hand_however_batched(size, apart, monkeypatch):
    monkeypatch.setattr(code_use, "APART", apart)
    batches = [Batch(torch.cat(ITEMS[begin : begin + size])) for begin in range(0, len(ITEMS), size)]
    result = measured(Known(), batches)
    agree = [
        own == other
        for index, codes in enumerate(LINES[1:], 1)
        for own, other in zip(codes, LINES[max(0, index - apart)], strict=True)
    ]
    shuffled = (sum(agree) * RIGHT + (len(agree) - sum(agree)) * WRONG) / len(agree)
    assert result == pytest.approx(
        {"distortion_true": RIGHT, "distortion_shuffled": shuffled, "distortion_none": 2.0}
    )


def test_the_first_item_is_left_out():
    """Its samples are such that no code tells them, and they would raise all the figures."""
    odd = from_levels(torch.tensor([[[0, 3, 0, 3, 0, 3, 0, 3]]]), LEVELS)
    others = [Batch(item) for item in ITEMS[1:4]]
    assert measured(Known(), [Batch(odd), *others])["distortion_true"] == pytest.approx(RIGHT)
    last = measured(Known(), [*others, Batch(odd)])["distortion_true"]
    assert last == pytest.approx((2 * RIGHT + (RIGHT + WRONG) / 2) / 3)


def test_items_of_many_lengths_count_by_their_samples():
    """Codes of the first item are repeated, or cut."""
    lines = [line(0, 1), line(0, 1, 0, 1, 2), line(0, 2, 2)]
    result = measured(Known(), [Batch(item) for item in lines])
    # Of 0 1 0 1 0 four in five are right; of 0 1 0 the first of three.
    right = 4 + 1
    assert result["distortion_shuffled"] == pytest.approx((right * RIGHT + (8 - right) * WRONG) / 8)
    assert result["distortion_true"] == pytest.approx(RIGHT)
    assert result["distortion_none"] == pytest.approx(2)


def test_what_follows_an_item_does_not_count():
    padded = torch.cat([line(0, 1, 2, 3), line(0, 1, 1, 1), line(2, 1, 0, 0)])
    lengths = torch.tensor([8, 4, 3])
    result = measured(Known(), [Batch(padded, lengths=lengths)])
    # Of the second item 4 of 4 samples have the code of the first; of the third only the last of 3.
    assert result["distortion_shuffled"] == pytest.approx((5 * RIGHT + 2 * WRONG) / 7)
    assert result["distortion_none"] == pytest.approx(2)


def test_a_decoder_that_ignores_codes_is_detected():
    result = measured(Known(uses_codes=False), [Batch(torch.cat(ITEMS))])
    assert result["distortion_true"] == result["distortion_shuffled"]


def test_a_model_that_knows_no_signals_without_codes_is_not_measured():
    assert measured(Known(has_none=False), [Batch(torch.cat(ITEMS))]) == {}
    assert measured(Known(), [Batch(ITEMS[0])]) == {}


def test_labels_go_with_their_items():
    model = Known()
    measured(model, [Batch(torch.cat(ITEMS[:2]), Conditions(label=torch.tensor([5, 6])))])
    assert [labels.tolist() for labels in model.labels] == [[6]] * 3
    assert {f"distortion_{kind}" for kind in KINDS} == CodeUse.protocol().keys()
