"""`smalti docs`: the pages are served on this machine until Ctrl-C."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

import pytest

from smalti.app.commands import docs as command


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The start page."""
    page = tmp_path / "index.html"
    page.write_text("the start page")
    monkeypatch.setattr(command, "_start", lambda: page)
    return page


@pytest.mark.parametrize("has_browser", [True, False])
def test_the_pages_are_served_until_ctrl_c(
    has_browser: bool, start: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read: list[bytes] = []
    readers: list[Thread] = []

    def browse(address: str) -> bool:
        assert address.startswith("http://127.0.0.1:")
        readers.append(Thread(target=lambda: read.append(urlopen(address, timeout=60).read())))
        readers[0].start()
        return has_browser

    def serve_one(server: ThreadingHTTPServer) -> None:
        server.handle_request()
        raise KeyboardInterrupt

    monkeypatch.setattr(command.webbrowser, "open", browse)
    monkeypatch.setattr(command.ThreadingHTTPServer, "serve_forever", serve_one)
    assert command.docs() == start
    readers[0].join(60)
    assert read == [b"the start page"]
    told = "".join(capfd.readouterr())
    assert "Ctrl-C" in told
    assert ("No browser" in told) != has_browser
    assert "GET" not in told, "requests are not logged"


def test_without_a_browser_the_pages_are_named(start: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command.docs(is_opened=False) == start
    assert start.name in "".join(capfd.readouterr())
