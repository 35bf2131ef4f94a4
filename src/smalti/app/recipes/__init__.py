"""Recipes: complete experiments by name."""

from __future__ import annotations

from collections.abc import Callable

from smalti.app.recipes import arrays, images, speech, video, worlds
from smalti.app.recipes.overrides import differences, override
from smalti.core.errors import InputError
from smalti.recipe import Pretraining, PriorRecipe, Recipe, parse

RECIPES: dict[str, Callable[[], Recipe]] = {
    "image": images.image,
    "hierarchy": images.hierarchy,
    "letters": images.letters,
    "mnist": images.mnist,
    "fashion-mnist": images.fashion_mnist,
    "cifar10": images.cifar10,
    "cifar10-coupled": images.cifar10_coupled,
    "imagenet128": images.imagenet128,
    "voices": speech.voices,
    "digits": speech.digits,
    "digits-spectral": speech.digits_spectral,
    "vctk": speech.vctk,
    "librispeech": speech.librispeech,
    "units": speech.units,
    "video": video.video,
    "array": arrays.array,
    "frames": worlds.frames,
    "walks": worlds.walks,
    "second-stage": worlds.second_stage,
}

__all__ = [
    "RECIPES",
    "Pretraining",
    "PriorRecipe",
    "Recipe",
    "differences",
    "get_recipe",
    "override",
    "parse",
]


def get_recipe(name: str) -> Recipe:
    """Build the recipe with this name.

    Raises:
        InputError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise InputError(f"expected a recipe name, received {name!r}: use one of {', '.join(RECIPES)}")
    return RECIPES[name]()
