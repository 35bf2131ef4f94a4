"""How a codebook learns: by the paper's loss (faithful), from statistics (robust), or not at all (frozen).

All hold G codebooks `(G, K, D)` in float32. A `VectorQuantizer` owns one and asks three things of it: the
codebook itself, a loss, and what to learn from the tokens of a training batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.weak import WeakTensorKeyDictionary

from smalti.core.config import Configuration
from smalti.nn.collectives import counts_of_ranks, rows_over_ranks, sum_over_ranks
from smalti.quantizers.nearest import nearest_codes

APART = 0.03
"""Noise on tokens that become codes, in standard deviations of the tokens."""


class Codebook(nn.Module, ABC):
    """G codebooks of K codes of dimension D, and the rule by which they learn."""

    codes: Tensor
    """float32 `(G, K, D)`."""

    @abstractmethod
    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """See the tokens of a training batch before they are searched."""

    @abstractmethod
    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""] | None:
        """The codebook's own loss, or None if it has none."""

    @abstractmethod
    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """The code of each index."""

    @abstractmethod
    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Learn from a training batch's tokens and the codes that were chosen for them."""


class FaithfulCodebookConfig(Configuration):
    """The paper's codebook loss and nothing else; van den Oord et al. 2017, equation 3."""

    mode: Literal["faithful"] = "faithful"


@final
class FaithfulCodebook(Codebook):
    """A parameter, moved by the gradient of |sg[z_e] - e|^2.

    Initialised uniformly in +-sqrt(3/D), the fan-in scaling of the authors' published code.
    """

    def __init__(
        self, config: FaithfulCodebookConfig, num_codebooks: int, num_codes: int, code_dim: int
    ) -> None:
        super().__init__()
        del config  # it has no settings
        bound = math.sqrt(3 / code_dim)
        self.codes = nn.Parameter(torch.empty(num_codebooks, num_codes, code_dim).uniform_(-bound, bound))

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Nothing to prepare."""

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""]:
        """|sg[z_e] - e|^2, averaged over elements."""
        return (z_e.detach() - z_q).square().mean()

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """With a gradient for the codes."""
        return look_up(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Nothing: the optimiser moves it."""


class RobustCodebookConfig(Configuration):
    """Exponential moving averages, data-dependent initialisation and revival of dead codes.

    Attributes:
        decay: of the averages; 0.99 in the paper's appendix A.1.
        epsilon: Laplace smoothing of the counts, as in the authors' published code.
        data_init: whether the codes begin as tokens of the first batch, or at random as the faithful ones do.
        init_iterations: of k-means over the tokens of the first batch.
        revive_after: a code is dead when it has not been chosen for so long that an even share (tokens of a
            batch / number of codes) would have chosen it this many times; 0 never revives.
        revive_every: steps between revivals.
        seed: of the choice of tokens at initialisation and revival.
    """

    mode: Literal["robust"] = "robust"
    decay: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-5, gt=0)
    data_init: bool = True
    init_iterations: int = Field(default=10, ge=0)
    revive_after: float = Field(default=100.0, ge=0)
    revive_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)


class Averages(NamedTuple):
    """What a robust codebook consists of; all but `steps` in float32."""

    codes: Tensor
    """e, `(G, K, D)`."""
    counts: Tensor
    """N, the average number of tokens of each code, `(G, K)`."""
    sums: Tensor
    """m, the average sum of the tokens of each code, `(G, K, D)`."""
    missed: Tensor
    """Tokens that an even share would have brought each code since it was last chosen, `(G, K)`."""
    steps: Tensor
    """Batches learned from, int64 `()`."""


@final
class RobustCodebook(Codebook):
    """Each code is the moving average of the tokens that chose it; it has no gradient.

        N_i <- decay N_i + (1 - decay) n_i,  m_i <- decay m_i + (1 - decay) sum z,  e_i = m_i / N_i

    van den Oord et al. 2017, appendix A.1, with counts and sums taken over all ranks. What the authors do
    not have: k-means on the first batch, and codes that fell out of use are set to random tokens of the
    batch, their averages with them. Tokens that are not finite are left out of the statistics.

    Under `torch.compile` each of the two methods that change it is one operation of the graph.
    """

    counts: Tensor
    sums: Tensor
    missed: Tensor
    steps: Tensor

    def __init__(
        self, config: RobustCodebookConfig, num_codebooks: int, num_codes: int, code_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        bound = math.sqrt(3 / code_dim)
        codes = torch.empty(num_codebooks, num_codes, code_dim).uniform_(-bound, bound)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes))
        self.register_buffer("sums", torch.zeros(num_codebooks, num_codes, code_dim))
        self.register_buffer("missed", torch.zeros(num_codebooks, num_codes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """At the first batch, set the codes by k-means over the tokens of all ranks."""
        call = _prepare_opaque if _is_compiled() else _prepare
        call(tokens, *self._averages(), *self._settings())

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> None:
        """None: the averages take the place of the paper's second term."""
        return None

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """A copy that stays when the codes move: a compiler might look them up again for the gradient."""
        call = _look_up_opaque if _is_compiled() else look_up
        return call(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """One step of the averages, and now and then a revival."""
        call = _learn_opaque if _is_compiled() else _learn
        call(tokens, indices, *self._averages(), *self._settings())

    def _averages(self) -> Averages:
        return Averages(self.codes, self.counts, self.sums, self.missed, self.steps)

    def _settings(self) -> tuple[float, float, bool, int, float, int, int]:
        """The settings in the order of their class, which an operation of a graph can take."""
        c = self.config
        return c.decay, c.epsilon, c.data_init, c.init_iterations, c.revive_after, c.revive_every, c.seed


@torch.no_grad()
def _prepare(tokens: Float[Tensor, "g n d"], *averages_and_settings: Any) -> None:
    """`RobustCodebook.prepare`, of what an operation of a graph can take."""
    averages, config = _unpacked(averages_and_settings)
    if _step_of(averages.steps) != 0:
        return
    if config.data_init:
        _initialise(averages, config, tokens)
    else:
        # As if each code had been chosen once; one that never is fades to zero with its count.
        averages.counts.fill_(1)
        averages.sums.copy_(averages.codes)


@torch.no_grad()
def _learn(
    tokens: Float[Tensor, "g n d"],
    indices: Int64[Tensor, "g n"],
    *averages_and_settings: Any,
    changes: int = 0,
) -> None:
    """`RobustCodebook.learn`, of what an operation of a graph can take; `changes` as in `_step_of`."""
    averages, config = _unpacked(averages_and_settings)
    sums, counts = _statistics(tokens, indices, averages.codes.shape[1])
    averages.counts.lerp_(counts.to(averages.counts), 1 - config.decay)
    averages.sums.lerp_(sums.to(averages.sums), 1 - config.decay)
    even_share = counts.mean(1, keepdim=True)
    averages.missed.copy_(torch.where(counts > 0, 0, averages.missed + even_share))
    step = _advance(averages.steps, changes)
    if config.revive_after and step % config.revive_every == 0:
        _revive(averages, config, tokens, even_share, step)
    # e = m / N with Laplace-smoothed counts; the smoothing works on a copy.
    total = averages.counts.sum(1, keepdim=True)
    num_codes = averages.counts.shape[1]
    smoothed = (averages.counts + config.epsilon) / (total + num_codes * config.epsilon) * total
    averages.codes.copy_(averages.sums / smoothed.clamp_min(1e-12).unsqueeze(2))


def _learn_in_graph(
    tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"], *averages_and_settings: Any
) -> None:
    # What calls an operation counts a change of each argument that it changes, before it does.
    _learn(tokens, indices, *averages_and_settings, changes=1)


AVERAGES = "Tensor(a!) codes, Tensor(b!) counts, Tensor(c!) sums, Tensor(d!) missed"
SETTINGS = (
    "float decay, float epsilon, bool data_init, int init_iterations, float revive_after, int revive_every, "
    "int seed"
)
_prepare_opaque = torch.library.custom_op(
    "smalti::prepare_codebook",
    _prepare,
    mutates_args=Averages._fields[:-1],
    schema=f"(Tensor tokens, {AVERAGES}, Tensor steps, {SETTINGS}) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)
_learn_opaque = torch.library.custom_op(
    "smalti::learn_codebook",
    _learn_in_graph,
    mutates_args=Averages._fields,
    schema=f"(Tensor tokens, Tensor indices, {AVERAGES}, Tensor(e!) steps, {SETTINGS}) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def _unpacked(averages_and_settings: tuple[Any, ...]) -> tuple[Averages, RobustCodebookConfig]:
    num = len(Averages._fields)
    averages, settings = averages_and_settings[:num], averages_and_settings[num:]
    names = (name for name in RobustCodebookConfig.model_fields if name != "mode")
    # They were checked when they were set.
    config = RobustCodebookConfig.model_construct(None, **dict(zip(names, settings, strict=True)))
    return Averages(*averages), config


_SEEN: Any = WeakTensorKeyDictionary()
"""Counters, each with the version at which it was seen and what it said then."""


def _step_of(steps: Int64[Tensor, ""], changes: int = 0) -> int:
    """The counter's number; the device is asked only when it has changed behind our back.

    Args:
        steps: the counter.
        changes: how often it was counted as changed without being so.
    """
    version, step = _SEEN.get(steps, (-1, 0))
    if version + changes != steps._version:
        step = int(steps.item())
        _SEEN[steps] = steps._version, step
    return step


def _advance(steps: Int64[Tensor, ""], changes: int) -> int:
    """Add one, and give the number."""
    step = _step_of(steps, changes) + 1
    steps += 1
    _SEEN[steps] = steps._version, step
    return step


def _statistics(
    tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"], num_codes: int
) -> tuple[Float[Tensor, "g k d"], Float[Tensor, "g k"]]:
    """Sums and counts of each code over all ranks, in one reduction."""
    num_codebooks, _, dim = tokens.shape
    offset = torch.arange(num_codebooks, device=tokens.device).unsqueeze(1) * num_codes
    # A sum of values that are not all finite is not finite; such tokens go to a row that is thrown away.
    rows = torch.where(tokens.sum(2).isfinite(), indices + offset, num_codebooks * num_codes).flatten()
    sums = tokens.new_zeros(num_codebooks * num_codes + 1, dim).index_add_(0, rows, tokens.flatten(0, 1))
    counts = tokens.new_zeros(len(sums)).index_add_(0, rows, tokens.new_ones(len(rows)))
    statistics = sum_over_ranks(torch.cat([sums, counts.unsqueeze(1)], 1)[:-1])
    statistics = statistics.view(num_codebooks, num_codes, dim + 1)
    return statistics[..., :-1], statistics[..., -1]


def _draw_tokens(tokens: Float[Tensor, "g n d"], num: int, seed: int, salt: int) -> Float[Tensor, "g num d"]:
    """Random tokens of all ranks, a little apart, the same on every rank and for every number of ranks.

    Tokens may be equal (flat regions of pictures), and there may be fewer of them than codes: codes that
    began at one place would never part, and each would cost the search a second look.
    """
    rows = tokens.transpose(0, 1)
    total = sum(counts_of_ranks(len(rows), rows.device))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + salt)
    # Without replacement as far as the tokens go, so that codes begin apart.
    order = torch.cat([torch.randperm(total, generator=generator) for _ in range(math.ceil(num / total))])
    drawn = rows_over_ranks(rows, order[:num].to(rows.device)).transpose(0, 1)
    drawn = torch.where(drawn.isfinite(), drawn, 0)
    noise = torch.randn(drawn.shape, generator=generator).to(drawn)
    return drawn + APART * drawn.std() * noise


def _initialise(averages: Averages, config: RobustCodebookConfig, tokens: Float[Tensor, "g n d"]) -> None:
    """k-means over the tokens of all ranks."""
    num_codes = averages.codes.shape[1]
    codes = _draw_tokens(tokens, num_codes, config.seed, salt=0)
    for _ in range(config.init_iterations):
        sums, counts = _statistics(tokens, search(tokens, codes), num_codes)
        counts = counts.unsqueeze(2)
        codes = torch.where(counts > 0, sums / counts.clamp_min(1), codes)
    _, counts = _statistics(tokens, search(tokens, codes), num_codes)
    averages.codes.copy_(codes)
    # An unused code starts with a weight far below one token, so that its first tokens take it over.
    averages.counts.copy_(counts.clamp_min(1e-2))
    averages.sums.copy_(codes * averages.counts.unsqueeze(2))


def _revive(
    averages: Averages,
    config: RobustCodebookConfig,
    tokens: Float[Tensor, "g n d"],
    even_share: Float[Tensor, "g 1"],
    step: int,
) -> None:
    """Set dead codes to random tokens, and their averages as if they had had an even share."""
    dead = averages.missed >= config.revive_after
    # The same on every rank, for the statistics are.
    if not dead.any():
        return
    drawn = _draw_tokens(tokens, averages.codes.shape[1], config.seed, salt=step)
    averages.counts.copy_(torch.where(dead, even_share, averages.counts))
    averages.sums.copy_(torch.where(dead.unsqueeze(2), drawn * even_share.unsqueeze(2), averages.sums))
    averages.missed.copy_(torch.where(dead, 0, averages.missed))


class FrozenCodebookConfig(Configuration):
    """A codebook that was set once, from all the training data, and stays."""

    mode: Literal["frozen"] = "frozen"


@final
class FrozenCodebook(Codebook):
    """Codes that learn nothing: for an encoder that does not change either. See `set`."""

    def __init__(
        self, config: FrozenCodebookConfig, num_codebooks: int, num_codes: int, code_dim: int
    ) -> None:
        super().__init__()
        del config  # it has no settings
        self.register_buffer("codes", torch.randn(num_codebooks, num_codes, code_dim))

    @torch.no_grad()
    def set(self, codes: Float[Tensor, "g k d"]) -> None:
        """Take these codes, by k-means say."""
        self.codes.copy_(codes)

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Nothing to prepare."""

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> None:
        """None: nothing is to change."""
        return None

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """As they were set."""
        return look_up(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Nothing."""


def look_up(codes: Float[Tensor, "g k d"], indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
    """The code of each index, each codebook by itself."""
    num_codebooks, num_codes, _ = codes.shape
    offset = torch.arange(num_codebooks, device=indices.device).unsqueeze(1) * num_codes
    return embedding(indices + offset, codes.flatten(0, 1))


_look_up_opaque = torch.library.custom_op(
    "smalti::look_up", look_up, mutates_args=(), schema="(Tensor codes, Tensor indices) -> Tensor"
)


@_look_up_opaque.register_fake
def _shape_of_looked_up(codes: Tensor, indices: Tensor) -> Tensor:
    return codes.new_empty(*indices.shape, codes.shape[2])


def _is_compiled() -> bool:
    """Whether a graph is made that will run beside this package, and not be exported."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def search(tokens: Float[Tensor, "g n d"], codes: Float[Tensor, "g k d"]) -> Int64[Tensor, "g n"]:
    """The nearest code of each token, each codebook by itself."""
    return torch.stack([nearest_codes(t, c) for t, c in zip(tokens, codes, strict=True)])
