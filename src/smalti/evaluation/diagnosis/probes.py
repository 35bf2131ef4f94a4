"""Observation of the quantizers of a model while it computes its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.parts import Quantizer
from smalti.core.results import Quantized

SHRUNK = 1e-3
"""Factor on latents that shows whether a quantizer ignores their length."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Quantized], Quantized | None]


@final
@dataclass(frozen=True)
class Seen:
    """Input and output of a quantizer in one forward pass."""

    latents: Float[Tensor, "b d *grid"]
    quantized: Quantized


def quantizers_of(model: nn.Module) -> dict[str, Quantizer]:
    """Return the quantizers of a model, by the names of their modules."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


@contextmanager
def observed(quantizers: Mapping[str, Quantizer], is_bypassed: bool = False) -> Iterator[dict[str, Seen]]:
    """Yield a mapping that holds the input and output of each quantizer after a forward pass of the model.

    Args:
        quantizers: by name.
        is_bypassed: the quantizers output their latents in place of the codes.
    """
    seen: dict[str, Seen] = {}

    def hook_of(name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Quantized) -> Quantized | None:
            seen[name] = Seen(inputs[0], output)
            return replace(output, latents=inputs[0].float()) if is_bypassed else None

        return hook

    handles = [quantizer.register_forward_hook(hook_of(name)) for name, quantizer in quantizers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def vectors(latents: Float[Tensor, "b d *grid"]) -> Float[Tensor, "n d"]:
    """Rearrange latents into one row per position."""
    return latents.detach().float().flatten(2).movedim(1, -1).flatten(0, 1)


def ignores_length(quantizer: Quantizer, latents: Float[Tensor, "b d *grid"]) -> bool:
    """Return True if the codes do not depend on the length of the latents, as in a search by cosine.

    False if all latents have the same code, from which one cannot tell.
    """
    codes = quantizer.encode(latents)
    if len(codes.unique()) < 2:
        return False
    return (quantizer.encode(latents * SHRUNK) == codes).float().mean().item() > 0.999


def without(quantizer: Quantizer, weight: str) -> Quantizer:
    """Return a copy of a quantizer with a weight of its loss set to zero.

    Args:
        quantizer: in evaluation mode, with a config.
        weight: name of the setting.
    """
    with torch.random.fork_rng(devices=[]):  # the copy's initial codes are not the caller's draws
        copy = quantizer.config.changed({weight: 0.0}).build()
    state = quantizer.state_dict()
    copy.load_state_dict(state)
    devices = {tensor.device for tensor in state.values()}
    return copy.to(devices.pop() if devices else "cpu").eval()


def weights_of(quantizer: Quantizer) -> dict[str, float]:
    """Return the weights of the terms of a quantizer's loss, by setting, such as `commitment_weight`."""
    config = getattr(quantizer, "config", None)
    names = [name for name in getattr(type(config), "model_fields", {}) if name.endswith("_weight")]
    return {name: float(getattr(config, name)) for name in names}
