"""Sampling from autoregressive networks: one loop, and a naive loop as its oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from smalti.core.arguments import check_count, check_draws
from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.priors import AutoregressiveNetwork, SamplingKernel
from smalti.nn.symbols import check_code_type, check_codes, check_kept

Progress = Callable[[int, int], None]
"""Callback with the number of symbols drawn and the total number."""

Draw = Callable[[Tensor, torch.Generator | None], Tensor]
"""Draws symbols int64 `(B,)` from a network's output for one symbol, `(B, P)`."""

BLOCK = 2048
"""Number of symbols that a compiled loop draws between progress reports."""


def sample(
    network: AutoregressiveNetwork,
    num: int,
    grid: Sequence[int],
    conditions: Conditions | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    draw: Draw | None = None,
    given: Int64[Tensor, "b g *first"] | None = None,
) -> Int64[Tensor, "b g *grid"]:
    """Sample code grids, symbol by symbol, with the network's cached step or its compiled loop.

    The network is in evaluation mode during sampling; its mode is restored afterwards.

    Args:
        network: predicts each symbol.
        num: number of grids to draw, the batch size B.
        grid: size of a grid.
        conditions: for each of the `num` grids.
        temperature: divides the logits; 0 takes the most probable code.
        top_k: draw among the k most probable codes only.
        top_p: draw among the fewest codes whose probabilities sum to at least p (after `top_k`).
        generator: source of randomness; the same seed gives the same codes.
        progress: called after each symbol, or by a compiled loop after each `BLOCK` symbols.
        draw: draws symbols for a network whose outputs are not logits; it replaces temperature, top_k and
            top_p.
        given: the first part of each grid (the first frames of a clip), which sampling continues.

    Raises:
        InputError: if an argument is out of range.
    """
    _check(num, grid, temperature, top_k, top_p)
    total = network.num_codebooks * torch.Size(grid).numel()
    if given is not None:
        _check_given(given, num, network, grid)
        total -= given[0].numel()
    with torch.no_grad(), _evaluating(network):
        state = network.start(num, grid, conditions or Conditions())
        previous = None
        if given is not None:
            network.skip(given, state)
            previous = given.flatten(2)[:, -1, -1]
        is_plain = top_k is None and top_p is None and draw is None and given is None
        kernel = network.kernel(state) if is_plain else None
        if kernel is not None:
            symbols = _compiled(kernel, num, total, temperature, generator, progress)
        else:

            def draw_logits(logits: Tensor, generator: torch.Generator | None) -> Tensor:
                return draw_codes(logits, temperature, top_k, top_p, generator)

            symbols = _stepped(network, state, previous, total, draw or draw_logits, generator, progress)
    order = network.order(grid)
    if order is not None:
        symbols = symbols[:, order.argsort().to(symbols.device)]
    by_position = symbols.unflatten(1, (-1, network.num_codebooks))
    if given is not None:
        by_position = torch.cat([given.flatten(2).transpose(1, 2), by_position], 1)
    return by_position.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()


def fill(
    network: AutoregressiveNetwork,
    codes: Int64[Tensor, "b g *grid"],
    keep: Bool[Tensor, "b g *grid"],
    conditions: Conditions | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Int64[Tensor, "b g *grid"]:
    """Draw the codes that are not kept, each given the codes before it in the network's order.

    Codes after a hole do not affect what is drawn in it. Only if all kept codes come first, this is a draw
    from p(holes | kept codes).

    Args:
        network: predicts each symbol.
        codes: of any value where they are not kept.
        keep: True for the codes that stay.
        conditions, temperature, top_k, top_p, generator, progress: as in `sample`.

    Raises:
        InputError: if an argument is out of range.
    """
    check_kept(codes, keep, codes.ndim - 2)
    check_draws(temperature, top_k, top_p)
    grid = tuple(codes.shape[2:])
    known, is_known = (each.flatten(2).transpose(1, 2).flatten(1) for each in (codes, keep))
    check_codes(codes.where(keep, 0), network.num_codebooks, network.num_codes)
    order = network.order(grid)
    places = iter(range(known.shape[1]) if order is None else order.tolist())

    def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
        place = next(places)
        drawn = draw_codes(logits, temperature, top_k, top_p, generator)
        return known[:, place].to(drawn).where(is_known[:, place].to(drawn.device), drawn)

    return sample(network, len(codes), grid, conditions, generator=generator, progress=progress, draw=draw)


def _stepped(
    network: AutoregressiveNetwork,
    state: Any,
    previous: Tensor | None,
    total: int,
    draw: Draw,
    generator: torch.Generator | None,
    progress: Progress | None,
) -> Int64[Tensor, "b s"]:
    symbols: list[Tensor] = []
    for done in range(1, total + 1):
        previous = draw(network.step(previous, state), generator)
        symbols.append(previous)
        if progress is not None:
            progress(done, total)
    return torch.stack(symbols, 1)


def _compiled(
    kernel: SamplingKernel,
    num: int,
    total: int,
    temperature: float,
    generator: torch.Generator | None,
    progress: Progress | None,
) -> Int64[Tensor, "b s"]:
    blocks: list[Tensor] = []
    device = generator.device if generator is not None else torch.device("cpu")
    for begin in range(0, total, BLOCK):
        size = min(BLOCK, total - begin)
        # Drawn one by one, so that a seed gives the same numbers as the step-by-step loop.
        uniform = [torch.rand(num, 1, generator=generator, device=device) for _ in range(size)]
        drawn = kernel.draw(torch.cat(uniform, 1).t().contiguous().cpu().numpy(), temperature)
        blocks.append(torch.from_numpy(drawn.copy()))
        if progress is not None:
            progress(begin + size, total)
    return torch.cat(blocks).t()


def code(
    network: AutoregressiveNetwork,
    codes: Int64[Tensor, "b g *first"],
    coder: SymbolCoder,
    conditions: Conditions | None = None,
    grid: Sequence[int] | None = None,
    code_symbol: Callable[[Tensor, Tensor], None] | None = None,
) -> None:
    """Pass every code to an entropy coder, with its probabilities by the network's cached step.

    Encoder and decoder take the same steps on the same batch. The logits of `forward` would differ from these
    in their last bits, so that a decoder could not follow.

    Args:
        network: predicts each symbol.
        codes: known to an encoder; a decoder sets them in place.
        coder: encodes or decodes them.
        conditions: of the items.
        grid: the whole grid, of which the codes are the beginning; None if they are all of it.
        code_symbol: codes symbols `(B,)` from a network's output for them, `(B, P)`, if that is not logits.

    Raises:
        InputError: for the beginning of a grid, if the network does not go position by position.
    """
    grid = tuple(codes.shape[2:] if grid is None else grid)
    order = network.order(grid)
    if order is not None and grid != tuple(codes.shape[2:]):
        raise InputError(
            f"expected codes of the whole grid {grid}, received {tuple(codes.shape[2:])}: this network does "
            "not go position by position"
        )

    def code_logits(logits: Tensor, symbols: Tensor) -> None:
        coder.categorical(symbols, logits.double().softmax(1))

    flat = codes.flatten(2)
    places = range(flat[0].numel()) if order is None else order.tolist()
    with torch.no_grad(), _evaluating(network):
        state = network.start(len(codes), grid, conditions or Conditions())
        previous = None
        for place in places:
            position, codebook = divmod(place, network.num_codebooks)
            symbols = flat[:, codebook, position]
            (code_symbol or code_logits)(network.step(previous, state), symbols)
            previous = symbols.clone()
    codes.copy_(flat.view(codes.shape))


def sample_naive(
    network: AutoregressiveNetwork,
    num: int,
    grid: Sequence[int],
    conditions: Conditions | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    given: Int64[Tensor, "b g *first"] | None = None,
) -> Int64[Tensor, "b g *grid"]:
    """`sample` with a full forward pass for every symbol: oracle of the tests, baseline of the benchmarks."""
    _check(num, grid, temperature, top_k, top_p)
    device = next(network.parameters()).device
    codes = torch.zeros(num, network.num_codebooks, *grid, dtype=torch.int64, device=device)
    flat = codes.view(num, network.num_codebooks, -1)
    total, begin = flat[0].numel(), 0
    order = network.order(grid)
    places = range(total) if order is None else order.tolist()
    if given is not None:
        _check_given(given, num, network, grid)
        codes[:, :, : given.shape[2]] = given
        begin = given[0].numel()
    with torch.no_grad(), _evaluating(network):
        for symbol in range(begin, total):
            position, codebook = divmod(places[symbol], network.num_codebooks)
            logits = network(codes, conditions or Conditions()).flatten(2, -2)[:, codebook, position]
            flat[:, codebook, position] = draw_codes(logits, temperature, top_k, top_p, generator)
            if progress is not None:
                progress(symbol + 1 - begin, total - begin)
    return codes


def draw_codes(
    logits: Float[Tensor, "b k"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " b"]:
    """Draw one code per item by inverting the cumulative distribution at one uniform number each.

    With `top_k` or `top_p` the codes are ordered by decreasing probability, otherwise by number. A code of
    probability zero is never drawn. See `sample` for the arguments.
    """
    if temperature == 0:
        return logits.argmax(1)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if temperature != 1:
        # Shift the largest logit to 0, so that even a tiny temperature does not cause inf - inf.
        logits = (logits - logits.amax(1, keepdim=True)) / temperature
    if top_k is None and top_p is None:
        return _invert(logits.softmax(1), generator)

    num_codes = logits.shape[1]
    logits, order = logits.topk(min(top_k or num_codes, num_codes), dim=1)
    probabilities = logits.softmax(1)
    if top_p is not None:
        more_probable = probabilities.cumsum(1) - probabilities
        # Rounding must neither drop the most probable code nor, at p = 1, cut off the tail.
        probabilities = probabilities.where(more_probable < top_p, 0) if top_p < 1 else probabilities
    return order.gather(1, _invert(probabilities, generator).unsqueeze(1)).squeeze(1)


def _invert(weights: Float[Tensor, "b k"], generator: torch.Generator | None) -> Int64[Tensor, " b"]:
    """First index at which the cumulative weights exceed a uniform share of their sum."""
    cumulative = weights.cumsum(1)
    # Draw on the generator's device, so that a seed gives the same codes on every device.
    source = generator.device if generator is not None else weights.device
    uniform = torch.rand(len(weights), 1, dtype=weights.dtype, device=source, generator=generator)
    threshold = uniform.to(weights.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp_(max=weights.shape[1] - 1)


@contextmanager
def _evaluating(network: AutoregressiveNetwork) -> Iterator[None]:
    """Set evaluation mode inside the context and restore each module's mode on exit, also on an exception."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(num: int, grid: Sequence[int], temperature: float, top_k: int | None, top_p: float | None) -> None:
    check_count("num", num)
    if not isinstance(grid, Sequence) or not grid or any(not hasattr(n, "__index__") or n < 1 for n in grid):
        raise InputError(f"expected a grid of sizes of at least 1, received {grid}: pass one size per axis")
    check_draws(temperature, top_k, top_p)


def _check_given(given: Tensor, num: int, network: AutoregressiveNetwork, grid: Sequence[int]) -> None:
    check_code_type(given)
    if network.order(grid) is not None:
        raise InputError("expected no given codes, this network draws level by level: leave them out")
    expected = (num, network.num_codebooks, *grid[1:])
    if given.ndim != 2 + len(grid) or (*given.shape[:2], *given.shape[3:]) != expected:
        raise InputError(
            f"expected the first part of {num} grids {tuple(grid)} with {network.num_codebooks} codebooks, "
            f"received codes of shape {tuple(given.shape)}: pass (B, G, first, *others)"
        )
    if not 0 < given.shape[2] < grid[0]:
        raise InputError(
            f"expected given codes shorter than the grid {tuple(grid)}, received length {given.shape[2]}: "
            "request a longer grid"
        )
    check_codes(given, network.num_codebooks, network.num_codes)
