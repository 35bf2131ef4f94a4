"""Parts of a work: every number belongs to exactly one part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smalti.app.parts import Part, rank_part


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_ranks_of_jobs_share_all_numbers(jobs: int, ranks: int, total: int) -> None:
    parts = [Part(rank, ranks).of(Part(job, jobs)) for job in range(jobs) for rank in range(ranks)]
    assert sorted(number for part in parts for number in part.numbers(total)) == list(range(total))
    sizes = [len(part.numbers(total)) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_ranks_come_from_the_environment() -> None:
    assert rank_part({"RANK": "2", "WORLD_SIZE": "4"}) == Part(2, 4)
    assert rank_part({}) == Part(0, 1)
