"""`smalti docs`: open the documentation."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import webbrowser
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

from smalti.app.console import note
from smalti.core.errors import InputError

CHECKOUT = Path(__file__).parents[4]
"""Folder of the project, if the package is not installed from a wheel."""


def docs(is_opened: bool = True, quiet: bool = False) -> Path:
    """Show the documentation of this version in a browser, until Ctrl-C; return the path of its start page.

    A wheel made by `make wheel` contains the pages; in a checkout they are those of the last `make docs`, or
    are built. They are served on a free port of this machine only, since browsers search no files.

    Args:
        is_opened: False only finds, or builds, the pages.
        quiet: hide notes.

    Raises:
        InputError: if there are no pages, and they cannot be built.
    """
    start = _start()
    if not is_opened:
        note(f"The documentation is {start}.", quiet)
        return start
    with _Server(("127.0.0.1", 0), partial(_Pages, directory=str(start.parent))) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        with suppress(KeyboardInterrupt):
            # Some browsers run in this terminal, until they are left.
            is_found = webbrowser.open(address)
            note(f"The documentation is at {address} until Ctrl-C.", quiet and is_found)
            if not is_found:
                note("No browser was found: open the address yourself.")
            serving.join()
        server.shutdown()
    return start


class _Server(ThreadingHTTPServer):
    """Says nothing of browsers that leave before they have read a page."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Pages(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _start() -> Path:
    """Return the start page, and build it if necessary."""
    packed = Path(str(files("smalti.app").joinpath("site", "index.html")))
    built = CHECKOUT / "build" / "site" / "index.html"
    for found in (packed, built):
        if found.is_file():
            return found
    if not (CHECKOUT / "mkdocs.yml").is_file() or importlib.util.find_spec("mkdocs") is None:
        raise InputError(
            "expected the pages of the documentation, found none in this installation: run `make docs` in a "
            "checkout of the project"
        )
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet"]
    built_now = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if built_now.returncode:
        raise InputError("expected the documentation to be built, which failed: install `smalti[dev]`")
    return built
