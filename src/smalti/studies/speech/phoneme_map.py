"""Phoneme content of the codes: the paper's many-to-one map, with reference figures.

van den Oord et al. 2017, section 4.3: every code is mapped to the phone that it most often stands for,
f(k) = argmax_p C[k, p], C the co-occurrences in the training windows; the accuracy is the share of held-out
windows whose code is mapped to their phone. No classifier is trained.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from smalti.core.errors import InputError
from smalti.quantizers.kmeans import kmeans
from smalti.quantizers.nearest import nearest_codes

UNLABELLED = -1
"""Phone of a window that no segment covers. It is never scored, but its code may be another's context."""

CONTEXTS = {"bigram": (-1, 0), "trigram": (-1, 0, 1)}
"""Maps with context -> the places of the codes that they look at, seen from the window."""


@dataclass(frozen=True)
class Windows:
    """Windows of utterances, those of one utterance together and in order of time.

    Attributes:
        codes: the code of each, `(N,)`; of several codebooks, one at a time.
        phones: the id of the phone at its centre, `(N,)`, or `UNLABELLED`.
        utterances: which utterance it is of, `(N,)`.

    Raises:
        ValueError: when the windows of an utterance do not lie together.
    """

    codes: Int64[np.ndarray, " n"]
    phones: Int64[np.ndarray, " n"]
    utterances: Int64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        changes = np.count_nonzero(np.diff(self.utterances))
        if len(self.codes) and changes + 1 != len(np.unique(self.utterances)):
            raise ValueError("expected each utterance's windows together: sort them by utterance and time")

    def contexts(self, offsets: tuple[int, ...], boundary: int) -> Int64[np.ndarray, "n c"]:
        """The codes at some places around each window; `boundary` where that is beyond its utterance.

        Args:
            offsets: the places, -1 for the window before, 0 for itself, 1 for the one after.
            boundary: what stands for no code.
        """
        places = np.arange(len(self.codes))[:, None] + np.array(offsets)
        within = places.clip(0, max(0, len(self.codes) - 1))
        inside = (places == within) & (self.utterances[within] == self.utterances[:, None])
        return np.where(inside, self.codes[within], boundary)


@dataclass(frozen=True)
class PhonemeMap:
    """The phone that each code stands for.

    Attributes:
        table: phone of each code, `(K,)`.
        most_frequent: phone that the training windows hold most often.
    """

    table: Int64[np.ndarray, " k"]
    most_frequent: int

    @staticmethod
    def fit(
        codes: Int64[np.ndarray, " n"], phones: Int64[np.ndarray, " n"], num_codes: int, num_phones: int
    ) -> PhonemeMap:
        """Most frequent phone of each code; of equally frequent ones the lowest.

        A code that does not occur stands for the phone that is most frequent over all.
        """
        counts = cooccurrences(codes, phones, num_codes, num_phones)
        most_frequent = int(counts.sum(0).argmax())
        return PhonemeMap(np.where(counts.any(1), counts.argmax(1), most_frequent), most_frequent)

    def phones(self, codes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The phone of each code."""
        return self.table[codes]

    def accuracy(self, codes: Int64[np.ndarray, " n"], phones: Int64[np.ndarray, " n"]) -> float:
        """Share of windows whose code stands for their phone."""
        return float(np.mean(self.phones(codes) == phones))

    def majority(self, phones: Int64[np.ndarray, " n"]) -> float:
        """Share of windows that hold the phone most frequent in training: what no code at all scores."""
        return float(np.mean(phones == self.most_frequent))


@dataclass(frozen=True)
class ContextMap:
    """The phone that each sequence of codes stands for, as often as it was seen; a shorter one's otherwise.

    Attributes:
        sequences: the sequences seen in training, each as one number, ascending, `(S,)`.
        table: phone of each, `(S,)`.
        base: codes and the boundary, K + 1: the base of those numbers.
    """

    sequences: Int64[np.ndarray, " s"]
    table: Int64[np.ndarray, " s"]
    base: int

    @staticmethod
    def fit(
        contexts: Int64[np.ndarray, "n c"], phones: Int64[np.ndarray, " n"], num_codes: int
    ) -> ContextMap:
        """Most frequent phone of each sequence; of equally frequent ones the lowest.

        Args:
            contexts: codes below K, and K for a place beyond the utterance.
            phones: of the windows.
            num_codes: K.
        """
        numbers = _as_numbers(contexts, num_codes + 1)
        # Most frequent first within a sequence, lowest phone first among equals; then the first of each.
        pairs, counts = np.unique(np.stack([numbers, phones]), axis=1, return_counts=True)
        pairs = pairs[:, np.lexsort((pairs[1], -counts, pairs[0]))]
        sequences, first = np.unique(pairs[0], return_index=True)
        return ContextMap(sequences, pairs[1, first], num_codes + 1)

    def phones(
        self, contexts: Int64[np.ndarray, "n c"], otherwise: Int64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        """The phone of each sequence, and `otherwise` where it was not seen in training."""
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
    """All figures of codes against phones, with silence left out and, `..._with_silence`, with it.

    Args:
        train: windows that the maps are fitted to.
        held_out: windows that they are scored on.
        num_codes: K.
        num_phones: P.
        silence: ids of the phones that are none: silence, noise.
        seed: of the permutation of the control `shuffled`.

    Returns:
        The figures that `protocol` names.

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
                "expected labelled windows other than silence both to fit and to score, received "
                f"{fitted.sum()} and {scored.sum()}: see that the alignments are those of these utterances"
            )
        rng = np.random.default_rng(seed)
        for name, figure in _figures(train, held_out, fitted, scored, num_codes, num_phones, rng).items():
            figures[name + ending] = figure
    return figures


def protocol() -> dict[str, str]:
    """Return the definition of each figure of `phoneme_figures`."""
    return {
        "phoneme_accuracy": "each code is mapped to its most frequent phone in the training windows (ties to "
        "the lowest id, unseen codes to the most frequent phone over all); share of held-out windows whose "
        "code is mapped to the phone at their centre; silence and unlabelled windows are left out of both, "
        "'..._with_silence': only unlabelled ones",
        "majority": "share of held-out windows that hold the most frequent phone of the training windows",
        "shuffled": "phoneme_accuracy with the codes permuted over all kept windows, each set's among its "
        "own: what a map of as many codes finds by chance",
        "bigram": "phoneme_accuracy of the map of (previous code, code), where training has the pair, of the "
        "code alone elsewhere; before the first window of an utterance stands a symbol of its own; the "
        "previous code is that of the window before, be that window silent, unlabelled or kept",
        "trigram": "as bigram, of (previous code, code, next code), where training has the three, else as "
        "bigram",
        "phone_purity": "sum over codes of the count of its most frequent phone, over the held-out windows: "
        "the accuracy of a map fitted to the windows that it is scored on, which grows with the codes",
        "cluster_purity": "sum over phones of the count of its most frequent code, over the held-out windows",
        "mutual_information": "of code and phone in the held-out windows, nats, from their frequencies, "
        "too much where windows are few; shuffled_mutual_information: the same of the permuted codes",
        "normalised_mutual_information": "mutual_information over the entropy of the phones: the share of "
        "what there is to know of the phone that the code tells",
        "adjusted_rand": "Hubert & Arabie 1985, of the partitions of the held-out windows by code and by "
        "phone: 0 by chance, 1 when they are the same",
        "num_windows": "held-out windows that are scored; num_train_windows: that the maps are fitted to",
    }


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


def mutual_information(counts: Int64[np.ndarray, "k p"]) -> float:
    """I(code; phone) of the distribution that counts make, nats."""
    joint = counts / counts.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def adjusted_rand(counts: Int64[np.ndarray, "k p"]) -> float:
    """Agreement of two partitions given by their contingency table, 0 by chance (Hubert & Arabie 1985)."""

    def pairs(sizes: np.ndarray) -> float:
        return float((sizes * (sizes - 1.0) / 2).sum())

    both, by_code, by_phone = pairs(counts), pairs(counts.sum(1)), pairs(counts.sum(0))
    by_chance = by_code * by_phone / max(pairs(counts.sum(keepdims=True)), 1.0)
    most = (by_code + by_phone) / 2
    # Equal only where each partition is one class, or only classes of one window.
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def kmeans_codes(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    num_clusters: int,
    seed: int = 0,
    iterations: int = 30,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Codes of features by k-means, fitted to the training ones: a control, for learned codes to beat.

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
    """The figures of the windows that are kept."""
    codes, phones = held_out.codes[scored], held_out.phones[scored]
    of_code = PhonemeMap.fit(train.codes[fitted], train.phones[fitted], num_codes, num_phones)
    answers, with_context = of_code.phones(codes), {}
    for name, offsets in CONTEXTS.items():
        # Before any window is left out, so that neighbours in time are neighbours here.
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
