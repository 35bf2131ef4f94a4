"""The demo: one page that stands alone, and a folder of pictures for the next commands."""

from __future__ import annotations

import base64
import functools
import io
import string
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from smalti.app import data
from smalti.app.commands import demo as demo_verb
from smalti.app.console import console
from smalti.app.letters import LettersSource
from tests.runs import Result

TINY = [
    *(
        f"{part}.{width}"
        for part in ("encoder", "decoder")
        for width in ("channels=8", "residual_channels=4")
    ),
    "num_codes=16",
    "code_dim=4",
    *(
        f"{stage}{setting}"
        for stage in ("", "prior.")
        for setting in (
            "training.steps=5",
            "training.batch_size=8",
            "training.log_every=1",
            "training.validate_every=0",
        )
    ),
    "prior.network.channels=8",
    "prior.network.layers=2",
    "prior.network.head_channels=8",
]


class Page(HTMLParser):
    """The addresses that a browser would fetch, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[tuple[str, str]] = []
        self.alts: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.addresses += [
            (tag, value or "") for name, value in attrs if name in ("src", "href", "srcset", "data")
        ]
        if tag == "img":
            self.alts.append(values.get("alt") or "")
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False


@pytest.fixture(scope="module")
def shown(draw: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The demo's directory, its page and its notes, of few letters and few steps."""
    few = functools.partial(LettersSource, num_train=104, num_test=52)
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch, console.capture() as captured:
        patch.setattr(Figure, "savefig", draw)
        patch.setattr(data, "LettersSource", few)
        patch.setattr(demo_verb, "LettersSource", few)
        page = demo_verb.demo(out, TINY)
    assert page == out / "index.html"
    return out, page.read_text(encoding="utf-8"), captured.get()


@pytest.fixture(scope="module")
def demo(shown: tuple[Path, str, str]) -> tuple[Path, str]:
    """The demo's directory and its page."""
    return shown[:2]


def test_the_demo_does_not_suggest_what_it_does_itself(shown: tuple[Path, str, str]) -> None:
    notes = shown[2]
    assert "The run is in" in notes
    assert "The prior is in" in notes
    assert "Next:" not in notes


def test_the_page_needs_no_other_file(demo: tuple[Path, str]) -> None:
    _, text = demo
    page = Page(text)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert {tag for tag, _ in page.addresses} == {"img"}
    for _, address in page.addresses:
        assert address.startswith("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1], validate=True))) as picture:
            picture.load()
            assert min(picture.size) > 16
    assert "@import" not in text
    assert "url(" not in text
    assert "{{" not in text
    assert "nan" not in text.split("<table>")[1].split("</table>")[0]


def test_the_page_shows_every_class_and_every_prior(demo: tuple[Path, str]) -> None:
    _, text = demo
    page = Page(text)
    for letter in string.ascii_lowercase:
        assert page.alts.count(f"samples of class {letter}") == 1
    for figure in (
        "a letter",
        "its codes",
        "its reconstruction",
        "new letters",
        "originals above reconstructions",
        "originals above their code maps",
        "how often each code occurs",
        "learning curves of the autoencoder",
        "learning curves of the prior",
    ):
        assert figure in page.alts
    priors = ["uniform", "unigram", "learned", "learned+class"]
    assert [row[0] for row in page.rows] == ["prior", *priors, "PNG (files)", "WebP lossless (files)"]
    for row in page.rows[5:]:
        assert 0 < float(row[1]) < 8
    for row in page.rows[1:5]:
        bits, rate, distortion, stderr = map(float, row[1:])
        assert rate + distortion == pytest.approx(bits, abs=2e-3)
        assert stderr > 0
    assert text.count('<tr class="best">') == 1
    assert "52 held-out letters" in text
    # 2 % of the 104 letters are held out for validation.
    assert "trained on 102 pictures" in text
    assert "fewer bits" in text


def test_the_demo_leaves_a_run(demo: tuple[Path, str], smalti: Callable[..., Result]) -> None:
    out, _ = demo
    text = smalti("inspect", out / "run").out
    assert "training    step 5 of 5" in text
    assert f"classes     {', '.join(string.ascii_lowercase)}" in text


def test_a_folder_of_pictures(tmp_path: Path, smalti: Callable[..., Result]) -> None:
    out = tmp_path / "pictures"
    assert smalti("demo", "--write-images", out, "--num", 52).status == 0
    files = sorted(out.rglob("*.png"))
    assert len(files) == 52
    assert {file.parent.name for file in files} == set(string.ascii_lowercase)
    with Image.open(files[0]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 32))


def test_a_folder_that_is_taken(tmp_path: Path, mistake: Callable[..., str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "expected a new or empty folder" in mistake("demo", "--write-images", tmp_path, "--num", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "above 0" in mistake("demo", "--write-images", tmp_path / "new", "--num", 0)


def test_a_setting_that_does_not_exist(tmp_path: Path, mistake: Callable[..., str]) -> None:
    assert "did you mean training.steps" in mistake("demo", "--out", tmp_path / "demo", "training.stpes=5")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("split", "command"), [("train", "smalti train"), ("test", "smalti evaluate")])
def test_held_out_pictures_are_not_proposed_for_training(
    split: str, command: str, tmp_path: Path, smalti: Callable[..., Result]
) -> None:
    shown = smalti("demo", "--write-images", tmp_path / "out", "--num", 3, "--split", split)
    assert shown.status == 0
    assert command in shown.err
