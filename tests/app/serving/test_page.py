"""The page of `smalti serve` in headless Chromium, as its users see it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests import videos

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LONG_MS = 120_000
"""A busy machine is no failure."""
SIZE = {"width": 1300, "height": 1000}


@dataclass(frozen=True)
class Server:
    """A running page.

    Attributes:
        address: of the page.
        process: that serves it.
        temporary: its folder for temporary files.
    """

    address: str
    process: subprocess.Popen[str]
    temporary: Path

    def files(self) -> list[Path]:
        """Files with content that are on its disk."""
        return [path for path in self.temporary.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def server(walks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        "-m",
        "smalti",
        "serve",
        "fashion-mnist",
        "spoken-digits",
        str(walks),
        "--port",
        "0",
    ]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"at (http://\S+/)\. Ctrl-C", said.replace("\n", " "))):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield Server(found[1], process, temporary)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert process.returncode == 0
    assert not list(temporary.glob("smalti-page-*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """The page in a fresh browser, which requested nothing from elsewhere, and left no file behind."""
    with opened(server, browser) as one:
        yield one
    assert not server.files()


class opened:
    """A user with a browser of their own."""

    def __init__(self, server: Server, browser: Any) -> None:
        self.server, self.context = server, browser.new_context(viewport=SIZE)
        self.requested: list[str] = []

    def __enter__(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(LONG_MS)
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(self.server.address)
        page.wait_for_selector("#look-upload input[type=file]", state="attached")
        return page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        allowed = (self.server.address, self.server.address.replace("http", "ws"), "data:", "blob:")
        assert [url for url in self.requested if not url.startswith(allowed)] == []


def choose(page: Any, dropdown: str, name: str) -> None:
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def upload(page: Any, field: str, path: Path) -> None:
    page.set_input_files(f"{field} input[type=file]", str(path))


def picture(path: Path, seed: int = 0) -> Path:
    ground = np.zeros((28, 28), np.uint8)
    ground[4:24, 6 + seed : 20] = 200
    Image.fromarray(ground).save(path)
    return path


def recording(path: Path) -> Path:
    tone = 0.3 * np.sin(np.arange(12_000) / 8 * (1 + np.arange(12_000) / 20_000))
    soundfile.write(path, tone.astype(np.float32), 8000)
    return path


def drawn_across(page: Any, canvas: Any) -> None:
    """Draw a line over the third row of a map of codes."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] * 0.4, steps=12)
    page.mouse.up()


def source(page: Any, selector: str) -> str:
    return page.locator(selector).first.get_attribute("src")


def sources(page: Any, selector: str) -> list[str]:
    return [one.get_attribute("src") for one in page.locator(selector).all()]


def test_codes_of_a_picture_are_looked_at_and_changed(page, tmp_path):
    upload(page, "#look-upload", picture(tmp_path / "picture.png"))
    page.wait_for_selector("#look-decoded img")
    canvas = page.locator("#look-codes canvas")
    canvas.hover(position={"x": 20, "y": 20})
    assert re.search(
        r"code \d+, .* % of the training codes", page.locator("#look-codes .tip .words").inner_text()
    )
    assert "data:image/png" in page.locator("#look-codes .tip .tile").get_attribute("style")
    before = source(page, "#look-decoded img")
    page.locator("#look-codes [value=paint]").click()
    page.locator("#look-codes [name=brush]").fill("300")
    drawn_across(page, canvas)
    page.locator("#look-figures").get_by_text("codes changed").wait_for()
    assert source(page, "#look-decoded img") != before
    page.locator("#look-reset").click()
    page.locator("#look-figures").get_by_text("codes changed").wait_for(state="detached")
    assert source(page, "#look-decoded img") == before


def test_codes_of_a_recording_are_heard(page, tmp_path):
    choose(page, "#look-model", "spoken-digits")
    upload(page, "#look-upload", recording(tmp_path / "tone.wav"))
    page.wait_for_selector("#look-decoded audio")
    page.locator("#look-codes canvas").click(position={"x": 8, "y": 8})
    page.wait_for_selector("#look-code audio")
    seconds = page.locator("#look-code audio").evaluate(
        "sound => new Promise(done => sound.duration ? done(sound.duration) : sound.onloadedmetadata = () => "
        "done(sound.duration))"
    )
    assert 0.2 < seconds < 2
    page.locator("#look-decoded audio").evaluate("sound => { sound.muted = true; return sound.play(); }")


def test_a_clip_is_looked_at(page, tmp_path):
    choose(page, "#look-model", "walks")
    upload(page, "#look-upload", videos.save(tmp_path / "clip", videos.moving(6, 16, 16)))
    page.wait_for_selector("#look-decoded video")
    assert page.locator("#look-codes canvas").count() == 2 * 6


def test_items_are_drawn_and_holes_filled(page):
    page.get_by_role("tab", name="Generate").click()
    choose(page, "#generate-class", "Sneaker")
    page.locator("#generate-draw").click()
    page.wait_for_selector("#generate-drawn img")
    assert page.locator("#generate-drawn img").count() == 4
    before = sources(page, "#generate-drawn img")
    page.locator("#generate-codes [value=erase]").click()
    drawn_across(page, page.locator("#generate-codes canvas"))
    page.wait_for_timeout(500)
    page.locator("#generate-fill").click()
    page.wait_for_function(
        "before => { const now = [...document.querySelectorAll('#generate-drawn img')].map(one => one.src); "
        "return now.length == 4 && now.join() != before.join(); }",
        arg=before,
    )
    filled = sources(page, "#generate-drawn img")
    assert len(set(filled)) > 1, "the holes of each are drawn anew"


def test_a_recording_is_converted(page, tmp_path):
    page.get_by_role("tab", name="Convert").click()
    upload(page, "#convert-recording", recording(tmp_path / "tone.wav"))
    page.wait_for_selector("#convert-result audio")
    assert page.locator("#convert-result audio").count() == 2
    before = page.locator("#convert-result audio").last.get_attribute("src")
    choose(page, "#convert-voice", "theo")
    page.locator("#convert-run").click()
    changed = "before => [...document.querySelectorAll('#convert-result audio')].at(-1).src != before"
    page.wait_for_function(changed, arg=before)


def test_a_codebook_is_shown(page):
    page.get_by_role("tab", name="Codebook").click()
    page.locator("#codebook-show").click()
    page.wait_for_selector("#codebook-atlas .tile")
    page.locator("#codebook-code input").fill("17")
    page.locator("#codebook-near").click()
    page.locator("#codebook-neighbours").get_by_text("Codes nearest to code 17").wait_for()
    assert page.locator("#codebook-neighbours .tile").count() == 13, "itself, and twelve others"
    assert page.locator("#codebook-atlas .tile").count() == 256


def test_models_are_compared(page, tmp_path):
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-models").get_by_label("fashion-mnist").check()
    upload(page, "#compare-upload", picture(tmp_path / "picture.png"))
    page.wait_for_selector("#compare-results table")
    page.locator("#compare-models").get_by_label("walks").check()
    page.locator("#compare-curves").click()
    page.wait_for_selector("#compare-drawn img")


@pytest.mark.parametrize(
    ("model", "name", "content", "sentence"),
    [
        ("fashion-mnist", "text.png", b"no picture", "cannot be read"),
        ("spoken-digits", "empty.wav", b"", "cannot be read"),
        ("fashion-mnist", "large.png", bytes(50 << 20), "exceed the maximum allowed size"),
    ],
)
def test_what_cannot_be_read_is_said(page, tmp_path, model, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    if model != "fashion-mnist":
        choose(page, "#look-model", model)
    upload(page, "#look-upload", tmp_path / name)
    page.locator(".toast-wrap, .toast-body").get_by_text(re.compile(sentence)).first.wait_for()
    assert page.locator("#look-decoded img, #look-decoded audio").count() == 0
    # And the page goes on.
    if model == "fashion-mnist":
        page.reload()
        page.wait_for_selector("#look-upload input[type=file]", state="attached")
        upload(page, "#look-upload", picture(tmp_path / "picture.png"))
        page.wait_for_selector("#look-decoded img")


def test_two_users_have_their_own_items(server, browser, tmp_path):
    with opened(server, browser) as one, opened(server, browser) as other:
        for user, seed in ((one, 0), (other, 6)):
            upload(user, "#look-upload", picture(tmp_path / f"{seed}.png", seed))
            user.wait_for_selector("#look-decoded img")
        mine, theirs = (source(user, "#look-decoded img") for user in (one, other))
        assert mine != theirs
        one.locator("#look-codes [value=paint]").click()
        drawn_across(one, one.locator("#look-codes canvas"))
        one.locator("#look-figures").get_by_text("codes changed").wait_for()
        other.locator("#look-reset").click()
        other.wait_for_timeout(1000)
        assert source(other, "#look-decoded img") == theirs
        one.locator("#look-reset").click()
        one.locator("#look-figures").get_by_text("codes changed").wait_for(state="detached")
        assert source(one, "#look-decoded img") == mine
    assert not server.files()


def test_other_hosts_names_are_refused(server, browser):
    page = browser.new_page()
    answer = page.request.get(server.address, headers={"Host": "example.org"})
    assert answer.status == 400
    allowed = page.request.get(server.address)
    assert "default-src 'self'" in allowed.headers["content-security-policy"]
    page.close()
