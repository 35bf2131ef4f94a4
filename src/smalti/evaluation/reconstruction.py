"""PSNR, SSIM and squared error of reconstructions, each with its protocol."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from smalti.core.signals import SignalSpec
from smalti.nn.ssim import SIGMA, WINDOW, gaussian_window, similarities


@final
class Reconstruction:
    """Accumulates errors between originals and reconstructions in [-1, 1]; results are on the scale [0, 1].

    Data of a continuous domain are standardised and have no fixed range, so they get no PSNR or SSIM.

    Args:
        signal: of the data.
    """

    def __init__(self, signal: SignalSpec) -> None:
        self._signal = signal
        self._squared_errors: list[Tensor] = []
        self._ssim: list[Tensor] = []
        self._sum = self._sum_of_squares = 0.0
        self._elements = 0

    @torch.no_grad()
    def update(
        self,
        original: Float[Tensor, "b c *size"],
        reconstruction: Float[Tensor, "b c *size"],
        lengths: Int64[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "b c *size"] | None = None,
    ) -> None:
        """Add a batch, each item up to its length on the first axis, without missing values.

        Of pictures, the mask is False beyond their size.
        """
        if lengths is not None:
            for i, length in enumerate(lengths.tolist()):
                part = (slice(i, i + 1), slice(None), slice(length))
                self.update(original[part], reconstruction[part], None, None if mask is None else mask[part])
            return
        if self._signal.is_continuous:
            self._update_continuous(original, reconstruction, mask)
            return
        if mask is not None:
            for i, inside in enumerate(mask[:, 0]):
                height, width = (int(inside.any(axis).sum()) for axis in (1, 0))
                part = (slice(i, i + 1), slice(None), slice(height), slice(width))
                self.update(original[part], reconstruction[part])
            return
        x = (original.float() + 1) / 2
        y = (reconstruction.float().clamp(-1, 1) + 1) / 2
        self._squared_errors.append((x - y).double().square().flatten(1).mean(1).cpu())
        self._sum += x.double().sum().item()
        self._sum_of_squares += x.double().square().sum().item()
        self._elements += x.numel()
        if self._signal.has_pictures and min(x.shape[-2:]) >= WINDOW:
            pictures, again = (_frames(each) for each in (x, y))
            ssim = _structural_similarity(again, pictures)
            self._ssim.append(ssim.double().view(len(x), -1).mean(1).cpu())

    def _update_continuous(self, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
        for i in range(len(x)):
            present = torch.ones_like(x[i], dtype=torch.bool) if mask is None else mask[i]
            values, again = x[i][present].double(), y[i][present].double()
            if values.numel():  # a crop may have no observed value
                self._squared_errors.append((values - again).square().mean().view(1).cpu())
                self._sum += values.sum().item()
                self._sum_of_squares += values.square().sum().item()
                self._elements += values.numel()

    def compute(self) -> dict[str, float | None]:
        """psnr (mean over items), psnr_pooled (of the mean squared error), ssim, mse, mse_over_variance.

        Empty if no item was added, as for models whose reconstructions would have to be sampled.
        """
        if not self._elements:
            return {}
        errors = torch.cat(self._squared_errors)
        mean = self._sum / self._elements
        variance = self._sum_of_squares / self._elements - mean**2
        mse = errors.mean().item()
        relative = mse / variance if variance > 0 else None
        if self._signal.is_continuous:
            return {"mse": mse, "mse_over_variance": relative}
        return {
            "psnr": (-10 * errors.clamp_min(1e-10).log10()).mean().item(),
            "psnr_pooled": -10 * math.log10(max(mse, 1e-10)),
            "ssim": torch.cat(self._ssim).mean().item() if self._ssim else None,
            "mse": mse,
            "mse_over_variance": relative,
        }

    def protocol(self) -> dict[str, str]:
        """Definition of each figure."""
        if self._signal.is_continuous:
            return {
                "reconstruction": "mean of p(x|z)",
                "mse": "of the standardised data; mean over items",
                "mse_over_variance": "mean squared error over the variance of all values of this split",
            }
        return {
            "reconstruction": "mean of p(x|z), clipped to the data range",
            "psnr": "data range 1.0; mean over items of 10 log10(1 / mse); psnr_pooled: of the mean mse",
            "ssim": f"data range 1.0; Gaussian window {WINDOW}x{WINDOW}, sigma {SIGMA}, images "
            "reflected at their borders; of a clip the mean over its frames; mean over items; left out for "
            "sides below the window",
            "mse_over_variance": "mean squared error over the variance of all values of this split",
        }


def _structural_similarity(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """SSIM of each pair of pictures in [0, 1], averaged over positions and channels."""
    border = WINDOW // 2
    a, b = (F.pad(each, (border,) * 4, mode="reflect").flatten(0, 1).unsqueeze(1) for each in (x, y))
    luminance, structure = similarities(a, b, gaussian_window().to(x))
    return (luminance * structure).view(len(x), -1).mean(1)


def _frames(signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "n c h w"]:
    """Frames of clips (or slices of volumes) as images; images unchanged."""
    return signal.movedim(2, 1).flatten(0, 1) if signal.ndim == 5 else signal
