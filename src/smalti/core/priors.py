"""Abstract classes of autoregressive networks over codes and of priors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from smalti.core.coders import SymbolCoder
from smalti.core.conditioners import num_label_ids
from smalti.core.conditions import NO_SIZES, Conditions
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.models import Trainable
from smalti.core.registry import Registry

NO_CONDITIONS = Conditions()


class SamplingKernel(ABC):
    """A compiled sampling loop that continues from a network's state."""

    @abstractmethod
    def draw(self, uniform: Float[np.ndarray, "s b"], temperature: float = 1.0) -> Int64[np.ndarray, "s b"]:
        """Draw the next S symbols of each item by inverting their cumulative distributions.

        Args:
            uniform: numbers in [0, 1), one per symbol and item.
            temperature: divides the logits; 0 selects the most probable symbol.
        """


class AutoregressiveNetwork(nn.Module, ABC):
    """A network that predicts each symbol from the symbols before it and from conditions.

    `forward` computes all logits at once, for training; `step` computes them one by one through the same
    layers, for sampling. Symbols are ordered by position (row-major over the grid), and by codebook within a
    position, unless a network overrides `order`.
    """

    num_codebooks: int
    num_codes: int
    condition_sizes: Mapping[str, int] = NO_SIZES
    """Number of ids of each condition that it embeds itself, by name."""
    code_layout: object = None
    """The required `Autoencoder.code_layout`; None if any layout is valid."""

    @property
    def num_classes(self) -> int:
        """Number of labels that it distinguishes; 0 for a network that ignores labels."""
        return self.condition_sizes.get("label", 0)

    @property
    def num_actions(self) -> int:
        """Number of actions that it distinguishes; 0 for a network that ignores actions."""
        return self.condition_sizes.get("action", 0)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check that the network can model grids of this size; by default it can.

        Raises:
            InputError: if it cannot.
        """

    @abstractmethod
    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, "b g *grid k"]:
        """Compute the logits of all symbols at once; those of symbol i depend only on symbols before i."""

    @abstractmethod
    def start(self, batch_size: int, grid: Sequence[int], conditions: Conditions = ...) -> Any:
        """Create the state before the first symbol, for `step`."""

    @abstractmethod
    def step(self, previous: Int64[Tensor, " b"] | None, state: Any) -> Float[Tensor, "b k"]:
        """Compute the logits of the next symbol.

        Args:
            previous: the symbol drawn from the logits of the previous call; None in the first call.
            state: from `start`; updated in place.
        """

    def order(self, grid: Sequence[int]) -> Int64[Tensor, " symbols"] | None:
        """Return the flat index, position * G + codebook, of the first, second, ... symbol to draw.

        None stands for the default order: by position, and by codebook within a position.
        """
        return None

    def skip(self, codes: Int64[Tensor, "b g *first"], state: Any) -> None:
        """Set the first part of the grid to given codes; pass their last symbol to the next `step`.

        Args:
            codes: the beginning of the grid along its first axis, of full size along the others.
            state: from `start`, before any step; updated in place.
        """
        previous = None
        for symbol in codes.flatten(2).transpose(1, 2).flatten(1).unbind(1):
            self.step(previous, state)
            previous = symbol

    def kernel(self, state: Any) -> SamplingKernel | None:
        """Return a compiled sampling loop for a fresh state, or None if there is none.

        It computes the same logits as `step`, up to the order of sums.
        """
        return None


class NetworkConfig(Configuration):
    """Settings of an autoregressive network over codes; each subclass has a `kind: Literal[...]`."""

    @abstractmethod
    def build(
        self, num_codes: int, num_codebooks: int = 1, conditions: Mapping[str, int] | None = None
    ) -> AutoregressiveNetwork:
        """Build the untrained network.

        Args:
            num_codes: number K of codes in each codebook.
            num_codebooks: number G of codes per position.
            conditions: number of ids of each id condition of the data, by name (`label`, `action`, ...). A
                network embeds those that it knows, and ignores the others.

        Raises:
            InputError: if it cannot predict such codes.
        """

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of the network's constructor: all settings except the kind."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}


NETWORKS = Registry("network", NetworkConfig, "smalti.autoregressive")

AnyNetwork = Annotated[NetworkConfig, NETWORKS]


class Prior(nn.Module, ABC):
    """A distribution over code grids that can be sampled."""

    name: str
    """Name in reports and on the command line."""
    is_causal: bool = False
    """True if `inpaint` conditions each code only on those before it, instead of on all that are kept."""
    condition_sizes: Mapping[str, int] = NO_SIZES
    """Number of ids of each condition that it embeds itself, by name."""

    @property
    def num_labels(self) -> int:
        """Number of labels that it, its parts or its conditioners distinguish; 0 if it reads none."""
        embedded = (getattr(part, "condition_sizes", NO_SIZES).get("label", 0) for part in self.modules())
        return max(*embedded, num_label_ids(self))

    @abstractmethod
    def sample(
        self,
        num: int,
        conditions: Conditions = ...,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Sample code grids.

        Args:
            num: number B of grids.
            conditions: conditions of the grids, such as labels.
            temperature: divides the logits; 0 selects the most probable code.
            top_k: draw only from the k most probable codes; None for no limit.
            top_p: draw only from the most probable codes with this total probability; None for no limit.
            generator: random generator of the draws.
        """

    def sample_grids(
        self,
        num: int,
        conditions: Conditions,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        grid: Sequence[int] | None = None,
        given: Int64[Tensor, "b g *first"] | None = None,
        guidance: float = 1.0,
    ) -> Int64[Tensor, "b g *grid"]:
        """Sample grids of another size, that continue given codes, or with guidance; by default, none of it.

        Args:
            num, conditions, temperature, top_k, top_p, generator: as in `sample`.
            progress: called with (symbols drawn, total symbols), by priors that report it.
            grid: size to draw; None for the prior's own.
            given: the first part of each grid along its first axis, which sampling continues.
            guidance: see `inpaint`.

        Raises:
            InputError: if the prior cannot draw such grids.
        """
        if guidance != 1:
            raise InputError(
                f"expected a prior with classifier-free guidance, received {self.name!r}, which has none: "
                "use an autoregressive or masked prior, or leave the guidance out"
            )
        if given is not None:
            raise InputError(
                f"expected a prior that continues given codes, received {self.name!r}, which draws whole "
                "grids only: use an autoregressive prior, or draw without given codes"
            )
        if grid is not None:
            raise InputError(
                f"expected no other length for the prior {self.name!r}, which draws grids of one size, "
                f"received {'x'.join(map(str, grid))}: leave the length out"
            )
        return self.sample(num, conditions, temperature, top_k, top_p, generator)

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
        """Draw some of the codes of grids given the others; by default, a prior cannot.

        An autoregressive prior draws each code given those before it only.

        Args:
            codes: int64 `(B, G, *grid)`, of any value where they are drawn.
            keep: bool `(B, G, *grid)`, True for the codes that stay.
            conditions, temperature, top_k, top_p, generator: as in `sample`.
            guidance: weight w of classifier-free guidance: codes are drawn from the logits
                l(none) + w (l(conditions) - l(none)). 1 is no guidance; only id conditions are guided.
            progress: called with (codes drawn, total codes).

        Raises:
            InputError: if the prior cannot, or settings are out of range.
        """
        raise InputError(
            f"expected a prior that draws a part of a grid, received {self.name!r}, which does not: use an "
            "autoregressive one, or a masked one, which sees all of the rest"
        )

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
        """Draw the codes that are not kept, and yield the grids as they fill; by default, all at once.

        Args:
            codes, keep, conditions, temperature, top_k, top_p, generator, guidance: as in `inpaint`. If no
                code is kept, whole grids are drawn, as in `sample_grids`.

        Yields:
            The codes, 0 where they are hidden, and which of them are hidden: first all that are not kept,
            at last none.

        Raises:
            InputError: if the prior cannot draw such grids, or settings are out of range.
        """
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != codes.shape:
            raise InputError(
                f"expected a bool tensor of the shape of the codes, {tuple(codes.shape)}, received {keep!r}: "
                "pass what is kept of each code"
            )
        hidden = ~keep
        yield codes.masked_fill(hidden, 0), hidden
        settings = (temperature, top_k, top_p, generator)
        if keep.any():
            drawn = self.inpaint(codes, keep, conditions, *settings, guidance=guidance)
        else:
            grid = tuple(codes.shape[2:])
            other = None if grid == getattr(self, "grid", grid) else grid
            # A prior without guidance need not know the setting.
            guided: dict[str, Any] = {} if guidance == 1 else {"guidance": guidance}
            drawn = self.sample_grids(len(codes), conditions, *settings, grid=other, **guided)
        if drawn.shape != codes.shape:
            raise InputError(
                f"expected codes of shape {tuple(drawn.shape)}, as the prior {self.name!r} draws them, "
                f"received {tuple(codes.shape)}: pass codes of that shape"
            )
        yield drawn.to(codes.device), torch.zeros_like(hidden)


MOST_GUIDANCE = 1_000
"""Maximum weight of guidance; logits times a weight must stay finite."""
DROPOUTS = {"label": "label_dropout", "action": "action_dropout"}
"""Names of the settings of networks that say which share of these conditions training hides."""


def check_guidance(guidance: float, conditions: Conditions, network: nn.Module) -> float:
    """Check the weight of classifier-free guidance of a network.

    Args:
        guidance: the weight; 1 for none.
        conditions: of the draws.
        network: whose parts may have a `config` with the share of the conditions that training hides.

    Raises:
        InputError: if it is no number from 0 to `MOST_GUIDANCE`, no id is given, or training never hid
            labels.
    """
    if isinstance(guidance, bool) or not isinstance(guidance, Real) or not 0 <= guidance <= MOST_GUIDANCE:
        raise InputError(
            f"expected a guidance from 0 to {MOST_GUIDANCE:,}, received {guidance!r}: pass a number such as 2"
        )
    if guidance == 1:
        return 1.0
    given = [name for name, value in conditions.items() if value.is_ids and value.is_given]
    if not given:
        raise InputError(
            f"expected a class, actions or another id condition for a guidance of {guidance:g}, received "
            "none: pass one, or leave the guidance out"
        )
    settings = [DROPOUTS.get(name, "dropout") for name in given]
    hidden = [
        getattr(part.config, name)
        for part in network.modules()
        for name in settings
        if hasattr(getattr(part, "config", None), name) and (name != "dropout" or hasattr(part, "num_ids"))
    ]
    if hidden and not any(hidden):
        raise InputError(
            f"expected a prior whose training hid some of its conditions for guidance, received one with "
            f"{settings[0]}=0: train it with {settings[0]}=0.1, or leave the guidance out"
        )
    return float(guidance)


class DensityPrior(Prior):
    """A prior with known probabilities, so that it can be used in bounds on ln p(x)."""

    @abstractmethod
    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, " b"]:
        """Compute ln p(codes | conditions) of each item, in nats, summed over positions and codebooks."""

    def code(
        self, codes: Int64[Tensor, "b g *grid"], coder: SymbolCoder, conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Pass every code to an entropy coder, with its probabilities given the codes before it.

        Args:
            codes: known to an encoder; a decoder sets them in place.
            coder: encodes or decodes them.
            conditions: of the items.

        Raises:
            InputError: if the prior does not define such probabilities, as by default.
        """
        raise InputError(
            f"expected a prior that predicts codes one after another, received {self.name!r}, which does "
            "not: compress with the prior uniform or unigram, or an autoregressive one; or define `code`"
        )


class TrainablePrior(Prior, Trainable):
    """A prior that is trained on codes: its `loss` takes batches whose data is int64 `(B, G, *grid)`.

    Items may be shorter than the grid along the first axis: their padding begins at `batch.lengths`, and the
    loss ignores it. A class that is also a `DensityPrior` has a rate in bits/dim.
    """

    grid: tuple[int, ...]
    """Size of the grids that it is trained on; the first axis is the length of the training crops of items
    that differ in length."""
    code_layout: object = None
    """The required `Autoencoder.code_layout`; None if any layout is valid."""
    score: str = "loss"
    """The term of the loss that validation compares, "loss" for the total; less is better."""

    def item_bytes(self) -> int:
        """Return the memory that one item of a batch takes at least in training, bytes; 0 if unknown."""
        return 0
