"""Check the size of a module before it is built, from untrusted settings or a command line.

A module is first built on the meta device, where tensors have shapes and no values. Its shapes are compared
with those of the stored weights, and its size with the memory of the machine.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from smalti.core.errors import InputError
from smalti.core.precision import default_dtype
from smalti.core.weights import load_weights

M = TypeVar("M", bound=nn.Module)

MOST_MODULES = 5_000
"""Maximum number of modules of a model; more take minutes to build."""
FILLS = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, Tensor.normal_, Tensor.uniform_})
"""Functions that fill a tensor with random values."""
CGROUP = Path("/sys/fs/cgroup/memory.max")


class TooLarge(InputError):
    """A module that would need too much memory or time to build."""


def memory_bytes() -> int:
    """Memory of this machine, or of the container that it runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP.read_text()))
    except (OSError, ValueError):
        return total


def build_stored(build: Callable[[], M], tensors: Mapping[str, Tensor], where: Path) -> M:
    """Build a module in float32 from settings that are not trusted, and load its weights.

    Args:
        build: builds the untrained module.
        tensors: the weights by name, with which its shapes are compared first.
        where: file or directory of the weights, for messages.

    Raises:
        ForeignWeights: if the names or shapes are not those of the module.
        InputError: if the settings are invalid, the module is too large, or a tensor has another type or is
            not finite.
    """
    # Modules without weights, such as activations, are few beside those with weights.
    planned = plan(build, min(MOST_MODULES, 100 + 20 * len(tensors)))
    if planned is not None:
        load_weights(planned, {name: tensor.to("meta") for name, tensor in tensors.items()}, where)
    try:
        with default_dtype(torch.float32):
            module = build()
    except (RuntimeError, TypeError, AttributeError, IndexError, ArithmeticError, MemoryError) as error:
        raise InputError(
            f"the model that {where} describes cannot be built ({' '.join(str(error).split())[:200]}): "
            "restore config.json, or train again"
        ) from None
    load_weights(module, tensors, where)
    return module


def plan(build: Callable[[], M], most_modules: int = MOST_MODULES) -> M | None:
    """Build a module on the meta device, in float32.

    Args:
        build: builds the module.
        most_modules: maximum number of modules in it.

    Returns:
        The module without values, or None if a part of somebody else cannot be built there.

    Raises:
        TooLarge: if it has too many modules, or if one of its tensors, or of those computed to check its
            parts, exceeds the memory of the machine.
        InputError: if the settings are invalid.
    """
    try:
        with (
            _limited_modules(most_modules),
            default_dtype(torch.float32),
            torch.device("meta"),
            _LimitedTensors(),
        ):
            return build()
    except InputError:
        raise
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
        AttributeError,
        OverflowError,
        AssertionError,
    ) as error:
        if "overflow" in str(error).lower() or isinstance(error, OverflowError):
            raise TooLarge(
                "expected sizes that fit into memory, received sizes whose product exceeds 64 bits: make the "
                "model or its signals smaller"
            ) from None
        return None


def without_values(module: M) -> M:
    """Copy a module to the meta device without copying its values, to compute shapes without memory.

    Raises:
        RuntimeError: if it has weights that are computed from other weights, or no shape yet.
    """
    return copy.deepcopy(module, {id(each): _valueless(each) for each in _tensors(module)})


def size_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of a module."""
    return sum(each.numel() * each.element_size() for each in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _valueless(tensor: Tensor) -> Tensor:
    made = torch.empty_like(tensor, device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


class _LimitedTensors(TorchFunctionMode):
    """Refuse tensors larger than the memory of the machine.

    Random values are not drawn: without values, that and a dispatch mode, which would also see the operations
    inside of torch's functions, import `torch._dynamo`, which takes as long as importing torch itself. Nor is
    `torch.linspace` computed, which without values imports sympy.
    """

    def __init__(self) -> None:
        super().__init__()
        self._most = memory_bytes()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        kwargs = kwargs or {}
        if func is torch.linspace and not {"device", "out"} & kwargs.keys():
            func = _spaced
        result = func(*args, **kwargs)
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.numel() * each.element_size() > self._most:
                raise TooLarge(
                    f"expected tensors that fit into the {in_gb(self._most)} of memory of this machine, "
                    f"received sizes that need one of {in_gb(each.numel() * each.element_size())}, "
                    f"{tuple(each.shape)}: make the model or its signals smaller"
                )
        return result


@contextmanager
def _limited_modules(most: int) -> Iterator[None]:
    """Refuse more than `most` modules, built by this thread."""
    thread, count = threading.get_ident(), 0

    def registered(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise TooLarge(
                f"expected at most {most:,} modules in a model, received settings with more: use "
                "fewer layers or blocks"
            )

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def in_gb(size: int) -> str:
    """A number of bytes for messages."""
    return f"{size / 1e9:,.1f} GB"


def _spaced(start: Any, end: Any, steps: int, **options: Any) -> Tensor:
    """Tensor like that of `torch.linspace`, with any values."""
    return torch.empty(steps, **options)
