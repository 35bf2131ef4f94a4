"""Conditioners: by position equals all at once, oracles of each, absent and hidden conditions, refusals."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from smalti.conditioners.cross_attention import CrossAttention
from smalti.conditioners.embedding import Embedding
from smalti.conditioners.field import UpsampledField
from smalti.conditioners.projection import Projection
from smalti.core.conditioners import CONDITIONERS, Conditioner
from smalti.core.conditions import ConditionValue, DenseField, PerFrame, PerItem, TokenSequence
from smalti.core.errors import InputError

CHANNELS, BATCH, GRID = 8, 3, (4, 6)
VALUES: dict[str, list[Callable[[], ConditionValue]]] = {
    "embedding": [
        lambda: PerItem(torch.tensor([0, -1, 2])),
        lambda: PerFrame(torch.randint(-1, 3, (BATCH, GRID[0]))),
    ],
    "projection": [lambda: PerItem(torch.randn(BATCH, 2)), lambda: PerFrame(torch.randn(BATCH, GRID[0], 2))],
    "upsampled_field": [
        lambda: DenseField(torch.randn(BATCH, 2, 2, 3)),
        lambda: DenseField(torch.randn(BATCH, 2, 1, 1)),
    ],
    "cross_attention": [
        lambda: TokenSequence.with_lengths(torch.randint(7, (BATCH, 5)), torch.tensor([5, 0, 2]))
    ],
}
"""Values that a conditioner of each kind takes; a new kind needs a line here."""
CASES = [pytest.param(kind, make, id=f"{kind}-{i}") for kind in VALUES for i, make in enumerate(VALUES[kind])]


def build(kind: str) -> Conditioner:
    torch.manual_seed(0)
    made = CONDITIONERS.get(kind).tiny().build(CHANNELS).double().eval()  # pyright: ignore[reportAttributeAccessIssue]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def activations(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, CHANNELS, *GRID, dtype=torch.float64, generator=generator)


def test_every_kind_is_tested():
    assert set(VALUES) == set(CONDITIONERS.kinds())


@pytest.mark.parametrize(("kind", "make"), CASES)
@torch.no_grad()
def test_each_position_by_itself_is_what_all_give_at_once(kind, make):
    conditioner, x = build(kind), activations()
    prepared = conditioner.prepare(make(), BATCH, GRID)
    whole = conditioner(x, prepared)
    assert whole.shape == x.shape
    steps = [conditioner(x.flatten(2)[:, :, i], prepared, i) for i in range(GRID[0] * GRID[1])]
    torch.testing.assert_close(torch.stack(steps, 2).view_as(x), whole)


@pytest.mark.parametrize(("kind", "make"), CASES)
@torch.no_grad()
def test_items_do_not_see_each_other(kind, make):
    conditioner, x, value = build(kind), activations(), make()
    whole = conditioner(x, conditioner.prepare(value, BATCH, GRID))
    for item in range(BATCH):
        own = value.each(lambda tensor, item=item: tensor[[item]])
        alone = conditioner(x[[item]], conditioner.prepare(own, 1, GRID))
        torch.testing.assert_close(alone, whole[[item]])


@pytest.mark.parametrize(("kind", "make"), CASES)
@torch.no_grad()
def test_a_condition_counts_unless_training_hides_it(kind, make):
    conditioner, x = build(kind), activations()
    value = make()
    given = conditioner(x, conditioner.prepare(value, BATCH, GRID))
    absent = conditioner(x, conditioner.prepare(None, BATCH, GRID))
    assert ((given - absent).abs().flatten(1).amax(1) > 1e-6)[[0, 2]].all()
    conditioner.config = conditioner.config.model_copy(update={"dropout": 1.0})
    hidden = conditioner(x, conditioner.prepare(value, BATCH, GRID, hide=True))
    torch.testing.assert_close(hidden, absent)
    torch.testing.assert_close(conditioner(x, conditioner.prepare(value, BATCH, GRID)), given)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("is_given", [True, False])
def test_every_parameter_has_a_gradient_with_and_without_the_condition(kind, is_given):
    conditioner = build(kind)
    conditioner(
        activations(), conditioner.prepare(VALUES[kind][0]() if is_given else None, BATCH, GRID)
    ).sum().backward()
    assert [name for name, each in conditioner.named_parameters() if each.grad is None] == []


def test_an_absent_condition_ignores_weights_that_are_not_finite():
    conditioner = UpsampledField(CHANNELS, dim=2).double()
    torch.nn.init.constant_(conditioner.linear.weight, torch.inf)
    x = activations()
    torch.testing.assert_close(conditioner(x, conditioner.prepare(None, BATCH, GRID)), x)


@torch.no_grad()
def test_an_embedding_of_frames_is_added_to_all_of_each_frame():
    conditioner, x = build("embedding"), activations()
    assert isinstance(conditioner, Embedding)
    ids = torch.tensor([[0, 1, 2, -1]] * BATCH)
    received = conditioner(x, conditioner.prepare(PerFrame(ids), BATCH, GRID))
    rows = conditioner.table.weight[[0, 1, 2, 3]]
    torch.testing.assert_close(received, x + rows.t()[None, :, :, None])


@torch.no_grad()
def test_projection_and_field_against_numpy():
    x = activations()
    projection, field = build("projection"), build("upsampled_field")
    assert isinstance(projection, Projection)
    assert isinstance(field, UpsampledField)
    vectors, coarse = torch.randn(BATCH, 4, 2).double(), torch.randn(BATCH, 2, 2, 3).double()
    weight, bias = (p.detach().numpy() for p in (projection.linear.weight, projection.linear.bias))
    expected = x.numpy() + (vectors.numpy() @ weight.T + bias).transpose(0, 2, 1)[..., None]
    received = projection(x, projection.prepare(PerFrame(vectors), BATCH, GRID))
    np.testing.assert_allclose(received.numpy(), expected)
    weight, bias = (p.detach().numpy() for p in (field.linear.weight, field.linear.bias))
    fine = np.kron(coarse.numpy(), np.ones((1, 1, 2, 2)))
    expected = x.numpy() + np.einsum("cp,bpij->bcij", weight, fine) + bias[:, None, None]
    received = field(x, field.prepare(DenseField(coarse), BATCH, GRID))
    np.testing.assert_allclose(received.numpy(), expected)


@torch.no_grad()
def test_attention_is_over_what_the_mask_leaves():
    conditioner, x = build("cross_attention"), activations()
    tokens, lengths = torch.randint(7, (BATCH, 5)), torch.tensor([5, 0, 2])
    received = conditioner(x, conditioner.prepare(TokenSequence.with_lengths(tokens, lengths), BATCH, GRID))
    for item, length in enumerate(lengths):
        cut = TokenSequence(tokens[[item], :length])
        alone = conditioner(x[[item]], conditioner.prepare(cut, 1, GRID))
        torch.testing.assert_close(alone, received[[item]])
    missing = tokens.clone()
    missing[0, 3:] = -1
    first = conditioner(x[:1], conditioner.prepare(TokenSequence(missing[:1]), 1, GRID))
    cut = conditioner(x[:1], conditioner.prepare(TokenSequence(tokens[:1, :3]), 1, GRID))
    torch.testing.assert_close(first, cut)
    swapped = conditioner(x[:1], conditioner.prepare(TokenSequence(tokens[:1].roll(1, 1)), 1, GRID))
    assert (swapped - received[:1]).abs().max() > 1e-6


@torch.no_grad()
def test_vectors_can_be_attended_to():
    torch.manual_seed(0)
    conditioner = CrossAttention(CHANNELS, dim=6, heads=2).double()
    x, vectors = activations(), torch.randn(BATCH, 3, 6)
    out = conditioner(x, conditioner.prepare(TokenSequence(vectors), BATCH, GRID))
    assert (out - conditioner(x, conditioner.prepare(None, BATCH, GRID))).abs().max() > 1e-6


WRONG: list[tuple[str, ConditionValue]] = [
    ("embedding", PerItem(torch.tensor([0, 1]))),
    ("embedding", PerItem(torch.tensor([0, 1, 3]))),
    ("embedding", PerItem(torch.zeros(BATCH, 2))),
    ("embedding", PerFrame(torch.zeros(BATCH, 5).long())),
    ("projection", PerItem(torch.zeros(BATCH, 3))),
    ("projection", PerFrame(torch.zeros(BATCH, 3, 2))),
    ("projection", PerItem(torch.zeros(BATCH).long())),
    ("upsampled_field", DenseField(torch.zeros(BATCH, 3, 2, 3))),
    ("upsampled_field", DenseField(torch.zeros(BATCH, 2, 3, 3))),
    ("upsampled_field", DenseField(torch.zeros(2, 2, 2, 3))),
    ("cross_attention", TokenSequence(torch.full((BATCH, 2), 7))),
    ("cross_attention", TokenSequence(torch.zeros(BATCH, 2, 6))),
    ("cross_attention", PerFrame(torch.zeros(BATCH, 4).long())),
]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_another_value_is_refused(kind, value):
    with pytest.raises(InputError, match="expected"):
        build(kind).prepare(value, BATCH, GRID)
