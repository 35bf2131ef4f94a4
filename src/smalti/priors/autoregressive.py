"""Learned priors: autoregressive networks over code grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from smalti.autoregressive.guidance import GuidedNetwork
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import code, fill, sample
from smalti.core.arguments import check_grid
from smalti.core.coders import SymbolCoder
from smalti.core.conditioners import check_described, check_prior_conditions, readable_conditions
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.pretrained import Pretrained, settings_of
from smalti.core.priors import (
    NETWORKS,
    AnyNetwork,
    AutoregressiveNetwork,
    DensityPrior,
    TrainablePrior,
    check_guidance,
)
from smalti.core.results import Loss
from smalti.core.units import bits_per_dim
from smalti.nn.collectives import mean_over_ranks
from smalti.nn.symbols import check_kept
from smalti.priors.base import PRIORS, PriorConfig
from smalti.priors.uniform import NO_CONDITIONS

PADDING = -100
"""Target value of padded positions, which the loss ignores."""
STAGES = 16
"""Parts in which a grid is shown as it fills."""


@final
class LearnedPrior(TrainablePrior, DensityPrior, Pretrained):
    """An autoregressive network over the frozen codes of a trained autoencoder.

    Args:
        network: predicts each code from the previous ones.
        grid: size of the code grid.
        name: name in reported results.

    Raises:
        InputError: if the network cannot model such a grid.
    """

    score = "bits_per_code"
    is_causal = True

    def __init__(self, network: AutoregressiveNetwork, grid: Sequence[int], name: str = "learned") -> None:
        super().__init__()
        self.network, self.grid, self.name = network, check_grid(grid), name
        network.check_grid(self.grid)
        self.code_layout = network.code_layout

    def settings(self) -> dict[str, Any]:
        """The network's config, sizes and conditions, and the grid."""
        network = self.network
        check_described(network)
        return {
            "network": settings_of(network),
            "num_codes": network.num_codes,
            "num_codebooks": network.num_codebooks,
            "conditions": dict(network.condition_sizes),
            "grid": list(self.grid),
            "name": self.name,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> LearnedPrior:
        """Build the untrained prior."""
        names = ("num_codes", "num_codebooks", "conditions")
        network = NETWORKS.parse(settings["network"]).build(**{name: settings[name] for name in names})
        return cls(network, settings["grid"], settings["name"])

    @property
    def local_channels(self) -> int:
        """Channels of the network's local condition; 0 for a network without one."""
        return getattr(self.network, "local_channels", 0)

    def item_bytes(self) -> int:
        """Return the size of the logits of one item in half precision, bytes."""
        return 2 * self.network.num_codebooks * math.prod(self.grid) * self.network.num_codes

    def loss(self, batch: Batch) -> Loss:
        """Mean cross-entropy per code in nats; `batch.data` holds codes `(B, G, *grid)`."""
        codes = batch.data.long()
        logits = self.network(codes, batch.conditions)
        if batch.lengths is not None:
            # Each item is weighted by its number of codes; padding is excluded.
            beyond = torch.arange(codes.shape[2], device=codes.device) >= batch.lengths.unsqueeze(1)
            codes = codes.masked_fill(beyond.view(len(codes), 1, -1, *(1,) * (codes.ndim - 3)), PADDING)
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), codes.flatten(), ignore_index=PADDING, reduction="sum"
        )
        # In training, the items of the ranks differ in length.
        count = (codes != PADDING).sum().float()
        loss = nats / (mean_over_ranks(count) if self.training else count)
        return Loss(total=loss, terms={"bits_per_code": bits_per_dim(loss.detach(), 1)})

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """Sum over positions and codebooks of ln p(code | previous codes, conditions), nats.

        A clip with more frames than the prior's training grid is scored in independent segments of that many
        frames, because a network with full attention would see positions that it never learned.
        """
        if codes.ndim > 3 and codes.shape[2] > self.grid[0]:
            parts = codes.split(self.grid[0], 2)
            frames = (slice(i * self.grid[0], (i + 1) * self.grid[0]) for i in range(len(parts)))
            # Others may not be one per frame of codes, such as actions of frames that share a code.
            read = conditions.only(*readable_conditions(self.network))
            each = [(part, read.frames(of, codes.shape[2])) for part, of in zip(parts, frames, strict=True)]
            return torch.stack([self.log_prob(part, own) for part, own in each]).sum(0)
        logits = self.network(codes, conditions).float()
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none")
        return -nats.view(len(codes), -1).sum(1)

    def code(
        self, codes: Int64[Tensor, "b g *grid"], coder: SymbolCoder, conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Code the codes by the cached step of the network; segments of long clips as in `log_prob`."""
        if codes.ndim <= 3 or codes.shape[2] <= self.grid[0]:
            code(self.network, codes, coder, conditions)
            return
        read = conditions.only(*readable_conditions(self.network))
        for begin in range(0, codes.shape[2], self.grid[0]):
            part = codes[:, :, begin : begin + self.grid[0]]
            own = read.frames(slice(begin, begin + self.grid[0]), codes.shape[2])
            code(self.network, part, coder, own)

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
        """Sample grids with the cached sampling loop.

        Args:
            num: number of grids B.
            conditions: of each grid.
            temperature, top_k, top_p: of each draw.
            generator: of the draws.
            progress: called with (symbols drawn, total symbols).
            grid: size to draw; None for the size that the prior was trained on.
            given: int64 `(B, G, *first)`, the first part of each grid, which sampling continues.
            guidance: see `Prior.inpaint`; other than 1, each step takes at least twice the time.

        Raises:
            InputError: for a condition that the network does not read, or settings out of range.
        """
        return sample(
            self._guided(guidance, conditions),
            num,
            grid or self.grid,
            conditions,
            temperature,
            top_k,
            top_p,
            generator,
            progress,
            given=given,
        )

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
        """Draw the codes that are not kept, each given the codes before it, not those after it.

        See `Prior.inpaint`, and `smalti.autoregressive.sampling.fill`.

        Raises:
            InputError: for a condition that the network does not read, or settings or codes out of range.
        """
        check_kept(codes, keep, len(self.grid))
        if codes.shape[1] != self.network.num_codebooks:
            raise InputError(
                f"expected codes of {self.network.num_codebooks} codebooks, received shape "
                f"{tuple(codes.shape)}: pass (B, G, *grid)"
            )
        settings = (temperature, top_k, top_p, generator, progress)
        if not keep.any():
            grid = tuple(codes.shape[2:])
            return self.sample(len(codes), conditions, *settings, grid=grid, guidance=guidance)
        return fill(self._guided(guidance, conditions), codes, keep, conditions, *settings)

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
        """Draw the codes that are not kept, and yield them in their order, in about `STAGES` parts.

        See `Prior.stages`. The loop may be compiled, so all codes are drawn before the first ones are shown.
        """
        check_kept(codes, keep, len(self.grid))
        yield codes.masked_fill(~keep, 0), ~keep
        settings = (temperature, top_k, top_p, generator)
        drawn = self.inpaint(codes, keep, conditions, *settings, guidance=guidance).to(codes.device)
        order = self.network.order(codes.shape[2:])
        # In the layout of `order`: by position, and by codebook within it.
        hidden = (~keep).movedim(1, -1).flatten(1)
        places = torch.arange(hidden.shape[1]) if order is None else order.cpu()
        places = places[hidden.any(0).cpu()[places]]
        for part in places.split(max(1, math.ceil(len(places) / STAGES))):
            hidden[:, part] = False
            left = hidden.view(len(codes), *codes.shape[2:], codes.shape[1]).movedim(-1, 1)
            yield drawn.masked_fill(left, 0), left.clone()

    def _guided(self, guidance: float, conditions: Conditions) -> AutoregressiveNetwork:
        """Return the network that draws with this guidance, after a check of it and of the conditions."""
        check_prior_conditions(conditions, self.network)
        weight = check_guidance(guidance, conditions, self.network)
        return self.network if weight == 1 else GuidedNetwork(self.network, weight)


@PRIORS.register
class AutoregressivePriorConfig(PriorConfig):
    """Settings of a `LearnedPrior`.

    Attributes:
        length: number of codes per training chunk, for items that differ in length; None for the number of a
            training crop.
        network: the autoregressive network.
    """

    kind: Literal["autoregressive"] = "autoregressive"
    length: int | None = Field(default=None, ge=1)
    network: AnyNetwork = GatedPixelCNNConfig()

    def build(
        self,
        num_codes: int,
        num_codebooks: int,
        grid: Sequence[int],
        conditions: Mapping[str, int] | None = None,
    ) -> LearnedPrior:
        """Build the untrained prior; see `PriorConfig.build`."""
        network = self.network.build(num_codes, num_codebooks, conditions)
        return LearnedPrior(network, grid if self.length is None else (self.length, *grid[1:]))
