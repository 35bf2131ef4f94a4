"""Hooks of the documentation's build, named in mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)[^)]*\)")
"""A link to a folder above that of the page."""
NAMES = re.compile(r"<!-- (?:names|methods): ([\w. ]+) -->")
"""Where the reference of all public names of some modules goes, alone or with their methods; prefixes of the
modules, after `smalti.`."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that lead out of the site by their text, and marks of the reference by its directives."""
    depth = page.file.src_uri.count("/")
    markdown = LINK.sub(lambda link: link[1] if link[2].count("/") > depth else link[0], markdown)
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
