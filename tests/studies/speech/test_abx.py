"""ABX against its definition: recursion for the distances, and a loop over all triples for the averages."""

import math
from collections import defaultdict
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.studies.speech import abx as module
from smalti.studies.speech.abx import Token, abx, angular, dtw, edit, euclidean, tokens_of
from smalti.studies.speech.alignments import Segment

CONTEXTS, PHONES, SPEAKERS = (("B", "G"), ("T", "K")), ("AE", "EH", "IH"), ("anna", "bert", "carl")


def angle(u: np.ndarray, v: np.ndarray) -> float:
    cosine = float(u @ v) / math.sqrt(float(u @ u) * float(v @ v))
    return math.acos(min(1.0, max(-1.0, cosine))) / math.pi


def dtw_by_hand(one: np.ndarray, other: np.ndarray, frame_distance) -> float:
    """Least total over all paths, and the length of the first of the best ones (both, second, first)."""

    @cache
    def best(i: int, j: int) -> tuple[float, int]:
        here = frame_distance(one[i], other[j])
        ways = [best(*p) for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if min(p) >= 0]
        total, length = min(ways, key=lambda way: way[0]) if ways else (0.0, 0)
        return total + here, length + 1

    total, length = best(len(one) - 1, len(other) - 1)
    return total / length


def edit_by_hand(one: list[int], other: list[int]) -> float:
    @cache
    def changes(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            changes(i - 1, j) + 1, changes(i, j - 1) + 1, changes(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        )

    return changes(len(one), len(other)) / max(len(one), len(other))


def abx_by_hand(tokens: list[Token], distance) -> tuple[float, int]:
    """Percent, and the triples; a loop over all of them."""
    cells = defaultdict(list)
    for a, b, x in product(tokens, repeat=3):
        same_context = a.context == b.context == x.context
        if same_context and a.phone == x.phone != b.phone and a.speaker == b.speaker != x.speaker:
            to_a, to_b = distance(a.features, x.features), distance(b.features, x.features)
            error = 0.5 if math.isclose(to_a, to_b, rel_tol=1e-6) else float(to_b < to_a)
            cells[(a.phone, b.phone), a.context, (a.speaker, x.speaker)].append(error)
    num = sum(len(errors) for errors in cells.values())
    for depth in (2, 1, 0):
        grouped = defaultdict(list)
        for key, errors in cells.items():
            grouped[key[:depth]].append(np.mean(errors))
        cells = grouped
    return 100 * float(np.mean(cells[()])), num


def some_tokens(num: int, seed: int, features) -> list[Token]:
    rng = np.random.default_rng(seed)
    return [
        Token(
            features(rng),
            PHONES[rng.integers(len(PHONES))],
            CONTEXTS[rng.integers(len(CONTEXTS))],
            SPEAKERS[rng.integers(len(SPEAKERS))],
        )
        for _ in range(num)
    ]


def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(rng.integers(1, 6), 3))


def code_vectors(rng: np.random.Generator) -> np.ndarray:
    """Of a codebook of three, whose angles have exact sums: there are many ties."""
    return np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])[rng.integers(0, 3, rng.integers(1, 4))]


def codes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 3, rng.integers(1, 5))


@pytest.mark.parametrize("at_once", [1, 7, 512])
@pytest.mark.parametrize(
    ("name", "features", "distance"),
    [
        ("angular", frames, lambda one, other: dtw_by_hand(one, other, angle)),
        ("euclidean", frames, lambda one, other: dtw_by_hand(one, other, math.dist)),
        ("edit", codes, lambda one, other: edit_by_hand(one.tolist(), other.tolist())),
    ],
)
def test_all_triples_by_hand(monkeypatch, name, features, distance, at_once):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", at_once)
    for seed in (0, 1):
        tokens = some_tokens(28, seed, features)
        error, num = abx_by_hand(tokens, distance)
        result = abx(tokens, name)
        assert result.error == pytest.approx(error)
        assert result.num_triples == num > 20


@st.composite
def sequences(draw):
    lengths = st.lists(st.integers(1, 6), min_size=2, max_size=8)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return rng, draw(lengths), draw(lengths)


@settings(max_examples=30)
@given(sequences())
def test_distances_pair_by_pair(drawn):
    rng, *lengths = drawn
    num = min(map(len, lengths))
    ones, others = ([rng.normal(size=(n, 3)) for n in each[:num]] for each in lengths)
    for batched, single in ((angular, angle), (euclidean, math.dist)):
        expected = [dtw_by_hand(one, other, single) for one, other in zip(ones, others, strict=True)]
        np.testing.assert_allclose(dtw(ones, others, batched), expected, rtol=1e-5)
    ones, others = ([rng.integers(0, 3, n) for n in each[:num]] for each in lengths)
    expected = [edit_by_hand(a.tolist(), b.tolist()) for a, b in zip(ones, others, strict=True)]
    np.testing.assert_allclose(edit(ones, others), expected)


def test_the_second_token_goes_on_before_the_first():
    one, other = np.array([[3.0], [0.0], [2.0]]), np.array([[2.0], [2.0], [3.0], [2.0]])
    assert dtw([one], [other], euclidean).tolist() == [1.0]
    assert dtw_by_hand(one, other, math.dist) == 1.0
    # The other way about there is one more step.
    assert dtw([other], [one], euclidean).tolist() == pytest.approx([0.8])


@settings(max_examples=30)
@given(sequences())
def test_of_equally_good_paths_the_documented_one(drawn):
    rng, *lengths = drawn
    num = min(map(len, lengths))
    ones, others = ([rng.integers(0, 3, (n, 1)).astype(float) for n in each[:num]] for each in lengths)
    expected = [dtw_by_hand(one, other, math.dist) for one, other in zip(ones, others, strict=True)]
    np.testing.assert_allclose(dtw(ones, others, euclidean), expected)
    # Nor does it depend on how a sum was rounded.
    rounded = dtw(ones, others, lambda a, b: (d := euclidean(a, b)) * rng.normal(1, 1e-15, d.shape))
    np.testing.assert_allclose(rounded, expected)


def test_equal_tokens_are_equally_near_in_any_batch():
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(8, 64))
    ones, others = ([codebook[rng.integers(0, 8, 5)] for _ in range(20)] for _ in range(2))
    long = [rng.normal(size=(40, 64))]
    for batched in (angular, euclidean):
        alone = [dtw([one], [other], batched)[0] for one, other in zip(ones, others, strict=True)]
        together = dtw([*ones, *long], [*others, *long], batched)
        np.testing.assert_array_equal(together[:-1], alone)
        assert together[-1] == 0


def test_frames_of_zeros_and_opposites():
    frames = np.array([[[0.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 3.0]]])
    np.testing.assert_allclose(
        angular(frames, frames)[0],
        [[0.5, 0.5, 0.5, 0.5], [0.5, 0, 1, 0.5], [0.5, 1, 0, 0.5], [0.5, 0.5, 0.5, 0]],
    )


def tokens_at(positions: dict[tuple[str, str], list[float]]) -> list[Token]:
    """Tokens of one frame on a line, by (phone, speaker)."""
    return [
        Token(np.array([[position]]), phone, ("B", "G"), speaker)
        for (phone, speaker), each in positions.items()
        for position in each
    ]


@pytest.mark.parametrize(
    ("a", "b", "error"), [(0.9, -1.0, 0.0), (-1.0, 0.9, 100.0), (1.0, -1.0, 50.0), (0.5, 0.5, 50.0)]
)
def test_right_wrong_and_as_near(a, b, error):
    tokens = tokens_at({("AE", "anna"): [a], ("EH", "anna"): [b], ("AE", "bert"): [0.0]})
    result = abx(tokens, "euclidean")
    assert (result.error, result.num_triples, result.num_phone_pairs) == (error, 1, 1)


def test_code_vectors_tie_as_often_as_their_codes():
    tokens = some_tokens(60, 3, code_vectors)
    error, _ = abx_by_hand(tokens, lambda one, other: dtw_by_hand(one, other, angle))
    assert abx(tokens).error == pytest.approx(error)


def test_chance_and_certainty():
    rng = np.random.default_rng(0)
    of_phone = dict(zip(PHONES, np.eye(3), strict=True))
    tokens = some_tokens(300, 0, frames)
    assert abx(tokens).error == pytest.approx(50, abs=4)
    for index, token in enumerate(tokens):
        features = of_phone[token.phone] + 0.05 * rng.normal(size=token.features.shape)
        tokens[index] = Token(features, token.phone, token.context, token.speaker)
    assert abx(tokens).error == 0


def test_subsampling_is_seeded_and_near_the_whole():
    tokens = some_tokens(300, 0, frames)
    whole = abx(tokens, max_tokens=1000)
    few = abx(tokens, max_tokens=5, max_speakers=1, seed=0)
    assert few == abx(tokens, max_tokens=5, max_speakers=1, seed=0)
    assert few.error != abx(tokens, max_tokens=5, max_speakers=1, seed=1).error
    assert few.error == pytest.approx(whole.error, abs=6)
    # 3 phones times 2 wrong ones, 2 contexts, 3 speakers, and one other speaker.
    assert few.num_triples == 6 * 2 * 3 * 5**3
    assert whole.num_triples > 20 * few.num_triples
    assert "at most 5 tokens" in few.protocol["sampling"]


class TestTokens:
    segments = (
        Segment(0.0, 0.1, "SIL"),
        Segment(0.1, 0.3, "B"),
        Segment(0.3, 0.4, "AE"),
        Segment(0.4, 0.6, "G"),
        Segment(0.6, 0.61, "AH"),
        Segment(0.7, 0.8, "T"),
        Segment(0.8, 0.9, "IY"),
    )

    def test_frames_by_their_centres(self):
        frames = np.arange(18).reshape(9, 2)
        of_three, *_ = tokens_of(frames, 0.1, self.segments, "anna", {"SIL"})
        of_one, *_ = tokens_of(frames, 0.1, self.segments, "anna", {"SIL"}, with_context=False)
        for token, first, last in ((of_three, 1, 6), (of_one, 3, 4)):
            assert (token.phone, token.context, token.speaker) == ("AE", ("B", "G"), "anna")
            np.testing.assert_array_equal(token.features, frames[first:last])

    def test_only_phones_between_two_others(self):
        codes = np.arange(90)
        tokens = tokens_of(codes, 0.01, self.segments, "anna", {"SIL"})
        assert [token.phone for token in tokens] == ["AE", "G"]
        assert [token.phone for token in tokens_of(codes, 0.01, self.segments, "anna")] == ["B", "AE", "G"]

    def test_a_phone_without_a_frame_gives_no_token(self):
        codes = np.arange(4)
        assert [len(t.features) for t in tokens_of(codes, 0.25, self.segments, "anna")] == [2, 2, 1]
        tokens = tokens_of(codes, 0.25, self.segments, "anna", with_context=False)
        assert [token.phone for token in tokens] == ["B", "AE"]


@pytest.mark.parametrize(
    ("distance", "tokens", "words"),
    [
        ("cosine", [], "expected one of the distances angular, euclidean, edit, received 'cosine'"),
        ("edit", some_tokens(3, 0, frames), "expected features of 1 dimensions"),
        ("angular", some_tokens(3, 0, codes), "expected features of 2 dimensions"),
        ("angular", tokens_at({("AE", "anna"): [0, 1], ("EH", "bert"): [2]}), "found none among 3 tokens"),
        ("angular", [], "found none among 0 tokens"),
    ],
)
def test_what_is_refused(distance, tokens, words):
    with pytest.raises(InputError, match=words):
        abx(tokens, distance)
