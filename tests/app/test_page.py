"""A page is one file: pictures inside, text escaped, nothing missing."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import pytest
import soundfile
from PIL import Image

from smalti.app.pages import page
from smalti.app.pages.page import inline, sound, write_page


def picture() -> Image.Image:
    return Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def shown(address: str) -> np.ndarray:
    """The pixels of a data address."""
    kind, data = address.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template in place of those of the package."""
    text = '<p>{{ name }}</p><img src="{{ one }}"><img src="{{ two }}">'
    monkeypatch.setattr(page, "PackageLoader", lambda *_: jinja2.DictLoader({"small.html.j2": text}))


def test_pictures_become_data_addresses(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    for one in (picture(), tmp_path / "a.png"):
        np.testing.assert_array_equal(shown(inline(one)), np.asarray(picture()))


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_sounds_become_data_addresses(rate_hz: int) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 500).astype(np.float32)
    wave[:3] = (-3, 0, 2)  # what leaves the range is clipped
    kind, data = sound(wave, rate_hz).split(",", 1)
    assert kind == "data:audio/wav;base64"
    levels, found_hz = soundfile.read(io.BytesIO(base64.b64decode(data, validate=True)), dtype="int16")
    assert found_hz == rate_hz
    np.testing.assert_array_equal(levels[:3], [-32767, 0, 32767])
    np.testing.assert_allclose(levels[3:] / 32767, wave[3:], rtol=0, atol=0.51 / 32767)


@pytest.mark.usefixtures("template")
def test_text_is_escaped_and_pictures_are_not(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    path = tmp_path / "deep" / "index.html"
    write_page(path, "small.html.j2", name="<b> & 'ß'", one=picture(), two=tmp_path / "a.png")
    text = path.read_text(encoding="utf-8")
    assert "<p>&lt;b&gt; &amp; &#39;ß&#39;</p>" in text
    assert text.count(f'src="{inline(tmp_path / "a.png")}"') >= 1
    assert text.count('src="data:image/png;base64,') == 2


@pytest.mark.usefixtures("template")
def test_a_value_that_is_missing_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(jinja2.UndefinedError, match="two"):
        write_page(path, "small.html.j2", name="a", one=picture())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
