"""Codes and labels out of range get a sentence; hidden labels are those of the whole batch."""

import pytest
import torch

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.nn.symbols import check_codes, check_counts, check_turn, hide_labels, label_indices

CPU = torch.device("cpu")


def test_counts():
    check_counts(1, 1)
    for counts in ((0, 1), (1, 0), (1, -1)):
        with pytest.raises(InputError, match=f"expected num_codes .* received {counts[0]} and {counts[1]}"):
            check_counts(*counts)
    check_counts(2**22, 1)
    with pytest.raises(InputError, match=r"68,719,476,736: use several"):
        check_counts(2**36, 1)


@pytest.mark.parametrize("grid", [(3,), (2, 3), (2, 1, 2)])
def test_codes(grid):
    codes = torch.zeros(2, 3, *grid, dtype=torch.int64)
    codes.view(-1)[-1] = 4
    check_codes(codes, num_codebooks=3, num_codes=5)
    with pytest.raises(InputError, match="expected codes with 2 codebooks, received codes of shape"):
        check_codes(codes, num_codebooks=2, num_codes=5)
    with pytest.raises(InputError, match="expected codes from 0 to 3, received codes from 0 to 4"):
        check_codes(codes, num_codebooks=3, num_codes=4)
    with pytest.raises(InputError, match="received codes from -1 to 3"):
        check_codes(codes - 1, num_codebooks=3, num_codes=5)


def test_turns():
    code = torch.zeros(1, dtype=torch.int64)
    check_turn(None, 0)
    check_turn(code, 1)
    for previous, made in ((code, 0), (None, 3)):
        with pytest.raises(InputError, match=f"expected the previous code .* after {made} symbols"):
            check_turn(previous, made)


def test_labels_that_are_not_given_are_the_last_index():
    labels = Conditions(label=torch.tensor([0, -1, 2]))
    assert label_indices(labels, 3, 3, CPU).tolist() == [0, 3, 2]
    assert label_indices(Conditions(), 2, 3, CPU).tolist() == [3, 3]
    assert label_indices(None, 2, 3, CPU).tolist() == [3, 3]


def test_without_classes_labels_are_ignored():
    assert label_indices(Conditions(label=torch.tensor([7, -9])), 3, 0, CPU).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0], "expected 2 labels, .* received 1"), ([0, 3], "from 0 to 3$"), ([-2, 0], "from -2 to 0$")],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        label_indices(Conditions(label=torch.tensor(labels)), 2, 3, CPU)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_hidden_labels(share):
    torch.manual_seed(0)
    labels = torch.arange(10_000) % 3
    hidden = hide_labels(labels, share, 3)
    assert torch.equal(hidden[hidden != 3], labels[hidden != 3])
    assert float((hidden == 3).float().mean()) == pytest.approx(
        share, abs=4.5 * (share * (1 - share) / 1e4) ** 0.5
    )


def test_without_classes_nothing_is_hidden_and_nothing_drawn():
    before = torch.get_rng_state()
    assert hide_labels(torch.zeros(50, dtype=torch.int64), 1.0, 0).eq(0).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_hide_what_one_process_would(monkeypatch):
    def on(rank: int, world: int, labels: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda: (rank, world))
        torch.manual_seed(0)
        return hide_labels(labels, 0.5, 3)

    labels = torch.arange(24) % 3
    shares = [on(rank, 3, share) for rank, share in enumerate(labels.chunk(3))]
    assert torch.equal(torch.cat(shares), on(0, 1, labels))
