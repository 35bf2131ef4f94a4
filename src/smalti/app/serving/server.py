"""Build the page, and serve it from this machine."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at its import

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from gradio.themes import Default
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from smalti.app.serving.code_map import page_file
from smalti.app.serving.codebook import add_codebook
from smalti.app.serving.compare import add_compare
from smalti.app.serving.convert import add_convert
from smalti.app.serving.generate import add_generate
from smalti.app.serving.look import add_look
from smalti.app.serving.media import MOST_BYTES
from smalti.app.serving.models import Served
from smalti.core.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_QUEUE = 16
MOST_SESSIONS = 32
KEPT_S = 600
"""Seconds after which an upload is deleted that no call has read."""
CLOSED = ("deep_link", "process_recording", "file=http", "vibe", "stream")
"""Beginnings of Gradio's routes that the page does not need, and which write or fetch files."""
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "frame-ancestors 'none'",
    ]
)
"""The browser loads nothing from elsewhere."""
FONTS = ["system-ui", "sans-serif"]


def build_page(models: Mapping[str, Served]) -> gr.Blocks:
    """Build the page over some models."""
    with gr.Blocks(title="smalti", analytics_enabled=False, delete_cache=(60, KEPT_S)) as page:
        gr.Markdown("# smalti\nPictures, sounds and clips as discrete codes: look, change, draw new ones.")
        with gr.Tab("Look"):
            add_look(models)
        with gr.Tab("Generate"):
            add_generate(models)
        voices = {
            name: served for name, served in models.items() if served.is_sound and served.decoder_classes
        }
        if voices:
            with gr.Tab("Convert"):
                add_convert(voices)
        with gr.Tab("Codebook"):
            add_codebook(models)
        with gr.Tab("Compare"):
            add_compare(models)
    # Gradio refuses paths that were not uploaded, and forgets sessions, for pages that it launched itself.
    page.has_launched, page.state_session_capacity = True, MOST_SESSIONS
    return page.queue(max_size=LONGEST_QUEUE, api_open=False)


def build_app(models: Mapping[str, Served], host: str) -> FastAPI:
    """Build the application that serves the page; uploads are limited, and other hosts' names refused."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOOPBACK:  # against DNS rebinding
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])

    @app.middleware("http")
    async def with_policy(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if not is_allowed(request):
            return Response("refused", 403)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    theme = Default(font=FONTS, font_mono=["ui-monospace", "monospace"], primary_hue="indigo")
    return gr.mount_gradio_app(
        app,
        build_page(models),
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme,
        css=page_file("page.css"),
    )


def is_allowed(request: Request) -> bool:
    """False for requests that another site's page makes, and for routes that this page does not need."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return False
    route = request.url.path.partition("/gradio_api/")[2]
    return not route.startswith(CLOSED)


@contextmanager
def temporary_uploads() -> Iterator[Path]:
    """Keep uploads in a folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="smalti-page-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def free_socket(host: str, port: int) -> socket.socket:
    """Bind to an address; port 0 takes a free one.

    Raises:
        InputError: if the port is in use, or the host is no address of this machine.
    """
    bound = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        raise InputError(
            f"expected an address of this machine and a free port, received {host}:{port} "
            f"({getattr(error, 'strerror', None) or error}): choose another --port or --host"
        ) from error
    return bound


@final
class _Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def run_server(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, and return then; call `ready` once the page answers."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        # It handles both signals itself, and raises them again once it has stopped.
        with suppress(KeyboardInterrupt):
            _Server(config, ready).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
