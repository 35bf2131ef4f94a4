"""ABX discriminability of phones across speakers.

A and X are tokens of the same phone by different speakers; B is a token of another phone by A's speaker. All
three have the same phones before and after. A triple counts as an error if X is nearer to B than to A, and as
half an error if both are equally near (Schatz et al. 2013; also the unit metric of the ZeroSpeech 2019 and
2020 track "TTS without T").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from smalti.core.errors import InputError
from smalti.studies.speech.alignments import Segment

PairDistance = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Float64[np.ndarray, " b"]]
"""Distances between two lists of tokens, pair by pair. A token is `(T, D)` frames, or `(T,)` codes."""

FrameDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Distances between all frames of two batches of tokens, `(B, S, D)` and `(B, T, D)` -> `(B, S, T)`."""

PAIRS_AT_ONCE = 512
"""Number of pairs whose distances are computed in one NumPy batch."""

EQUAL_FRAMES = 1e-12
"""Tolerance within which a cosine counts as 1, or a relative squared distance as 0."""

EQUAL_DISTANCES = 1e-9
"""Relative tolerance within which two token distances count as equal, since summation order differs."""


@dataclass(frozen=True)
class Token:
    """A stretch of speech that contains a phone in its context.

    Attributes:
        features: float `(T, D)`, such as code vectors or log-mels, or int64 codes `(T,)`; T at least 1.
        phone: the phone that the test discriminates.
        context: the phones before and after, or another property that A, B and X must share.
        speaker: name of the speaker.
    """

    features: np.ndarray
    phone: str
    context: tuple[str, str]
    speaker: str


@dataclass(frozen=True)
class ABX:
    """Result of an ABX test.

    Attributes:
        error: percent; 50 by chance.
        num_triples: number of triples A, B, X that were compared.
        num_phone_pairs: number of ordered pairs (phone of A and X, phone of B).
        protocol: definition of the figure.
    """

    error: float
    num_triples: int
    num_phone_pairs: int
    protocol: dict[str, str]


def tokens_of(
    features: np.ndarray,
    frame_seconds: float,
    segments: Sequence[Segment],
    speaker: str,
    silence: Collection[str] = (),
    with_context: bool = True,
) -> list[Token]:
    """Return the tokens of an utterance: the frames of each phone that has a phone before and after.

    A frame belongs to a token if its centre lies within it. Phones next to silence or to an unlabelled
    stretch, and phones too short to contain a frame centre, are left out.

    Args:
        features: features of the utterance, `(T, D)`, or codes `(T,)`; frame i is centred on
            (i + 0.5) * frame_seconds.
        frame_seconds: time between frames.
        segments: segments of the utterance, in order of time.
        speaker: speaker of the utterance.
        silence: labels that are not phones, such as silence and noise.
        with_context: whether a token spans all three phones, as in ZeroSpeech, or only the middle one.
    """
    centres = (np.arange(len(features)) + 0.5) * frame_seconds
    tokens = []
    for before, middle, after in zip(segments, segments[1:], segments[2:], strict=False):
        # Times that were computed by adding durations may differ by rounding.
        joined = max(middle.start - before.end, after.start - middle.end) < 1e-3
        if not joined or {before.phone, middle.phone, after.phone} & set(silence):
            continue
        start, end = (before.start, after.end) if with_context else (middle.start, middle.end)
        first, last = np.searchsorted(centres, (start, end), side="left")
        if last > first:
            context = (before.phone, after.phone)
            tokens.append(Token(features[first:last], middle.phone, context, speaker))
    return tokens


def abx(
    tokens: Sequence[Token],
    distance: str = "angular",
    max_tokens: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> ABX:
    """Compute the ABX error across speakers.

    Args:
        tokens: tokens of all speakers.
        distance: "angular" or "euclidean" between frames along a warping path, or "edit" between codes.
        max_tokens: maximum number of tokens per phone, speaker and context; a random subset is used if there
            are more.
        max_speakers: maximum number of speakers of X for each pair of phones, context and speaker of A; a
            random subset is used if there are more.
        seed: seed of the subsets. The same tokens in the same order give the same triples.

    Raises:
        InputError: when the distance is unknown, or no three tokens can be compared.
    """
    if distance not in DISTANCES:
        raise InputError(f"expected one of the distances {', '.join(DISTANCES)}, received {distance!r}")
    measure = DISTANCES[distance]
    wrong = next((token for token in tokens if token.features.ndim != measure.ndim), None)
    if wrong is not None:
        raise InputError(
            f"expected features of {measure.ndim} dimensions for the distance {distance}, received shape "
            f"{wrong.features.shape}: use edit for codes, angular or euclidean for frames"
        )
    rng = np.random.default_rng(seed)
    groups: dict[tuple[tuple[str, str], str, str], list[int]] = defaultdict(list)
    for index, token in enumerate(tokens):
        groups[token.context, token.phone, token.speaker].append(index)
    drawn = {key: _draw(rng, group, max_tokens) for key, group in sorted(groups.items())}
    cells = _cells(rng, drawn, max_speakers)
    if not cells:
        raise InputError(
            "expected two phones in the same context by one speaker, one of them also by another speaker, "
            f"found none among {len(tokens):,} tokens: add speech, or speakers who say the same words"
        )
    pairs = _Pairs(tokens, measure.between)
    for a, b, x in cells.values():
        pairs.need(a, x)
        pairs.need(b, x)
    pairs.measure()
    errors = {key: _error(pairs.between(a, x), pairs.between(b, x)) for key, (a, b, x) in cells.items()}
    # The key is (phones, context, speakers): each step averages over its last part.
    by_context = _mean_over_last(errors)
    by_phones = _mean_over_last(by_context)
    return ABX(
        error=100 * float(np.mean(list(by_phones.values()))),
        num_triples=sum(len(a) * len(b) * len(x) for a, b, x in cells.values()),
        num_phone_pairs=len(by_phones),
        protocol={
            "abx": "A and X are of one phone, B is of another; A and B are of one speaker, X is of another; "
            "all have the same phones before and after; percentage of triples with d(B, X) < d(A, X), ties "
            "count one half; mean over triples for each pair of phones, context and pair of speakers, then "
            "over pairs of speakers, then contexts, then ordered pairs of phones",
            "distance": measure.protocol,
            "sampling": f"at most {max_tokens} tokens per phone, context and speaker, and at most "
            f"{max_speakers} speakers of X per pair of phones, context and speaker of A; seed {seed}",
        },
    )


def dtw(
    ones: Sequence[np.ndarray], others: Sequence[np.ndarray], frame_distance: FrameDistance
) -> Float64[np.ndarray, " b"]:
    """Mean frame distance along the warping path of least total distance, pair by pair.

    Each step advances one frame in either token or in both; ties prefer both, then the second token.

    Args:
        ones: tokens, each `(S, D)`.
        others: the same number of tokens, each `(T, D)`.
        frame_distance: distance between frames.
    """
    one, other = _padded(ones), _padded(others)
    # Pairs are the last axis, so that each step of the recursion reads contiguous memory. Rounding to float32
    # makes distances of equal frames, and thus the paths, independent of the rest of the batch.
    distances = np.ascontiguousarray(np.moveaxis(frame_distance(one, other), 0, -1).astype(np.float32))
    rows, columns, num = distances.shape
    total = np.full((rows + 1, columns + 1, num), np.inf)
    total[0, 0] = 0
    length = np.zeros((rows + 1, columns + 1, num))
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            least, steps = total[i - 1, j - 1], length[i - 1, j - 1]
            for beside in ((i, j - 1), (i - 1, j)):
                steps = np.where(total[beside] < least, length[beside], steps)
                least = np.minimum(least, total[beside])
            total[i, j] = least + distances[i - 1, j - 1]
            length[i, j] = steps + 1
    ends = ([len(token) for token in ones], [len(token) for token in others], range(num))
    return total[ends] / length[ends]


def edit(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Float64[np.ndarray, " b"]:
    """Levenshtein distance between code sequences, divided by the length of the longer one, pair by pair.

    Args:
        ones: code sequences, each `(S,)`.
        others: the same number of code sequences, each `(T,)`.
    """
    one, other = _padded(ones), _padded(others)
    num, rows, columns = len(one), one.shape[1], other.shape[1]
    changes = np.zeros((rows + 1, columns + 1, num))
    changes[:, 0] = np.arange(rows + 1)[:, None]
    changes[0] = np.arange(columns + 1)[:, None]
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            substituted = changes[i - 1, j - 1] + (one[:, i - 1] != other[:, j - 1])
            changes[i, j] = np.minimum(substituted, np.minimum(changes[i - 1, j], changes[i, j - 1]) + 1)
    lengths = np.array([[len(token) for token in tokens] for tokens in (ones, others)])
    return changes[lengths[0], lengths[1], range(num)] / lengths.max(0)


def angular(one: Float[np.ndarray, "b s d"], other: Float[np.ndarray, "b t d"]) -> Float[np.ndarray, "b s t"]:
    """Angle between each pair of frames, divided by pi; the distance to an all-zero frame is 1/2."""

    def directions(frames: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(frames, axis=2, keepdims=True)
        return frames / np.where(norms > 0, norms, 1)

    cosine = directions(one) @ directions(other).transpose(0, 2, 1)
    # Near 1, the arc cosine amplifies a rounding error of 1e-16 to 1e-8.
    return np.where(cosine > 1 - EQUAL_FRAMES, 0, np.arccos(cosine.clip(-1, 1))) / np.pi


def euclidean(
    one: Float[np.ndarray, "b s d"], other: Float[np.ndarray, "b t d"]
) -> Float[np.ndarray, "b s t"]:
    """Euclidean distance between each pair of frames."""
    norms = np.square(one).sum(2)[:, :, None] + np.square(other).sum(2)[:, None]
    squared = norms - 2 * (one @ other.transpose(0, 2, 1))
    # As above: for equal frames, the square root would amplify the rounding error.
    return np.sqrt(np.where(squared > EQUAL_FRAMES * norms, squared, 0))


@dataclass(frozen=True)
class Distance:
    """A distance between tokens.

    Attributes:
        between: computes it for two lists of tokens, pair by pair.
        ndim: required number of dimensions of a token's features.
        protocol: definition of the distance.
    """

    between: PairDistance
    ndim: int
    protocol: str


_ALONG_THE_PATH = "mean along the warping path of least total distance (steps of one frame in either or both)"

DISTANCES = {
    "angular": Distance(
        lambda ones, others: dtw(ones, others, angular),
        ndim=2,
        protocol=f"angle between two frames, divided by pi; {_ALONG_THE_PATH}",
    ),
    "euclidean": Distance(
        lambda ones, others: dtw(ones, others, euclidean),
        ndim=2,
        protocol=f"Euclidean distance between two frames; {_ALONG_THE_PATH}",
    ),
    "edit": Distance(
        edit,
        ndim=1,
        protocol="Levenshtein distance of the codes, divided by the length of the longer sequence; repeated "
        "codes are kept",
    ),
}


class _Pairs:
    """Distances of the requested pairs of tokens, each computed once, in batches of similar length."""

    def __init__(self, tokens: Sequence[Token], distance: PairDistance) -> None:
        self._features = [token.features for token in tokens]
        self._distance = distance
        self._needed: list[np.ndarray] = []
        self._pairs = np.zeros(0, np.int64)
        self._values = np.zeros(0)

    def need(self, ones: Int64[np.ndarray, " m"], others: Int64[np.ndarray, " n"]) -> None:
        self._needed.append(self._number(ones, others).ravel())

    def measure(self) -> None:
        self._pairs = np.unique(np.concatenate(self._needed))
        ones, others = np.divmod(self._pairs, len(self._features))
        lengths = np.array([len(features) for features in self._features])
        order = np.lexsort((lengths[others], lengths[ones]))
        self._values = np.zeros(len(self._pairs))
        for part in np.array_split(order, range(PAIRS_AT_ONCE, len(order), PAIRS_AT_ONCE)):
            self._values[part] = self._distance(
                [self._features[i] for i in ones[part]], [self._features[i] for i in others[part]]
            )

    def between(
        self, ones: Int64[np.ndarray, " m"], others: Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "m n"]:
        return self._values[np.searchsorted(self._pairs, self._number(ones, others))]

    def _number(self, ones: Int64[np.ndarray, " m"], others: Int64[np.ndarray, " n"]) -> np.ndarray:
        return ones[:, None] * len(self._features) + others


def _cells(
    rng: np.random.Generator,
    groups: dict[tuple[tuple[str, str], str, str], Int64[np.ndarray, " n"]],
    max_speakers: int,
) -> dict[tuple, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Map (phones, context, speakers) to the indices of the tokens for A, B and X."""
    speakers: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
    phones: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
    for context, phone, speaker in groups:
        speakers[context, phone].append(speaker)
        phones[context, speaker].append(phone)
    cells = {}
    for context, phone, speaker in groups:
        others = [name for name in speakers[context, phone] if name != speaker]
        for wrong in phones[context, speaker]:
            if wrong == phone or not others:
                continue
            for index in _draw(rng, range(len(others)), max_speakers):
                key = ((phone, wrong), context, (speaker, others[index]))
                cells[key] = (
                    groups[context, phone, speaker],
                    groups[context, wrong, speaker],
                    groups[context, phone, others[index]],
                )
    return cells


def _draw(rng: np.random.Generator, values: Sequence[int], most: int) -> Int64[np.ndarray, " n"]:
    """Return the values in order, or a random subset of size `most` if there are more."""
    array = np.array(values, dtype=np.int64)
    return array if len(array) <= most else np.sort(rng.choice(array, most, replace=False))


def _error(to_a: Float64[np.ndarray, "a x"], to_b: Float64[np.ndarray, "b x"]) -> float:
    """Share of triples in which X is nearer to B; ties count one half."""
    a, b = to_a[:, None], to_b[None]
    equal = np.isclose(a, b, rtol=EQUAL_DISTANCES, atol=0)
    return float(np.where(equal, 0.5, a > b).mean())


def _mean_over_last(values: dict[tuple, float]) -> dict[tuple, float]:
    """Average the values whose keys differ only in the last part."""
    grouped = defaultdict(list)
    for key, value in values.items():
        grouped[key[:-1]].append(value)
    return {key: float(np.mean(of_key)) for key, of_key in grouped.items()}


def _padded(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """Stack tokens as `(B, T)` or float64 `(B, T, D)`, with shorter ones padded with zeros."""
    frame = tokens[0].shape[1:]
    longest = max(len(token) for token in tokens)
    padded = np.zeros((len(tokens), longest, *frame), np.float64 if frame else np.int64)
    for row, token in zip(padded, tokens, strict=True):
        row[: len(token)] = token
    return padded
