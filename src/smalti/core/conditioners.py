"""Conditioners: modules that condition the activations of a network on a named condition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, TypeGuard, cast, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions, ConditionValue
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.registry import Registry


class Conditioner(nn.Module, ABC):
    """Maps activations `(B, C, *grid)` and the value of a condition to activations of the same shape.

    Each position is conditioned independently of the others, so an autoregressive network stays causal, and
    its cached step can apply the conditioner to a single position.
    """

    num_ids: int = 0
    """Number of ids that it distinguishes if it can read one id per item; the cost of a label is its ln."""

    @abstractmethod
    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Any:
        """Compute everything that does not depend on the activations, once for all positions and layers.

        The result depends on every parameter that it uses for a given value, also if there is no value:
        data-parallel training expects a gradient of every parameter at every step.

        Args:
            value: value of the condition; None if the batch does not have it.
            batch_size: B.
            grid: grid of the activations.
            hide: whether to drop the condition for a random share of the items, as in training.

        Raises:
            InputError: if the value is of the wrong kind, size or range.
        """

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Any, position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Condition the activations of the whole grid, or of one position.

        Args:
            x: activations, `(B, C, *grid)`, or `(B, C)` for one position.
            prepared: result of `prepare`.
            position: row-major index in the grid; None for the whole grid.
        """


class ConditionerConfig(Configuration):
    """Settings of a conditioner; each subclass has a `kind: Literal[...]`."""

    @abstractmethod
    def build(self, channels: int) -> Conditioner:
        """Build the untrained conditioner for activations with this number of channels."""


CONDITIONERS = Registry("conditioner", ConditionerConfig, "smalti.conditioners")

AnyConditioner = Annotated[ConditionerConfig, CONDITIONERS]
ConditionName = Annotated[str, Field(pattern=r"^[^.=\s]+$")]


class ConditionedConfig(Configuration):
    """Settings of a part with conditioners; the config of such a part inherits from it.

    Attributes:
        conditioners: settings of the conditioner of each condition, by the condition's name.
    """

    conditioners: dict[ConditionName, AnyConditioner] = Field(default_factory=dict)

    def build_conditioners(self, channels: int) -> dict[str, Conditioner]:
        """Build the untrained conditioners for activations with this number of channels."""
        return {name: config.build(channels) for name, config in self.conditioners.items()}


@final
class Conditioners(nn.Module):
    """The conditioners of a network, applied in order.

    Conditions without a conditioner are ignored, since data may have more columns than a model reads.

    Args:
        conditioners: conditioner of each condition, by the condition's name.

    Raises:
        InputError: for a name that cannot name a submodule, or a module that is no `Conditioner`.
    """

    def __init__(self, conditioners: Mapping[str, Conditioner] | None = None) -> None:
        super().__init__()
        self.by_name = nn.ModuleDict()
        for name, module in (conditioners or {}).items():
            if hasattr(self.by_name, name) or not name or "." in name:
                raise InputError(
                    f"expected a condition name without dots that is no attribute of a torch.nn.ModuleDict, "
                    f"received {name!r}: rename the condition"
                )
            if not isinstance(module, Conditioner):
                raise InputError(
                    f"expected a Conditioner for {name!r}, received a {type(module).__name__}: inherit from "
                    "smalti.Conditioner"
                )
            self.by_name[name] = module

    def __len__(self) -> int:
        return len(self.by_name)

    def configs(self) -> dict[str, ConditionerConfig]:
        """Settings of the conditioners that have a config, by condition name."""
        found = {name: getattr(module, "config", None) for name, module in self.by_name.items()}
        return {name: config for name, config in found.items() if isinstance(config, ConditionerConfig)}

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return tuple(self.by_name)

    def prepare(
        self, conditions: Conditions | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> dict[str, Any]:
        """Call `Conditioner.prepare` of each conditioner; return the results by condition name."""
        values = conditions or Conditions()
        return {
            name: cast("Conditioner", module).prepare(values.get(name), batch_size, grid, hide)
            for name, module in self.by_name.items()
        }

    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Mapping[str, Any], position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Apply each conditioner in turn; see `Conditioner.forward`."""
        for name, module in self.by_name.items():
            x = module(x, prepared[name], position)
        return x


SUPPLIED = frozenset({"voice", "local"})
"""Conditions that a model computes itself, so that data need not have them."""


def condition_names(module: nn.Module) -> frozenset[str]:
    """Names of the conditions that a module reads through conditioners.

    A part that reads conditions in another way lists them in an attribute `condition_names`.
    """
    return frozenset(name for part in module.modules() for name in getattr(part, "condition_names", ()))


def undescribed_conditioners(module: nn.Module) -> list[str]:
    """Names of the conditions inside a module whose conditioner its config does not describe."""
    found = []
    for part in module.modules():
        own, config = getattr(part, "conditioners", None), getattr(part, "config", None)
        if isinstance(own, Conditioners):
            described = config.conditioners if isinstance(config, ConditionedConfig) else {}
            built = own.configs()
            found += [name for name in own.by_name if name not in built or described.get(name) != built[name]]
    return found


def check_described(module: nn.Module) -> None:
    """Check that a module can be saved: that its config describes its conditioners.

    Raises:
        InputError: if it does not.
    """
    if names := undescribed_conditioners(module):
        raise InputError(
            f"expected conditioners with a registered config, received one of {names[0]!r} without: save "
            "the state_dict() yourself, or register a config of that class and keep it as its `config`"
        )


def check_data_conditions(module: nn.Module, available: Collection[str]) -> None:
    """Check that data has every condition that the conditioners of a model read.

    Args:
        module: the model.
        available: names of the conditions of the data.

    Raises:
        InputError: if one is missing.
    """
    missing = sorted(condition_names(module) - SUPPLIED - set(available))
    if missing:
        raise InputError(
            f"expected data with the condition {missing[0]!r}, which the model reads, received data with "
            f"{_listed(available)}: add that column to the data, or build the model without its conditioner"
        )


def readable_conditions(module: nn.Module) -> frozenset[str]:
    """Names of all conditions that a model, or a network over codes, can be given."""
    known = set(condition_names(module))
    # Ids reach nested parts (a decoder, a likelihood, its network); a local condition of a nested network is
    # computed from latents.
    for part in module.modules():
        known.update(getattr(part, "condition_sizes", ()))
    return frozenset(known | {"local"} if getattr(module, "local_channels", 0) else known)


def num_label_ids(module: nn.Module) -> int:
    """Number of labels that the conditioners inside a module distinguish; 0 if none reads label ids."""
    found = [part.by_name["label"] for part in module.modules() if _reads_labels(part)]
    return max((cast("Conditioner", each).num_ids for each in found), default=0)


def _reads_labels(part: nn.Module) -> TypeGuard[Conditioners]:
    return isinstance(part, Conditioners) and "label" in part.by_name


def check_given_conditions(given: Collection[str], *modules: nn.Module) -> None:
    """Check that every condition that a caller passes for decoding or sampling is read.

    Args:
        given: names of the conditions.
        modules: models or networks, of which one must read it.

    Raises:
        InputError: if a name is unknown to all of them.
    """
    known = frozenset[str]().union(*map(readable_conditions, modules))
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(
            f"expected conditions that the model reads ({_listed(known)}), received {unknown[0]!r}: leave it "
            "out, or correct the name"
        )


def check_prior_conditions(given: Collection[str], network: nn.Module) -> None:
    """Check that a network over codes reads every condition that it is sampled with.

    Raises:
        InputError: if it does not.
    """
    if "label" in given and "label" not in readable_conditions(network):
        raise InputError("expected no class for a prior without classes, received labels: leave --class out")
    check_given_conditions(given, network)


def shared_conditions(given: Conditions, *modules: nn.Module) -> list[Conditions]:
    """For each module, the conditions that it can be given.

    Args:
        given: each is of at least one of the modules.
        modules: models or networks.

    Raises:
        InputError: if a condition is unknown to all of them.
    """
    check_given_conditions(given, *modules)
    return [given.only(*readable_conditions(module)) for module in modules]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
