"""Entropies of soft assignments to sign codes, in memory independent of the number of codes.

A softmax over all 2^L codes c in {-s, s}^L with logits proportional to z.c is a product of L independent
bits, so sums over codes need not be enumerated:

    p(c|z) = prod_i p_i(c_i),  p_i(+) = sigmoid(a_i),  H(p) = sum_i H(p_i)

The average over a batch E[p] is not such a product. Its entropy is that of the joint distribution of all
bits, exact for up to `group_bits` bits. More bits are split into groups of about equal size (Zhao et al.
2024, arXiv 2406.07548): the sum of the entropies of the groups is an upper bound on the entropy of all bits,
and equal to it if the groups are independent.
"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from smalti.nn.collectives import mean_over_ranks


def bit_entropies(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Entropy of a bit that is 1 with probability sigmoid(a), nats; precise for logits of any size."""
    a = logits.abs()
    return softplus(-a) + a * torch.sigmoid(-a)


def mean_joint(logits: Float[Tensor, "n l"]) -> Float[Tensor, " k"]:
    """Average over N tokens of the joint distribution of L independent bits.

    The 2^L probabilities are a product of two matrices, N x 2^(L/2) each, so neither value nor gradient needs
    memory for N x 2^L numbers. Entry k is the probability of the bits of k, the lowest bit for the first
    column.
    """
    with torch.autocast(_device_type(logits), enabled=False):
        return _MeanJoint.apply(logits)


def entropy(p: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Entropy of a distribution, nats; the gradient is finite where probabilities are 0."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()


def batch_entropy(logits: Float[Tensor, "n l"], group_bits: int) -> Float[Tensor, ""]:
    """Entropy of the average assignment of all ranks' tokens, nats: the sum over groups of bits."""
    bits = logits.shape[1]
    groups = -(-bits // group_bits)
    total = logits.new_zeros(())
    for group in range(groups):
        first, last = group * bits // groups, (group + 1) * bits // groups
        total = total + entropy(_over_ranks(mean_joint(logits[:, first:last])))
    return total


def _over_ranks(p: Tensor) -> Tensor:
    """Average over ranks; the gradient is that of this rank's share, which the ranks then average."""
    return p + (mean_over_ranks(p.detach()) - p.detach())


def _device_type(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "meta" else tensor.device.type


@final
class _MeanJoint(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        low, high = _halves(logits)
        return (_products(high) @ _products(low).t() / logits.shape[0]).flatten()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        with torch.autocast(_device_type(logits), enabled=False):
            low, high = _halves(logits)
            p_low, p_high = _products(low), _products(high)
            table = gradients[0].view(p_high.shape[0], p_low.shape[0]) / logits.shape[0]
            of_low = p_low * (table.t() @ p_high)
            of_high = p_high * (table @ p_low)
            return torch.cat((_of_logits(of_low, low), _of_logits(of_high, high))).t()


def _halves(logits: Float[Tensor, "n l"]) -> tuple[Float[Tensor, "a n"], Float[Tensor, "b n"]]:
    """Split the bits into two halves, tokens last."""
    half = logits.shape[1] // 2
    columns = logits.t().contiguous()
    return columns[:half], columns[half:]


def _products(logits: Float[Tensor, "l n"]) -> Float[Tensor, "k n"]:
    """Probability of each combination of bits of each token."""
    ones, zeros = torch.sigmoid(logits), torch.sigmoid(-logits)
    table = logits.new_ones(1, logits.shape[1])
    for one, zero in zip(ones, zeros, strict=True):
        table = torch.cat((table * zero, table * one))
    return table


def _of_logits(weighted: Float[Tensor, "k n"], logits: Float[Tensor, "l n"]) -> Float[Tensor, "l n"]:
    """Gradient of the logits from that of the log-probabilities: d ln p(c) / d a_i = c_i - sigmoid(a_i)."""
    combinations = torch.arange(weighted.shape[0], device=weighted.device)
    places = torch.arange(logits.shape[0], device=weighted.device)
    bits = ((combinations >> places.unsqueeze(1)) & 1).to(weighted.dtype)
    return bits @ weighted - torch.sigmoid(logits) * weighted.sum(0)


@final
class EntropyPenalty(nn.Module):
    """Weighted difference w_t (E[H(p)] - H(E[p])): certain assignments, and even use of the codes.

        w_t = weight (1 + (start - 1) max(0, 1 - t / anneal_steps))

    The weight falls linearly from `start` times its value in the first steps, which are counted in training
    mode and saved with the state.

    Args:
        weight: final weight.
        start: multiple of the weight at the first step.
        anneal_steps: steps until the final weight; 0 starts with it.
        group_bits: number of bits up to which H(E[p]) is exact.
    """

    steps: Tensor

    def __init__(self, weight: float, start: float, anneal_steps: int, group_bits: int) -> None:
        super().__init__()
        self.weight, self.start, self.anneal_steps = weight, start, anneal_steps
        self.group_bits = group_bits
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Float[Tensor, "g n l"]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Compute the penalty of the logits a of each codebook's bits, and its terms, nats per code."""
        certain = bit_entropies(logits).sum(2).mean()
        even = torch.stack([batch_entropy(each, self.group_bits) for each in logits]).mean()
        weight = self._current_weight()
        if self.training:
            self.steps.add_(1)
        return weight * (certain - even), {
            "code_entropy": certain.detach(),
            "batch_entropy": even.detach(),
        }

    def _current_weight(self) -> float | Tensor:
        if not self.anneal_steps:
            return self.weight
        is_compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
        call = _weight_opaque if is_compiled else _weight_at
        return call(self.steps, self.weight, self.start, self.anneal_steps)


def _weight_at(steps: Tensor, weight: float, start: float, anneal_steps: int) -> Tensor:
    left = (1 - steps / anneal_steps).clamp_min(0)
    return weight * (1 + (start - 1) * left)


# A single operation of the graph: a compiler might otherwise compute the weight again for the gradient, after
# the steps have been counted.
_weight_opaque = torch.library.custom_op(
    "smalti::entropy_weight",
    _weight_at,
    mutates_args=(),
    schema="(Tensor steps, float weight, float start, int anneal_steps) -> Tensor",
)


@_weight_opaque.register_fake
def _shape_of_weight(steps: Tensor, weight: float, start: float, anneal_steps: int) -> Tensor:
    return steps.new_empty((), dtype=torch.get_default_dtype())
