"""Phoneme content of codes: the paper's many-to-one map from codes to phones, with controls.

van den Oord et al. 2017, section 4.3: each code is mapped to its most frequent phone,
f(k) = argmax_p C[k, p], where C counts co-occurrences in the training windows. The accuracy is the share of
held-out windows whose code maps to their phone. No classifier is trained.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from smalti.core.errors import InputError
from smalti.quantizers.kmeans import kmeans
from smalti.quantizers.nearest import nearest_codes

UNLABELLED = -1
"""Phone id of a window without a label. It is never scored, but its code may be context of another window."""

LARGE_STDERR = 0.02
LEAST_WINDOWS = 1_000
LEAST_WINDOWS_PER_CODE = 10
"""Above this standard error, or below these numbers of windows, the accuracy is unreliable."""

CONTEXTS = {"bigram": (-1, 0), "trigram": (-1, 0, 1)}
"""Name of a map with context -> offsets of its codes from the window."""


@dataclass(frozen=True)
class Windows:
    """Windows of utterances, grouped by utterance and in order of time.

    Attributes:
        codes: code of each window, `(N,)`, from a single codebook.
        phones: id of the phone at the centre of each window, `(N,)`, or `UNLABELLED`.
        utterances: index of the utterance of each window, `(N,)`.

    Raises:
        ValueError: when the windows of an utterance are not contiguous.
    """

    codes: Int64[np.ndarray, " n"]
    phones: Int64[np.ndarray, " n"]
    utterances: Int64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        changes = np.count_nonzero(np.diff(self.utterances))
        if len(self.codes) and changes + 1 != len(np.unique(self.utterances)):
            raise ValueError(
                "expected the windows of each utterance to be contiguous: sort them by utterance and time"
            )

    def contexts(self, offsets: tuple[int, ...], boundary: int) -> Int64[np.ndarray, "n c"]:
        """Return the codes at some offsets from each window.

        Args:
            offsets: -1 for the previous window, 0 for the window itself, 1 for the next one.
            boundary: code for positions outside the utterance.
        """
        places = np.arange(len(self.codes))[:, None] + np.array(offsets)
        within = places.clip(0, max(0, len(self.codes) - 1))
        inside = (places == within) & (self.utterances[within] == self.utterances[:, None])
        return np.where(inside, self.codes[within], boundary)


@dataclass(frozen=True)
class PhonemeMap:
    """Map from codes to phones.

    Attributes:
        table: phone of each code, `(K,)`.
        most_frequent: most frequent phone of the training windows.
    """

    table: Int64[np.ndarray, " k"]
    most_frequent: int

    @staticmethod
    def fit(
        codes: Int64[np.ndarray, " n"], phones: Int64[np.ndarray, " n"], num_codes: int, num_phones: int
    ) -> PhonemeMap:
        """Map each code to its most frequent phone; ties go to the lowest id.

        Codes that do not occur map to the most frequent phone overall.
        """
        counts = cooccurrences(codes, phones, num_codes, num_phones)
        most_frequent = int(counts.sum(0).argmax())
        return PhonemeMap(np.where(counts.any(1), counts.argmax(1), most_frequent), most_frequent)

    def phones(self, codes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the phone of each code."""
        return self.table[codes]

    def accuracy(self, codes: Int64[np.ndarray, " n"], phones: Int64[np.ndarray, " n"]) -> float:
        """Return the share of windows whose code maps to their phone."""
        return float(np.mean(self.phones(codes) == phones))

    def majority(self, phones: Int64[np.ndarray, " n"]) -> float:
        """Return the share of windows with the most frequent training phone: the score without codes."""
        return float(np.mean(phones == self.most_frequent))


@dataclass(frozen=True)
class ContextMap:
    """Map from sequences of codes to phones, with a fallback for sequences not seen in training.

    Attributes:
        sequences: sequences seen in training, each encoded as one number, ascending, `(S,)`.
        table: phone of each sequence, `(S,)`.
        base: base of the encoding, K + 1: all codes and the boundary.
    """

    sequences: Int64[np.ndarray, " s"]
    table: Int64[np.ndarray, " s"]
    base: int

    @staticmethod
    def fit(
        contexts: Int64[np.ndarray, "n c"], phones: Int64[np.ndarray, " n"], num_codes: int
    ) -> ContextMap:
        """Map each sequence to its most frequent phone; ties go to the lowest id.

        Args:
            contexts: codes below K, and K outside the utterance.
            phones: phones of the windows.
            num_codes: K.
        """
        numbers = _as_numbers(contexts, num_codes + 1)
        # Sort by sequence, descending count and phone; the first row of each sequence is its phone.
        pairs, counts = np.unique(np.stack([numbers, phones]), axis=1, return_counts=True)
        pairs = pairs[:, np.lexsort((pairs[1], -counts, pairs[0]))]
        sequences, first = np.unique(pairs[0], return_index=True)
        return ContextMap(sequences, pairs[1, first], num_codes + 1)

    def phones(
        self, contexts: Int64[np.ndarray, "n c"], otherwise: Int64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        """Return the phone of each sequence, or `otherwise` if it was not seen in training."""
        numbers = _as_numbers(contexts, self.base)
        place = np.searchsorted(self.sequences, numbers).clip(max=len(self.sequences) - 1)
        return np.where(self.sequences[place] == numbers, self.table[place], otherwise)


def phoneme_figures(
    train: Windows,
    held_out: Windows,
    num_codes: int,
    num_phones: int,
    silence: Collection[int] = (),
    seed: int = 0,
) -> dict[str, int | float]:
    """Compute all figures of codes against phones, without silence and, as `..._with_silence`, with it.

    Args:
        train: windows that the maps are fitted to.
        held_out: windows that the maps are scored on.
        num_codes: K.
        num_phones: P.
        silence: ids of labels that are not phones, such as silence and noise.
        seed: seed of the permutation in the control `shuffled`.

    Returns:
        The figures defined in `protocol`.

    Raises:
        InputError: when no labelled window is left to fit or to score.
    """
    silent = np.array(sorted(silence), dtype=np.int64)
    figures: dict[str, int | float] = {}
    for ending, left_out in (("", silent), ("_with_silence", silent[:0])):
        fitted, scored = (
            (windows.phones != UNLABELLED) & ~np.isin(windows.phones, left_out)
            for windows in (train, held_out)
        )
        if not (fitted.any() and scored.any()):
            raise InputError(
                "expected labelled windows other than silence for fitting and for scoring, received "
                f"{fitted.sum()} and {scored.sum()}: check that the alignments belong to these utterances"
            )
        rng = np.random.default_rng(seed)
        for name, figure in _figures(train, held_out, fitted, scored, num_codes, num_phones, rng).items():
            figures[name + ending] = figure
    return figures


def protocol() -> dict[str, str]:
    """Return the definition of each figure of `phoneme_figures`."""
    return {
        "phoneme_accuracy": "each code is mapped to its most frequent phone in the training windows (ties to "
        "the lowest id, unseen codes to the most frequent phone overall); share of held-out windows whose "
        "code maps to the phone at their centre; silence and unlabelled windows are left out of both sets, "
        "and with the suffix '_with_silence' only unlabelled ones",
        "phoneme_accuracy_stderr": "standard error of phoneme_accuracy over utterances, since windows of an "
        "utterance are not independent; over windows, and thus too small, if there is only one utterance",
        "majority": "share of held-out windows with the most frequent phone of the training windows",
        "shuffled": "phoneme_accuracy with the codes permuted within the training and within the held-out "
        "windows: the chance level of a map with this number of codes",
        "bigram": "phoneme_accuracy of a map of (previous code, code), falling back to the code alone for "
        "pairs not seen in training; a boundary symbol precedes the first window of an utterance; the "
        "previous window counts even if it is silent or unlabelled",
        "trigram": "phoneme_accuracy of a map of (previous code, code, next code), falling back to bigram",
        "phone_purity": "sum over codes of the count of its most frequent phone, divided by the number of "
        "held-out windows: the accuracy of a map fitted on the scored windows, which grows with the number "
        "of codes",
        "cluster_purity": "sum over phones of the count of its most frequent code, divided by the number of "
        "held-out windows",
        "mutual_information": "plug-in estimate of I(code; phone) on the held-out windows, nats, biased "
        "upwards if windows are few; shuffled_mutual_information: the same with permuted codes",
        "normalised_mutual_information": "mutual_information divided by the entropy of the phones: the share "
        "of the information about the phone that the code holds",
        "adjusted_rand": "agreement of the partitions of the held-out windows by code and by phone (Hubert & "
        "Arabie 1985): 0 by chance, 1 if they are equal",
        "num_windows": "number of scored held-out windows; num_train_windows: number of windows the maps are "
        "fitted to",
    }


def cautions(figures: Mapping[str, int | float], num_codes: int) -> list[str]:
    """Return a sentence for each reason why the accuracy of `phoneme_figures` is unreliable.

    Args:
        figures: result of `phoneme_figures`.
        num_codes: K.
    """
    found = []
    num, stderr = int(figures["num_windows"]), figures["phoneme_accuracy_stderr"]
    if num < LEAST_WINDOWS or stderr > LARGE_STDERR:
        needed = max(LEAST_WINDOWS, math.ceil(num * (stderr / LARGE_STDERR) ** 2))
        found.append(
            f"The accuracy is unreliable: {num:,} windows give a standard error of {100 * stderr:.1f} "
            f"percentage points; score at least {needed:,}."
        )
    fitted, least = int(figures["num_train_windows"]), LEAST_WINDOWS_PER_CODE * num_codes
    if fitted < least:
        found.append(
            f"The map is unreliable: {num_codes} codes are mapped by {fitted:,} training windows; fit it to "
            f"at least {least:,}."
        )
    return found


def cooccurrences(
    codes: Int64[np.ndarray, " n"], phones: Int64[np.ndarray, " n"], num_codes: int, num_phones: int
) -> Int64[np.ndarray, "k p"]:
    """Count the occurrences of each code in windows of each phone, C[k, p].

    Raises:
        ValueError: when a code or a phone is out of range.
    """
    for ids, num, name in ((codes, num_codes, "codes"), (phones, num_phones, "phones")):
        if len(ids) and not 0 <= ids.min() <= ids.max() < num:
            raise ValueError(f"expected {name} from 0 to {num - 1}, received {ids.min()} to {ids.max()}")
    return np.bincount(codes * num_phones + phones, minlength=num_codes * num_phones).reshape(
        num_codes, num_phones
    )


def stderr_over_groups(right: Bool[np.ndarray, " n"], groups: Int64[np.ndarray, " n"]) -> float:
    """Standard error of the mean of `right`, for items that are independent only across groups.

    That of a ratio of sums over G groups (Cochran 1977, "Sampling Techniques"): with the share p and group
    sums r_g of n_g items, sqrt(G / (G - 1) sum_g (r_g - p n_g)^2) / n. The items of a single group are taken
    for independent.
    """
    share = float(np.mean(right))
    _, own = np.unique(groups, return_inverse=True)
    num_groups = int(own.max()) + 1
    if num_groups == 1:
        return math.sqrt(share * (1 - share) / len(right))
    residuals = np.bincount(own, weights=right - share)
    return math.sqrt(num_groups / (num_groups - 1) * float(np.square(residuals).sum())) / len(right)


def mutual_information(counts: Int64[np.ndarray, "k p"]) -> float:
    """Compute I(code; phone) of the normalised counts, nats."""
    joint = counts / counts.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def adjusted_rand(counts: Int64[np.ndarray, "k p"]) -> float:
    """Compute the adjusted Rand index from the contingency table of two partitions.

    Source: Hubert & Arabie 1985, "Comparing partitions".
    """

    def pairs(sizes: np.ndarray) -> float:
        return float((sizes * (sizes - 1.0) / 2).sum())

    both, by_code, by_phone = pairs(counts), pairs(counts.sum(1)), pairs(counts.sum(0))
    by_chance = by_code * by_phone / max(pairs(counts.sum(keepdims=True)), 1.0)
    most = (by_code + by_phone) / 2
    # Equal only if both partitions have a single class, or only classes of one window.
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def kmeans_codes(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    num_clusters: int,
    seed: int = 0,
    iterations: int = 30,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Assign features to k-means clusters fitted on the training features: a control for learned codes.

    Raises:
        InputError: when there are fewer training features than clusters.
    """
    features = torch.from_numpy(train).float()
    centres = kmeans(features, num_clusters, seed, iterations)
    return (
        nearest_codes(features, centres).numpy(),
        nearest_codes(torch.from_numpy(test).float(), centres).numpy(),
    )


def _figures(
    train: Windows,
    held_out: Windows,
    fitted: Bool[np.ndarray, " n"],
    scored: Bool[np.ndarray, " m"],
    num_codes: int,
    num_phones: int,
    rng: np.random.Generator,
) -> dict[str, int | float]:
    """Compute the figures on the kept windows."""
    codes, phones = held_out.codes[scored], held_out.phones[scored]
    of_code = PhonemeMap.fit(train.codes[fitted], train.phones[fitted], num_codes, num_phones)
    answers, with_context = of_code.phones(codes), {}
    for name, offsets in CONTEXTS.items():
        # Contexts are taken before windows are left out, so that they are neighbours in time.
        contexts = [w.contexts(offsets, num_codes)[kept] for w, kept in ((train, fitted), (held_out, scored))]
        answers = ContextMap.fit(contexts[0], train.phones[fitted], num_codes).phones(contexts[1], answers)
        with_context[name] = float(np.mean(answers == phones))

    shuffled_map = PhonemeMap.fit(
        rng.permutation(train.codes[fitted]), train.phones[fitted], num_codes, num_phones
    )
    shuffled = rng.permutation(codes)
    counts = cooccurrences(codes, phones, num_codes, num_phones)
    information = mutual_information(counts)
    entropy = mutual_information(np.diag(counts.sum(0)))
    return {
        "phoneme_accuracy": of_code.accuracy(codes, phones),
        "phoneme_accuracy_stderr": stderr_over_groups(
            of_code.phones(codes) == phones, held_out.utterances[scored]
        ),
        "majority": of_code.majority(phones),
        "shuffled": shuffled_map.accuracy(shuffled, phones),
        **with_context,
        "phone_purity": float(counts.max(1).sum() / counts.sum()),
        "cluster_purity": float(counts.max(0).sum() / counts.sum()),
        "mutual_information": information,
        "shuffled_mutual_information": mutual_information(
            cooccurrences(shuffled, phones, num_codes, num_phones)
        ),
        "normalised_mutual_information": information / entropy if entropy > 0 else 0.0,
        "adjusted_rand": adjusted_rand(counts),
        "num_windows": int(scored.sum()),
        "num_train_windows": int(fitted.sum()),
    }


def _as_numbers(contexts: Int64[np.ndarray, "n c"], base: int) -> Int64[np.ndarray, " n"]:
    numbers = np.zeros(len(contexts), dtype=np.int64)
    for column in contexts.T:
        numbers = numbers * base + column
    return numbers
