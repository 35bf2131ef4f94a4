"""EMA codebook, with data-dependent initialisation and revival of dead codes."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from smalti.quantizers.codebooks.base import CODEBOOKS, Codebook, CodebookConfig, look_up
from smalti.quantizers.codebooks.statistics import cluster, draw_tokens, statistics


@CODEBOOKS.register
class EMACodebookConfig(CodebookConfig):
    """Exponential moving averages, data-dependent initialisation and revival of dead codes.

    Attributes:
        decay: of the averages; 0.99 in the paper's appendix A.1.
        epsilon: Laplace smoothing of the counts, as in the authors' published code.
        data_init: whether to initialise the codes by k-means of the first batch, or at random.
        init_iterations: k-means iterations over the tokens of the first batch.
        revive_after: a code is dead if it was not chosen while an even share (tokens of a batch / number of
            codes) would have chosen it this many times; 0 disables revival.
        revive_every: steps between revivals.
        seed: of the choice of tokens at initialisation and revival.
    """

    kind: Literal["ema"] = "ema"
    decay: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-5, gt=0)
    data_init: bool = True
    init_iterations: int = Field(default=10, ge=0)
    revive_after: float = Field(default=100.0, ge=0)
    revive_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> EMACodebook:
        """Build the untrained codebook."""
        return EMACodebook(num_codebooks, num_codes, code_dim, self)


class Averages(NamedTuple):
    """State of an EMA codebook; float32 except the steps."""

    codes: Tensor
    """Code vectors e, `(G, K, D)`."""
    counts: Tensor
    """Average number N of tokens of each code, `(G, K)`."""
    sums: Tensor
    """Average sum m of the tokens of each code, `(G, K, D)`."""
    missed: Tensor
    """Expected number of tokens of each code, at even use, since it was last chosen, `(G, K)`."""
    steps: Tensor
    """Number of batches learned from, int64 `()`, on the device and saved with the other tensors."""
    host_steps: Tensor
    """The same number on the CPU, where reading it needs no device synchronisation."""


@final
class EMACodebook(Codebook):
    """Each code is the moving average of the tokens assigned to it; codes have no gradient.

        N_i <- decay N_i + (1 - decay) n_i,  m_i <- decay m_i + (1 - decay) sum z,  e_i = m_i / N_i

    van den Oord et al. 2017, appendix A.1, with counts and sums over all ranks. Beyond the paper: k-means on
    the first batch, and revival of dead codes, which resets codes and averages to random tokens of the batch.
    Tokens that are not finite are excluded from the statistics.

    Under `torch.compile`, `prepare` and `learn` are one graph operation each.

    Args:
        num_codebooks: G.
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
        config: settings of the update rule; None uses the defaults.
    """

    kind = "ema"
    counts: Tensor
    sums: Tensor
    missed: Tensor
    steps: Tensor

    def __init__(
        self, num_codebooks: int, num_codes: int, code_dim: int, config: EMACodebookConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config or EMACodebookConfig()
        bound = math.sqrt(3 / code_dim)
        codes = torch.empty(num_codebooks, num_codes, code_dim).uniform_(-bound, bound)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes))
        self.register_buffer("sums", torch.zeros(num_codebooks, num_codes, code_dim))
        self.register_buffer("missed", torch.zeros(num_codebooks, num_codes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # Not a buffer, so that `.to(device)` leaves it on the CPU. A tensor, because graph operations can
        # update it, while a graph would be recompiled for each value of a Python number.
        self._host_steps = torch.zeros((), dtype=torch.int64, device="cpu")

    @property
    def step(self) -> int:
        """Number of batches learned from; reading it needs no device synchronisation."""
        return int(self._host_steps)

    @step.setter
    def step(self, step: int) -> None:
        self.steps.fill_(step)
        self._host_steps.fill_(step)

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """On the first batch, initialise the codes by k-means over the tokens of all ranks."""
        call = _prepare_opaque if _is_compiled() else _prepare
        call(tokens, *self._averages(), *self._settings())

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> None:
        """None: the moving averages replace the second term of the paper's loss."""
        return None

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """Copy the code of each index; the copy keeps its values when the codes are updated.

        A compiler might otherwise repeat the look-up for the gradient, after the update.
        """
        call = _look_up_opaque if _is_compiled() else look_up
        return call(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Update the averages, and revive dead codes every `revive_every` steps."""
        call = _learn_opaque if _is_compiled() else _learn
        call(tokens, indices, *self._averages(), *self._settings())

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        if not self.steps.is_meta:
            self._host_steps.copy_(self.steps)

    def _averages(self) -> Averages:
        return Averages(self.codes, self.counts, self.sums, self.missed, self.steps, self._host_steps)

    def _settings(self) -> tuple[float, float, bool, int, float, int, int]:
        """The settings in the order of their class, as arguments of a graph operation."""
        c = self.config
        return c.decay, c.epsilon, c.data_init, c.init_iterations, c.revive_after, c.revive_every, c.seed


@torch.no_grad()
def _prepare(tokens: Float[Tensor, "g n d"], *averages_and_settings: Any) -> None:
    """`EMACodebook.prepare`, with arguments suited to a graph operation."""
    averages, config = _unpacked(averages_and_settings)
    if int(averages.host_steps) != 0:
        return
    if config.data_init:
        num_codes = averages.codes.shape[1]
        codes, counts = cluster(tokens, num_codes, config.init_iterations, config.seed)
        averages.codes.copy_(codes)
        # An unused code starts with a weight far below one token, so that its first tokens dominate it.
        averages.counts.copy_(counts.clamp_min(1e-2))
        averages.sums.copy_(codes * averages.counts.unsqueeze(2))
    else:
        # As if each code had been chosen once; a code that is never chosen decays to zero with its count.
        averages.counts.fill_(1)
        averages.sums.copy_(averages.codes)


@torch.no_grad()
def _learn(
    tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"], *averages_and_settings: Any
) -> None:
    """`EMACodebook.learn`, with arguments suited to a graph operation."""
    averages, config = _unpacked(averages_and_settings)
    sums, counts = statistics(tokens, indices, averages.codes.shape[1])
    averages.counts.lerp_(counts.to(averages.counts), 1 - config.decay)
    averages.sums.lerp_(sums.to(averages.sums), 1 - config.decay)
    even_share = counts.mean(1, keepdim=True)
    averages.missed.copy_(torch.where(counts > 0, 0, averages.missed + even_share))
    averages.steps.add_(1)
    averages.host_steps.add_(1)
    step = int(averages.host_steps)
    if config.revive_after and step % config.revive_every == 0:
        _revive(averages, config, tokens, even_share, step)
    # e = m / N with Laplace-smoothed counts; the stored counts stay unsmoothed.
    total = averages.counts.sum(1, keepdim=True)
    num_codes = averages.counts.shape[1]
    smoothed = (averages.counts + config.epsilon) / (total + num_codes * config.epsilon) * total
    averages.codes.copy_(averages.sums / smoothed.clamp_min(1e-12).unsqueeze(2))


def _revive(
    averages: Averages,
    config: EMACodebookConfig,
    tokens: Float[Tensor, "g n d"],
    even_share: Float[Tensor, "g 1"],
    step: int,
) -> None:
    """Set dead codes to random tokens, and their averages to an even share of these."""
    dead = averages.missed >= config.revive_after
    # Equal on every rank, because the statistics are.
    if not dead.any():
        return
    drawn = draw_tokens(tokens, averages.codes.shape[1], config.seed, salt=step)
    averages.counts.copy_(torch.where(dead, even_share, averages.counts))
    averages.sums.copy_(torch.where(dead.unsqueeze(2), drawn * even_share.unsqueeze(2), averages.sums))
    averages.missed.copy_(torch.where(dead, 0, averages.missed))


AVERAGES = "Tensor(a!) codes, Tensor(b!) counts, Tensor(c!) sums, Tensor(d!) missed"
SETTINGS = (
    "float decay, float epsilon, bool data_init, int init_iterations, float revive_after, int revive_every, "
    "int seed"
)
_prepare_opaque = torch.library.custom_op(
    "smalti::prepare_codebook",
    _prepare,
    mutates_args=Averages._fields[:-2],
    schema=f"(Tensor tokens, {AVERAGES}, Tensor steps, Tensor host_steps, {SETTINGS}) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)
_learn_opaque = torch.library.custom_op(
    "smalti::learn_codebook",
    _learn,
    mutates_args=Averages._fields,
    schema=(
        f"(Tensor tokens, Tensor indices, {AVERAGES}, Tensor(e!) steps, Tensor(f!) host_steps, {SETTINGS})"
        " -> ()"
    ),
    tags=(torch.Tag.cudagraph_unsafe,),
)
_look_up_opaque = torch.library.custom_op(
    "smalti::look_up", look_up, mutates_args=(), schema="(Tensor codes, Tensor indices) -> Tensor"
)


@_look_up_opaque.register_fake
def _shape_of_looked_up(codes: Tensor, indices: Tensor) -> Tensor:
    return codes.new_empty(*indices.shape, codes.shape[2], dtype=torch.float32)


def _unpacked(averages_and_settings: tuple[Any, ...]) -> tuple[Averages, EMACodebookConfig]:
    num = len(Averages._fields)
    averages, settings = averages_and_settings[:num], averages_and_settings[num:]
    names = (name for name in EMACodebookConfig.model_fields if name != "kind")
    # Validated when the config was created.
    config = EMACodebookConfig.model_construct(None, **dict(zip(names, settings, strict=True)))
    return Averages(*averages), config


def _is_compiled() -> bool:
    """True while the code is traced for `torch.compile`, not for `torch.export`."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()
