"""`smalti recipes`: the recipes, and every setting of one."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

from smalti.core.plugins import ENTRY_POINTS, VARIABLE, installed, loaded_plugins


def list_recipes() -> str:
    """List every recipe with the first line of its description."""
    if installed(ENTRY_POINTS) or os.environ.get(VARIABLE) or loaded_plugins():
        from smalti.app.recipes import all_recipes

        first_lines = {name: _first_line(inspect.getdoc(build)) for name, build in all_recipes().items()}
    else:
        first_lines = _read_first_lines()
    width = max(len(name) for name in first_lines)
    lines = [f"{name:<{width}}  {text}".rstrip() for name, text in first_lines.items()]
    return "\n".join([*lines, "", "Show all settings of a recipe: smalti recipes NAME"])


def show_recipe(name: str) -> str:
    """Return a recipe's description and every setting that `key=value` can change, with its meaning.

    Raises:
        InputError: when there is no such recipe.
    """
    from smalti.app.recipes import all_recipes, get_recipe
    from smalti.app.settings import described

    recipe = get_recipe(name)
    return "\n".join([inspect.getdoc(all_recipes()[name]) or "", "", *described(recipe)])


def _read_first_lines() -> dict[str, str]:
    """Read the first lines from the source: importing the recipes imports torch, which takes seconds."""
    folder = Path(__file__).parents[1] / "recipes"
    (table,) = (
        node.value
        for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "RECIPES"
    )
    assert isinstance(table, ast.Dict)
    modules: dict[str, dict[str, str | None]] = {}
    first_lines = {}
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant)
        module, function = ast.unparse(value).split(".")
        if module not in modules:
            tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
            functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
            modules[module] = {node.name: ast.get_docstring(node) for node in functions}
        first_lines[str(key.value)] = _first_line(modules[module][function])
    return first_lines


def _first_line(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0]
