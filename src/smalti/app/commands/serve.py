"""`smalti serve`: a local page over one or more models."""

from __future__ import annotations

from collections.abc import Sequence

from smalti.app.console import note
from smalti.core.extras import needs_extra
from smalti.core.hub import shipped


def serve(runs: Sequence[str] = (), port: int = 7860, host: str = "127.0.0.1", quiet: bool = False) -> None:
    """Serve a page over runs until Ctrl-C.

    Args:
        runs: directories, models in this package, or names on the Hub; empty for the models in this package.
        port: of the page; 0 takes a free one.
        host: address to bind to; the default is reachable from this machine only.
        quiet: hide notes.

    Raises:
        InputError: if a run cannot be loaded or shown, the port is in use, or the extra is not installed.
    """
    with needs_extra("page"):
        from smalti.app.serving.server import build_app, free_socket, run_server, temporary_uploads
    from smalti.app.serving.models import load_models

    note("Starting the page ...", quiet)
    models = load_models(runs or shipped())
    bound = free_socket(host, port)
    address = f"[{host}]" if ":" in host else host

    def ready() -> None:
        note(f"The page is at http://{address}:{bound.getsockname()[1]}/. Ctrl-C stops it.", quiet)

    with bound, temporary_uploads():
        run_server(build_app(models, host), bound, ready)
