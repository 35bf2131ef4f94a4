"""The many-to-one map and the figures beside it, against counting by hand in plain Python."""

import math
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.studies.speech.phoneme_map import (
    UNLABELLED,
    ContextMap,
    PhonemeMap,
    Windows,
    adjusted_rand,
    cautions,
    cooccurrences,
    kmeans_codes,
    mutual_information,
    phoneme_figures,
    protocol,
    stderr_over_groups,
)

K, P, SILENCE = 5, 4, 0


def array(values) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def most_frequent(phones: list[int]) -> int:
    counts = Counter(phones)
    return min(counts, key=lambda phone: (-counts[phone], phone))


def map_by_hand(keys, phones) -> dict:
    seen = defaultdict(list)
    for key, phone in zip(keys, phones, strict=True):
        seen[key].append(phone)
    return {key: most_frequent(of_key) for key, of_key in seen.items()}


def contexts_by_hand(windows: Windows, offsets) -> list[tuple]:
    codes, utterances = windows.codes.tolist(), windows.utterances.tolist()

    def code(i: int, j: int) -> int:
        return codes[j] if 0 <= j < len(codes) and utterances[j] == utterances[i] else K

    return [tuple(code(i, i + offset) for offset in offsets) for i in range(len(codes))]


def accuracies_by_hand(train: Windows, held_out: Windows, left_out: set[int]) -> dict[str, float]:
    """Accuracy with growing context: the longest context that training has decides."""
    orders = {"phoneme_accuracy": (0,), "bigram": (-1, 0), "trigram": (-1, 0, 1)}
    kept = [[i for i, p in enumerate(w.phones.tolist()) if p not in left_out] for w in (train, held_out)]
    truth = [held_out.phones[i] for i in kept[1]]
    fitted = [int(train.phones[i]) for i in kept[0]]
    answers = [most_frequent(fitted)] * len(truth)
    figures = {"majority": np.mean(np.array(answers) == truth)}
    for name, offsets in orders.items():
        keys = [contexts_by_hand(w, offsets) for w in (train, held_out)]
        table = map_by_hand([keys[0][i] for i in kept[0]], fitted)
        answers = [table.get(keys[1][i], answer) for i, answer in zip(kept[1], answers, strict=True)]
        figures[name] = np.mean(np.array(answers) == truth)
    return figures


@st.composite
def windows(draw) -> Windows:
    """Some utterances with at least one window that is not silent."""
    num = draw(st.integers(1, 30))
    row = st.tuples(st.integers(0, K - 1), st.integers(UNLABELLED, P - 1), st.integers(0, 3))
    rows = [(0, 1, 0), *draw(st.lists(row, min_size=num, max_size=num))]
    rows.sort(key=lambda row: row[2])
    return Windows(*(array([row[i] for row in rows]) for i in range(3)))


@settings(max_examples=40)
@given(windows(), windows())
def test_maps_against_counting(train, held_out):
    figures = phoneme_figures(train, held_out, K, P, [SILENCE])
    for ending, left_out in (("", {UNLABELLED, SILENCE}), ("_with_silence", {UNLABELLED})):
        for name, expected in accuracies_by_hand(train, held_out, left_out).items():
            assert figures[name + ending] == pytest.approx(expected), name + ending


@settings(max_examples=40)
@given(windows())
def test_fitted_to_what_it_is_scored_on_context_can_only_help(train):
    figures = phoneme_figures(train, train, K, P, [SILENCE])
    order = [figures[name] for name in ("majority", "phoneme_accuracy", "bigram", "trigram")]
    assert order == sorted(order)
    assert figures["phoneme_accuracy"] == pytest.approx(figures["phone_purity"])


def test_ties_go_to_the_lowest_and_unseen_codes_to_the_most_frequent():
    codes, phones = array([0, 0, 1, 1, 1, 3]), array([2, 1, 3, 3, 2, 2])
    fitted = PhonemeMap.fit(codes, phones, K, P)
    assert fitted.table.tolist() == [1, 3, 2, 2, 2]
    assert fitted.most_frequent == 2
    assert fitted.accuracy(array([0, 1, 2, 4]), array([1, 1, 2, 3])) == 0.5
    assert fitted.majority(array([2, 2, 0, 1])) == 0.5
    pairs = ContextMap.fit(array([[0, 1], [0, 1], [1, 0]]), array([3, 1, 2]), K)
    assert pairs.phones(array([[0, 1], [1, 0], [1, 1]]), array([0, 0, 0])).tolist() == [1, 2, 0]


def test_context_crosses_silence_but_no_boundary():
    # Code 0 is phone 1 after the silent code 4, and phone 2 at the start of an utterance.
    train = Windows(array([4, 0, 0, 4, 0, 0]), array([0, 1, 2, 0, 1, 2]), array([0, 0, 1, 2, 2, 3]))
    figures = phoneme_figures(train, train, K, P, [SILENCE])
    assert figures["phoneme_accuracy"] == 0.5
    assert figures["bigram"] == 1.0
    # The same windows as one utterance: code 0 comes after 0, too, and before the first there is nothing.
    joined = Windows(train.codes, train.phones, np.zeros(6, np.int64))
    assert joined.contexts((-1, 1), boundary=K).tolist() == [[5, 0], [4, 0], [0, 4], [0, 0], [4, 0], [0, 5]]
    assert phoneme_figures(train, joined, K, P, [SILENCE])["bigram"] < 1


def test_unlabelled_windows_are_not_scored_but_are_context():
    labels = array([0, 1, UNLABELLED, 2, UNLABELLED, 3])
    train = Windows(array([1, 0, 2, 0, 3, 0]), labels, np.zeros(6, np.int64))
    figures = phoneme_figures(train, train, K, P, [SILENCE])
    assert (figures["num_windows"], figures["num_windows_with_silence"]) == (3, 4)
    assert figures["phoneme_accuracy"] == pytest.approx(1 / 3)
    assert figures["bigram"] == 1.0


def sample(num: int, seed: int, noise: float = 0.3) -> Windows:
    """Codes that mostly name the phone, phones unevenly frequent, in utterances of 50."""
    rng = np.random.default_rng(seed)
    phones = rng.choice(P, num, p=[0.4, 0.3, 0.2, 0.1])
    codes = np.where(rng.random(num) < noise, rng.integers(0, K, num), phones)
    return Windows(array(codes), array(phones), array(np.arange(num) // 50))


def test_shuffled_codes_know_no_more_than_the_majority():
    train, held_out = sample(20000, 0), sample(10000, 1)
    figures = phoneme_figures(train, held_out, K, P, [SILENCE])
    for ending in ("", "_with_silence"):
        assert figures[f"shuffled{ending}"] == pytest.approx(figures[f"majority{ending}"], abs=0.02)
        assert figures[f"phoneme_accuracy{ending}"] > figures[f"majority{ending}"] + 0.2
        assert figures[f"shuffled_mutual_information{ending}"] < 0.005
    assert figures == phoneme_figures(train, held_out, K, P, [SILENCE], seed=0)
    other = phoneme_figures(train, held_out, K, P, [SILENCE], seed=1)
    changed = {name for name in figures if figures[name] != other[name]}
    assert changed <= {name for name in figures if name.startswith("shuffled")}
    assert "shuffled_mutual_information" in changed


def test_purities_and_information_by_hand():
    windows = sample(300, 2)
    figures = phoneme_figures(windows, windows, K, P)
    pairs = Counter(zip(windows.codes.tolist(), windows.phones.tolist(), strict=True))
    by_code, by_phone = Counter(windows.codes.tolist()), Counter(windows.phones.tolist())
    num = len(windows.codes)
    assert figures["phone_purity"] == sum(max(pairs[k, p] for p in range(P)) for k in range(K)) / num
    assert figures["cluster_purity"] == sum(max(pairs[k, p] for k in range(K)) for p in range(P)) / num
    information = sum(n / num * math.log(n * num / (by_code[k] * by_phone[p])) for (k, p), n in pairs.items())
    entropy = -sum(n / num * math.log(n / num) for n in by_phone.values())
    assert figures["mutual_information"] == pytest.approx(information)
    assert figures["normalised_mutual_information"] == pytest.approx(information / entropy)


def rand_by_hand(codes: list[int], phones: list[int]) -> float:
    """Over all pairs of windows: Hubert & Arabie 1985 by their definition."""
    pairs = list(combinations(range(len(codes)), 2))
    one = [codes[i] == codes[j] for i, j in pairs]
    other = [phones[i] == phones[j] for i, j in pairs]
    both = sum(a and b for a, b in zip(one, other, strict=True))
    chance = sum(one) * sum(other) / len(pairs)
    return (both - chance) / ((sum(one) + sum(other)) / 2 - chance)


def test_adjusted_rand_over_all_pairs():
    windows = sample(60, 3)
    counts = cooccurrences(windows.codes, windows.phones, K, P)
    expected = rand_by_hand(windows.codes.tolist(), windows.phones.tolist())
    assert adjusted_rand(counts) == pytest.approx(expected)
    assert 0.1 < expected < 0.9


@pytest.mark.parametrize(
    ("counts", "information", "rand"),
    [
        ([[3, 0], [0, 3]], math.log(2), 1.0),
        ([[2, 2], [2, 2]], 0.0, -1 / 6),
        ([[4, 0], [0, 0]], 0.0, 1.0),
        ([[4, 4], [0, 0]], 0.0, 0.0),
    ],
)
def test_at_the_extremes(counts, information, rand):
    assert mutual_information(array(counts)) == pytest.approx(information, abs=1e-12)
    assert adjusted_rand(array(counts)) == pytest.approx(rand)


def test_every_figure_has_its_protocol():
    windows = sample(50, 0)
    figures = phoneme_figures(windows, windows, K, P, [SILENCE])
    text = " ".join([*protocol(), *protocol().values()])
    assert all(name.removesuffix("_with_silence") in text for name in figures)
    assert set(protocol()) <= set(figures)


def test_what_is_refused():
    silent = Windows(array([1, 2]), array([SILENCE, UNLABELLED]), array([0, 0]))
    with pytest.raises(InputError, match=r"labelled windows .* received 50 and 0"):
        phoneme_figures(Windows(*(array([1] * 50),) * 3), silent, K, P, [SILENCE])
    with pytest.raises(ValueError, match="to be contiguous"):
        Windows(array([1, 2, 3]), array([1, 1, 1]), array([0, 1, 0]))
    for codes, phones in (([K], [0]), ([0], [P]), ([0], [UNLABELLED])):
        with pytest.raises(ValueError, match=r"expected (codes|phones) from 0"):
            cooccurrences(array(codes), array(phones), K, P)


class TestKMeans:
    def blobs(self, num: int, seed: int):
        rng = np.random.default_rng(seed)
        which = rng.integers(0, 6, num)
        # One blob holds nearly all features, so random starts would mostly fall there.
        which[rng.random(num) < 0.8] = 0
        centres = 20 * np.eye(6, 8)
        return which, (centres[which] + 0.2 * rng.normal(size=(num, 8))).astype(np.float32)

    def test_blobs_are_found_and_new_features_join_them(self):
        which, features = self.blobs(600, 0)
        others, test = self.blobs(200, 1)
        codes, test_codes = kmeans_codes(features, test, 6)
        assert adjusted_rand(cooccurrences(codes, which, 6, 6)) == 1.0
        names = dict(zip(codes.tolist(), which.tolist(), strict=True))
        assert [names[code] for code in test_codes.tolist()] == others.tolist()

    def test_the_end_is_a_fixed_point_of_lloyd(self):
        features = np.random.default_rng(0).normal(size=(80, 2))
        codes, _ = kmeans_codes(features, features, 5, iterations=100)
        centres = np.stack([features[codes == k].mean(0) for k in range(5)])
        nearest = ((features[:, None] - centres) ** 2).sum(-1).argmin(1)
        np.testing.assert_array_equal(codes, nearest)

    def test_the_seed_decides(self):
        features = np.random.default_rng(0).normal(size=(300, 3))
        one, again, other = (kmeans_codes(features, features, 20, seed)[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()

    def test_fewer_features_than_clusters(self):
        with pytest.raises(InputError, match="from 1 to 3 clusters"):
            kmeans_codes(np.zeros((3, 2)), np.zeros((1, 2)), 4)
        codes, _ = kmeans_codes(np.zeros((3, 2)), np.zeros((1, 2)), 3)
        assert codes.tolist() == [0, 0, 0]


def test_the_standard_error_is_that_of_the_share_over_utterances():
    """The oracle draws data sets of the same kind, and takes the deviation of their shares."""
    rng = np.random.default_rng(0)
    num_groups, size = 40, 25
    groups = np.repeat(np.arange(num_groups), size)

    def draw() -> np.ndarray:
        shares = rng.beta(2, 2, num_groups)  # utterances differ, so their windows are not independent
        return rng.random(num_groups * size) < shares[groups]

    estimates = [stderr_over_groups(draw(), groups) for _ in range(200)]
    true = np.std([draw().mean() for _ in range(2000)])
    assert np.mean(estimates) == pytest.approx(true, rel=0.05)
    assert true > 1.5 * 0.5 / math.sqrt(num_groups * size)


def test_the_standard_error_of_equal_groups_and_of_one_group():
    right, groups = np.array([True, True, False, False]), array([3, 3, 7, 7])
    # Group means 1 and 0: their deviation over the root of two groups.
    assert stderr_over_groups(right, groups) == pytest.approx(np.std([1, 0], ddof=1) / math.sqrt(2))
    assert stderr_over_groups(right, array([3, 3, 3, 3])) == pytest.approx(math.sqrt(0.25 / 4))


@pytest.mark.parametrize(
    ("num", "stderr", "fitted", "numbers"),
    [
        (117, 0.05, 5_000, [["117", "5.0", "1,000"]]),
        (2_000, 0.04, 5_000, [["2,000", "4.0", "8,000"]]),
        (2_000, 0.01, 1_279, [["128", "1,279", "1,280"]]),
        (117, 0.0, 300, [["117"], ["300"]]),
        (1_000, 0.02, 1_280, []),
    ],
)
def test_few_windows_are_cautioned_against(num, stderr, fitted, numbers):
    figures = {"num_windows": num, "phoneme_accuracy_stderr": stderr, "num_train_windows": fitted}
    sentences = cautions(figures, num_codes=128)
    assert len(sentences) == len(numbers)
    for sentence, each in zip(sentences, numbers, strict=True):
        assert all(number in sentence for number in each)
