"""A masked prior: it predicts hidden codes from visible ones, and draws a grid in a few rounds (MaskGIT).

Source: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer" (arXiv 2202.04200).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.sampling import draw_codes
from smalti.core.arguments import check_count, check_draws, check_grid
from smalti.core.conditioners import (
    ConditionedConfig,
    Conditioner,
    Conditioners,
    check_described,
    check_prior_conditions,
)
from smalti.core.conditions import Batch, Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.pretrained import Pretrained
from smalti.core.priors import TrainablePrior, check_guidance
from smalti.core.results import Loss
from smalti.core.units import bits_per_dim
from smalti.nn.attention import GridTransformer
from smalti.nn.collectives import mean_over_ranks, rand_over_ranks
from smalti.nn.symbols import check_codes, check_counts, check_kept, hide_labels, label_indices
from smalti.priors.base import PRIORS, PriorConfig
from smalti.priors.uniform import NO_CONDITIONS

INITIAL_STD = 0.02


@final
class MaskedPrior(TrainablePrior, Pretrained):
    """Bidirectional transformer over a grid of codes, some of them hidden.

    In training, a share cos(pi u / 2) of the codes of each item is hidden, with u uniform in [0, 1), and the
    loss is the cross-entropy of the hidden ones. A grid is drawn in `rounds` passes of the network: each
    draws all hidden codes and keeps the most certain of them, so that a share cos(pi t / 2T) is hidden after
    round t of T. It has no probabilities of whole grids, so no rate in bits/dim.

    Args:
        num_codes: number K of codes in each codebook.
        num_codebooks: number G of codes per position; each is hidden by itself.
        grid: size of the grids of the training; others can be drawn too.
        conditions: number of ids of each id condition of the data, by name; the prior embeds `label`.
        channels: channels of every layer.
        layers: number of transformer blocks.
        heads: of the attention; None for one head per 64 channels.
        rounds: passes of the network for a grid, T.
        certainty_noise: scale of Gumbel noise that is added to ln p of the drawn codes before the most
            certain are chosen, falling to 0 in the last round; without noise, grids are less diverse.
        label_dropout: share of the labels that training hides; guidance needs some.
        conditioners: modules for the embedded codes, by the name of the condition that each reads.

    Raises:
        InputError: for sizes out of range, or heads that do not divide the channels.
    """

    score = "bits_per_hidden_code"

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        grid: Sequence[int] = (8, 8),
        conditions: Mapping[str, int] | None = None,
        *,
        channels: int = 256,
        layers: int = 8,
        heads: int | None = None,
        rounds: int = 12,
        certainty_noise: float = 4.5,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
        name: str = "learned",
    ) -> None:
        super().__init__()
        check_counts(num_codes, num_codebooks)
        self.num_codes, self.num_codebooks, self.name = num_codes, num_codebooks, name
        self.grid = check_grid(grid)
        self.condition_sizes = id_sizes(conditions, "label")
        self.conditioners = Conditioners(conditioners)
        self.config = MaskedPriorConfig(
            channels=channels,
            layers=layers,
            heads=heads,
            rounds=rounds,
            certainty_noise=certainty_noise,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        # The last row of each codebook stands for a hidden code.
        self.embeddings = nn.Parameter(torch.empty(num_codebooks, num_codes + 1, channels))
        self.label = nn.Embedding(self.num_classes + 1, channels)
        self.transformer = GridTransformer(channels, layers, heads)
        self.head_weights = nn.Parameter(torch.empty(num_codebooks, num_codes, channels))
        self.head_biases = nn.Parameter(torch.zeros(num_codebooks, num_codes))
        for table in (self.embeddings, self.label.weight, self.head_weights):
            nn.init.normal_(table, std=INITIAL_STD)

    @property
    def num_classes(self) -> int:
        """Number of labels that it embeds; 0 if there are none."""
        return self.condition_sizes.get("label", 0)

    def settings(self) -> dict[str, Any]:
        """The config, sizes and conditions."""
        check_described(self)
        return {
            "config": self.config.model_dump(mode="json", exclude={"training"}),
            "num_codes": self.num_codes,
            "num_codebooks": self.num_codebooks,
            "conditions": dict(self.condition_sizes),
            "grid": list(self.grid),
            "name": self.name,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> MaskedPrior:
        """Build the untrained prior."""
        config = MaskedPriorConfig.model_validate(settings["config"])
        names = ("num_codes", "num_codebooks", "grid", "conditions")
        prior = config.build(**{name: settings[name] for name in names})
        prior.name = settings["name"]
        return prior

    def item_bytes(self) -> int:
        """Return the size of the logits of one item in half precision, bytes."""
        return 2 * self.num_codebooks * math.prod(self.grid) * self.num_codes

    def logits(
        self,
        codes: Int64[Tensor, "b g *grid"],
        hidden: Bool[Tensor, "b g *grid"],
        conditions: Conditions = NO_CONDITIONS,
        lengths: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b g *grid k"]:
        """Compute the logits of every code given the visible ones.

        Args:
            codes: of any value where they are hidden.
            hidden: True for the codes that the network does not see.
            conditions: of each item; training hides some labels (`label_dropout`).
            lengths: of each item along the first axis, for items with padding; None without.

        Raises:
            InputError: if a visible code or a label is out of range.
        """
        seen = codes.masked_fill(hidden, 0)
        check_codes(seen, self.num_codebooks, self.num_codes)
        labels = label_indices(conditions, len(codes), self.num_classes, codes.device)
        if self.training:
            labels = hide_labels(labels, self.config.label_dropout, self.num_classes)
        symbols = seen.masked_fill(hidden, self.num_codes)
        embedded = [
            F.embedding(each, table) for each, table in zip(symbols.unbind(1), self.embeddings, strict=True)
        ]
        x = torch.stack(embedded).sum(0).movedim(-1, 1)
        x = x + self.label(labels).view(*x.shape[:2], *(1,) * (x.ndim - 2))
        prepared = self.conditioners.prepare(conditions, len(codes), codes.shape[2:], hide=self.training)
        x = self.conditioners(x, prepared)
        features = self.transformer(x, None if lengths is None else _within(lengths, codes.shape))
        logits = torch.einsum("bc...,gkc->bg...k", features, self.head_weights)
        return logits + self.head_biases.view(1, -1, *(1,) * (codes.ndim - 2), self.num_codes)

    def loss(self, batch: Batch) -> Loss:
        """Mean cross-entropy per hidden code in nats; `batch.data` holds codes `(B, G, *grid)`."""
        codes = batch.data.long()
        counted = torch.ones_like(codes, dtype=torch.bool)
        if batch.lengths is not None:
            counted = _within(batch.lengths, codes.shape).expand_as(codes)
        # Only one rank validates.
        rand = rand_over_ranks if self.training else _rand
        share = torch.cos(rand((len(codes),), codes.device) * (math.pi / 2))
        number = (share * counted.flatten(1).sum(1)).ceil().long().clamp(min=1)
        # Padding comes last, so that it is never among the codes that are hidden.
        order = rand(codes.shape, codes.device).masked_fill(~counted, 2).flatten(1).argsort(1)
        hidden = (order.argsort(1) < number.unsqueeze(1)).view(codes.shape)
        logits = self.logits(codes, hidden, batch.conditions or NO_CONDITIONS, batch.lengths)
        nats = F.cross_entropy(logits[hidden], codes[hidden], reduction="sum")
        count = hidden.sum().float()
        loss = nats / (mean_over_ranks(count) if self.training else count)
        return Loss(total=loss, terms={self.score: bits_per_dim(loss.detach(), 1)})

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        grid: Sequence[int] | None = None,
        given: Int64[Tensor, "b g *first"] | None = None,
        guidance: float = 1.0,
    ) -> Int64[Tensor, "b g *grid"]:
        """Sample grids in `rounds` passes of the network.

        Args:
            num: number of grids B.
            conditions: of each grid.
            temperature, top_k, top_p: of each draw.
            generator: of the draws.
            progress: called with (codes drawn, total codes) after each round.
            grid: size to draw; None for that of the training.
            given: the first part of each grid, which is kept.
            guidance: see `Prior.inpaint`.

        Raises:
            InputError: for a condition that the prior does not read, or settings out of range.
        """
        size = check_grid(grid or self.grid)
        shape = (check_count("num", num), self.num_codebooks, *size)
        codes = torch.zeros(shape, dtype=torch.int64, device=self.head_biases.device)
        kept = torch.zeros_like(codes, dtype=torch.bool)
        if given is not None:
            fits = given.ndim == codes.ndim and given[:, :, :1].shape == codes[:, :, :1].shape
            if not fits or not 0 < given.shape[2] < size[0]:
                raise InputError(
                    f"expected the first part of grids {tuple(shape)}, received codes of shape "
                    f"{tuple(given.shape)}: pass (B, G, first, *others) with fewer positions than the grid"
                )
            codes[:, :, : given.shape[2]], kept[:, :, : given.shape[2]] = given, True
        return self.inpaint(codes, kept, conditions, temperature, top_k, top_p, generator, guidance, progress)

    sample_grids = sample

    def inpaint(
        self,
        codes: Tensor,
        keep: Tensor,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        guidance: float = 1.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw the codes that are not kept; see `Prior.inpaint`.

        Raises:
            InputError: for a condition that the prior does not read, or settings or codes out of range.
        """
        settings = (temperature, top_k, top_p, generator, guidance)
        missing = 0
        for drawn, hidden in self.stages(codes, keep, conditions, *settings):
            codes = drawn
            if progress is not None:
                left = int(hidden.flatten(1).sum(1).max())
                missing = max(missing, left)
                if left < missing:
                    progress(missing - left, missing)
        return codes

    @torch.no_grad()
    def stages(
        self,
        codes: Tensor,
        keep: Tensor,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        guidance: float = 1.0,
    ) -> Iterator[tuple[Int64[Tensor, "b g *grid"], Bool[Tensor, "b g *grid"]]]:
        """Draw the codes that are not kept, and yield them before the first round and after each.

        See `Prior.stages`.

        Raises:
            InputError: for a condition that the prior does not read, or settings or codes out of range.
        """
        check_prior_conditions(conditions, self)
        check_kept(codes, keep, len(self.grid))
        check_draws(temperature, top_k, top_p)
        guidance = check_guidance(guidance, conditions, self)
        was_training = self.training
        self.eval()
        try:
            codes, hidden = codes.masked_fill(~keep, 0), ~keep
            missing, rounds = hidden.flatten(1).sum(1), self.config.rounds
            yield codes, hidden
            for number in range(1, rounds + 1):
                logits = self._guided_logits(codes, hidden, conditions, guidance)
                drawn = draw_codes(logits.flatten(0, -2), temperature, top_k, top_p, generator)
                drawn = drawn.view(codes.shape)
                certainty = logits.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
                if temperature > 0:
                    scale = self.config.certainty_noise * (1 - number / rounds)
                    certainty = certainty + scale * _gumbel(codes.shape, generator).to(certainty)
                share = math.cos(math.pi / 2 * number / rounds) if number < rounds else 0
                chosen = _most_certain(certainty, hidden, (missing * share).long())
                codes, hidden = drawn.where(chosen, codes), hidden & ~chosen
                yield codes, hidden
                if not hidden.any():
                    break
        finally:
            self.train(was_training)

    def _guided_logits(
        self,
        codes: Int64[Tensor, "b g *grid"],
        hidden: Bool[Tensor, "b g *grid"],
        conditions: Conditions,
        guidance: float,
    ) -> Float[Tensor, "b g *grid k"]:
        logits = self.logits(codes, hidden, conditions).float()
        if guidance == 1:
            return logits
        free = self.logits(codes, hidden, conditions.unspecified()).float()
        return free + guidance * (logits - free)


def _most_certain(
    certainty: Float[Tensor, "b g *grid"], hidden: Bool[Tensor, "b g *grid"], left: Int64[Tensor, " b"]
) -> Bool[Tensor, "b g *grid"]:
    """True for the most certain of the hidden codes of each item, all but `left` of them, at least one."""
    ranks = certainty.masked_fill(~hidden, -math.inf).flatten(1)
    ranks = ranks.argsort(dim=1, descending=True, stable=True).argsort(1)
    number = (hidden.flatten(1).sum(1) - left).clamp(min=1).unsqueeze(1)
    return hidden & (ranks < number).view(hidden.shape)


def _rand(shape: Sequence[int], device: torch.device) -> Float[Tensor, ...]:
    return torch.rand(*shape, device=device)


def _gumbel(shape: Sequence[int], generator: torch.Generator | None) -> Float[Tensor, ...]:
    """Standard Gumbel noise, on the generator's device, so that a seed gives the same on every device."""
    device = generator.device if generator is not None else torch.device("cpu")
    uniform = torch.rand(*shape, generator=generator, device=device).clamp(1e-20, 1 - 1e-7)
    return -(-uniform.log()).log()


def _within(lengths: Int64[Tensor, " b"], shape: Sequence[int]) -> Bool[Tensor, "b 1 *grid"]:
    """True for positions that are no padding."""
    inside = torch.arange(shape[2], device=lengths.device) < lengths.unsqueeze(1)
    return inside.view(len(lengths), 1, -1, *(1,) * (len(shape) - 3)).expand(-1, 1, *shape[2:])


@PRIORS.register
class MaskedPriorConfig(ConditionedConfig, PriorConfig):
    """Settings of a `MaskedPrior`.

    Attributes:
        length: number of codes per training crop, for items that differ in length; None for the model's.
    """

    kind: Literal["masked"] = "masked"
    length: int | None = Field(default=None, ge=1)
    channels: int = Field(default=256, ge=2)
    layers: int = Field(default=8, ge=1)
    heads: int | None = Field(default=None, ge=1)
    rounds: int = Field(default=12, ge=1)
    certainty_noise: float = Field(default=4.5, ge=0)
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    def build(
        self,
        num_codes: int,
        num_codebooks: int,
        grid: Sequence[int],
        conditions: Mapping[str, int] | None = None,
    ) -> MaskedPrior:
        """Build the untrained prior; see `PriorConfig.build`."""
        prior = MaskedPrior(
            num_codes,
            num_codebooks,
            grid if self.length is None else (self.length, *grid[1:]),
            conditions,
            channels=self.channels,
            layers=self.layers,
            heads=self.heads,
            rounds=self.rounds,
            certainty_noise=self.certainty_noise,
            label_dropout=self.label_dropout,
            conditioners=self.build_conditioners(self.channels),
        )
        prior.config = self
        return prior
