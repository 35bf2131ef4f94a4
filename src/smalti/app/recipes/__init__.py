"""Recipes: complete experiments by name."""

from __future__ import annotations

from smalti.app.recipes import arrays, images, speech, video, worlds
from smalti.app.recipes.overrides import differences, override
from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion
from smalti.recipe import Pretraining, Recipe, RecipeFunction, parse, registered_recipes

RECIPES: dict[str, RecipeFunction] = {
    "image": images.image,
    "photos": images.photos,
    "hierarchy": images.hierarchy,
    "letters": images.letters,
    "mnist": images.mnist,
    "mnist-lossless": images.mnist_lossless,
    "fashion-mnist": images.fashion_mnist,
    "cifar10": images.cifar10,
    "cifar10-coupled": images.cifar10_coupled,
    "imagenet128": images.imagenet128,
    "voices": speech.voices,
    "digits": speech.digits,
    "digits-spectral": speech.digits_spectral,
    "speech-codec": speech.speech_codec,
    "voices-codec": speech.voices_codec,
    "vctk": speech.vctk,
    "librispeech": speech.librispeech,
    "units": speech.units,
    "video": video.video,
    "array": arrays.array,
    "frames": worlds.frames,
    "frames128": worlds.frames128,
    "walks": worlds.walks,
    "second-stage": worlds.second_stage,
}
"""Recipes of this package, by name; `all_recipes` adds those of plugins."""

__all__ = [
    "RECIPES",
    "Pretraining",
    "Recipe",
    "all_recipes",
    "differences",
    "get_recipe",
    "override",
    "parse",
]


def all_recipes() -> dict[str, RecipeFunction]:
    """Return the recipes of this package and of plugins, by name.

    Raises:
        InputError: if a plugin takes the name of a recipe of this package.
    """
    others = registered_recipes()
    if taken := sorted(RECIPES.keys() & others):
        raise InputError(
            f"expected plugins with recipes of new names, received {taken[0]!r} from "
            f"{others[taken[0]].__module__}: rename the recipe there"
        )
    return RECIPES | others


def get_recipe(name: str) -> Recipe:
    """Build the recipe with this name.

    Raises:
        InputError: if there is no such recipe, or a plugin's function does not return one.
    """
    known = all_recipes()
    if name not in known:
        hint = suggestion(name, known)
        if not hint.endswith("?"):
            hint += "; load a recipe of your own with --plugin MODULE"
        raise InputError(f"expected a recipe name, received {name!r}: {hint}")
    recipe = known[name]()
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"expected a function that returns a Recipe under the name {name!r}, received a "
            f"{type(recipe).__name__}: correct {known[name].__module__}"
        )
    return recipe
