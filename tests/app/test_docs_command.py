"""`smalti docs`: the pages are served on this machine until Ctrl-C."""

from __future__ import annotations

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

    def browse(address: str) -> bool:
        assert address.startswith("http://127.0.0.1:")
        read.append(urlopen(address, timeout=60).read())
        return has_browser

    class Interrupted(Thread):
        def join(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.webbrowser, "open", browse)
    monkeypatch.setattr(command, "Thread", Interrupted)
    assert command.docs(quiet=True) == start
    assert read == [b"the start page"]
    told = "".join(capfd.readouterr())
    assert ("Ctrl-C" in told) != has_browser, "without a browser, the address is told in any case"
    assert ("No browser" in told) != has_browser
    assert "GET" not in told, "requests are not logged"


def test_without_a_browser_the_pages_are_named(start: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command.docs(is_opened=False) == start
    assert start.name in "".join(capfd.readouterr())
