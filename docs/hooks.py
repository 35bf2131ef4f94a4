"""Hooks of the documentation's build, named in mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
"""A link to a file of the repository that is not part of the site."""
NAMES = re.compile(r"<!-- (?:names|methods): ([\w. ]+) -->")
"""Where the reference of all public names of some modules goes, alone or with their methods; prefixes of the
modules, after `smalti.`."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that lead out of the site by their text, and marks of the reference by its directives."""
    if not page.file.src_uri.startswith("reference/"):
        markdown = OUTSIDE.sub(r"\1", markdown)
    return NAMES.sub(_directives, markdown)


def _directives(mark: re.Match[str]) -> str:
    """Return a directive for each public name, but those of registries and of configs."""
    import smalti
    from smalti.core.registry import Registry

    prefixes, found = tuple(mark[1].split()), []
    for module, names in smalti._MODULES.items():
        if module.startswith(prefixes):
            found += [
                f"::: smalti.{module}.{name}"
                for name in names.split()
                if not name.endswith("Config") and not isinstance(getattr(smalti, name), Registry)
            ]
    options = "\n    options:\n      members: true" if mark[0].startswith("<!-- methods") else ""
    return "\n\n".join(f"{one}{options}" for one in sorted(found))
