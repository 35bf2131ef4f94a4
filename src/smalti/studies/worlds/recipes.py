"""Studies of first-person worlds at each budget."""

from __future__ import annotations

from typing import Any

from smalti.app.recipes import worlds
from smalti.autoregressive.frame_pixelcnn import FramePixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion
from smalti.models.vae import VAEConfig
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig

BUDGETS = ("tiny", "cpu", "paper")
NARROW = {
    f"{part}.{width}": 8 for part in ("encoder", "decoder") for width in ("channels", "residual_channels")
}
"""Widths of the convolutional networks of the tiny budget."""
SHORT = {"steps": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 2, "validate_every": 0}
"""Training settings of the tiny budget."""
LATENT_DIM = 32
"""Latent dimension of the continuous control."""


class LabStudy(Configuration):
    """A VQ-VAE of frames, a second-stage VQ-VAE of its codes with three codes per frame, and a control.

    Attributes:
        frames: the first stage and its prior.
        second: the second stage, with a decoder as large as the first stage's prior.
        control: the second stage with a Gaussian latent instead of the three codes.
    """

    frames: Recipe
    second: Recipe
    control: Recipe

    def seeded(self, seed: int) -> LabStudy:
        """Return a copy with the seed set in every training."""
        return LabStudy(**{name: _seeded(getattr(self, name), seed) for name in type(self).model_fields})


class VideoStudy(Configuration):
    """A video tokenizer with an action-conditioned prior, and the settings of their evaluation.

    Attributes:
        walks: the tokenizer and the prior.
        judge_steps: training steps of the judge of actions.
        stride: frames between the starts of consecutive evaluation windows.
        guidance: weight of the guidance of the guided rollouts, chosen on held-out training clips.
    """

    walks: Recipe
    judge_steps: int = 1000
    stride: int = 45
    guidance: float = 3.0

    def seeded(self, seed: int) -> VideoStudy:
        """Return a copy with the seed set in every training."""
        return self.model_copy(update={"walks": _seeded(self.walks, seed)})


def video_study(budget: str) -> VideoStudy:
    """Return the study of van den Oord et al. 2017, section 4.4, for data of `smalti collect doom`.

    Raises:
        InputError: when there is no such budget.
    """
    _check_budget(budget)
    walks = worlds.walks()
    if budget == "cpu":
        return VideoStudy(walks=_changed(walks, {"steps": 1500}, {"steps": 3000}))
    if budget == "paper":
        # The paper gives the sizes of frames and grids only.
        data = walks.data.model_copy(update={"size": (84, 84)})
        model = walks.model.changed({"encoder.strides": (2, 2), "quantizer.num_codebooks": 1})
        long = {"steps": 100_000, "batch_size": 16}
        return VideoStudy(walks=_changed(walks.model_copy(update={"data": data, "model": model}), long, long))
    walks = _changed(walks, SHORT, SHORT)
    tiny = {
        "data": walks.data.model_copy(update={"size": (16, 16)}),
        "model": walks.model.changed(NARROW),
        "prior": walks.prior.model_copy(update={"network": FramePixelCNNConfig.tiny()}),
    }
    return VideoStudy(walks=walks.model_copy(update=tiny), judge_steps=5, stride=5)


def _check_budget(budget: str) -> None:
    if budget not in BUDGETS:
        raise InputError(f"expected a budget, received {budget!r}: {suggestion(budget, BUDGETS)}")


def lab_study(budget: str) -> LabStudy:
    """Return the study of van den Oord et al. 2017, section 4.2, for data of `smalti collect doom`.

    Raises:
        InputError: when there is no such budget.
    """
    _check_budget(budget)
    frames, second = worlds.frames(), worlds.second_stage()
    if budget == "cpu":
        frames = _changed(frames, {"steps": 1500}, {"steps": 800})
        second = _changed(second, {"steps": 800}, {"steps": 300})
    elif budget == "paper":
        frames = _changed(frames, {"steps": 100_000, "batch_size": 64}, {"steps": 100_000, "batch_size": 64})
        second = _changed(second, {"steps": 100_000, "batch_size": 64}, {"steps": 5_000})
    else:
        frames, second = _tiny(frames, second)
    vqvae = second.model
    parts = {name: getattr(vqvae, name) for name in ("encoder", "decoder", "likelihood")}
    control = second.model_copy(
        update={"name": "second-stage-vae", "model": VAEConfig(**parts, latent_dim=LATENT_DIM)}
    )
    return LabStudy(frames=frames, second=second, control=control)


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return _changed(recipe, {"seed": seed}, {"seed": seed})


def _changed(recipe: Recipe, training: dict[str, Any], prior: dict[str, Any]) -> Recipe:
    """Return a recipe with changed settings of its two trainings."""

    def changed(config: TrainingConfig, settings: dict[str, Any]) -> TrainingConfig:
        return TrainingConfig.model_validate({**config.model_dump(), **settings})

    second = recipe.prior.model_copy(update={"training": changed(recipe.prior.training, prior)})
    return recipe.model_copy(update={"training": changed(recipe.training, training), "prior": second})


def _tiny(frames: Recipe, second: Recipe) -> tuple[Recipe, Recipe]:
    """Shrink recipes to run in seconds, as a smoke test of every part."""
    frames, second = _changed(frames, SHORT, SHORT), _changed(second, SHORT, SHORT)
    size = (24, 24)
    grid = second.data.model_copy(update={"size": (6, 6)})
    network = GatedPixelCNNConfig.tiny()
    narrow = {
        "encoder.channels": 8,
        "encoder.network.channels": 8,
        "encoder.network.residual_channels": 8,
        "encoder.network.strides": (2, 3),
        "decoder.channels": 8,
        "decoder.residual_channels": 8,
        "decoder.network": network,
    }
    first = {"data": frames.data.model_copy(update={"size": size}), "model": frames.model.changed(NARROW)}
    then = {"data": grid, "model": second.model.changed(narrow)}

    def changed(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
        prior = recipe.prior.model_copy(update={"network": network})
        return recipe.model_copy(update={**settings, "prior": prior})

    return changed(frames, first), changed(second, then)
