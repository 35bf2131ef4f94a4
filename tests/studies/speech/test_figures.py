"""Figures of speech are written as pictures, and show what they are given."""

from pathlib import Path

import numpy as np
import pytest

from smalti.studies.speech import figures as speech_figures
from smalti.studies.speech.figures import code_phone_matrix, f0_curves, spectrograms
from tests.evaluation.test_figures import pixels

pytestmark = pytest.mark.usefixtures("drawn_figures")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures that were saved."""
    figures, save = [], speech_figures._save

    def keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(speech_figures, "_save", keep)
    return figures


class TestCodePhoneMatrix:
    counts = np.array([[0, 1, 9], [5, 5, 0], [0, 0, 0], [0, 0, 4], [8, 2, 0], [0, 0, 0]])

    def test_codes_are_sorted_by_their_phone(self, tmp_path, drawn):
        code_phone_matrix(self.counts, ["AA", "B", "CH"], tmp_path / "new" / "matrix.png")
        pixels(tmp_path / "new" / "matrix.png")
        axes = drawn[0].axes[0]
        # Both AA and CH have two codes, and CH is more frequent; B has no code of its own.
        assert [label.get_text() for label in axes.get_yticklabels()] == ["AA", "CH", "B"]
        np.testing.assert_allclose(
            axes.images[0].get_array(), [[80, 50, 0, 0], [0, 0, 100, 90], [20, 50, 0, 10]]
        )
        assert axes.get_title() == "4 of 6 codes occur"
        assert [float(x) + 0.5 for x in axes.collections[0].get_segments()[0][:, 0]] == [2, 2]

    def test_of_real_size(self, tmp_path):
        rng = np.random.default_rng(0)
        counts = rng.multinomial(100, rng.dirichlet(np.full(41, 0.05), 128))
        code_phone_matrix(counts, [f"P{i}" for i in range(41)], tmp_path / "large.png")
        code_phone_matrix(counts[:16], [f"P{i}" for i in range(41)], tmp_path / "small.png")
        assert pixels(tmp_path / "large.png").shape[1] > pixels(tmp_path / "small.png").shape[1]


class TestF0Curves:
    def test_one_above_the_other_on_one_scale(self, tmp_path, drawn):
        curves = {"low": np.array([100.0, np.nan, 120.0, 110.0]), "high": np.array([200.0, 240.0])}
        f0_curves(curves | {"none": np.full(4, np.nan)}, 0.01, tmp_path / "f0.png")
        pixels(tmp_path / "f0.png")
        panels = drawn[0].axes
        titles = ["low (median 110 Hz)", "high (median 220 Hz)", "none (unvoiced)"]
        assert [axes.get_title() for axes in panels] == titles
        assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in panels}) == 1
        low, high = panels[0].get_ylim()
        assert low < 100
        assert high > 240
        np.testing.assert_allclose(panels[0].lines[0].get_xdata(), [0.005, 0.015, 0.025, 0.035])
        np.testing.assert_array_equal(panels[0].lines[0].get_ydata(), curves["low"])

    def test_of_nothing(self, tmp_path):
        f0_curves({"none": np.full(3, np.nan)}, 0.01, tmp_path / "f0.png")
        f0_curves({"no frame": np.zeros(0)}, 0.01, tmp_path / "f0.png")
        pixels(tmp_path / "f0.png")


class TestSpectrograms:
    @staticmethod
    def tone(hz: float, seconds: float = 0.3, rate: int = 16000) -> np.ndarray:
        return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)

    def test_tones_lie_at_their_frequency(self, tmp_path, drawn):
        path = tmp_path / "spectrograms.png"
        spectrograms({"1 kHz": self.tone(1000), "5 kHz": 0.1 * self.tone(5000, 0.6)}, 16000, path)
        pixels(path)
        for axes, khz, level, seconds in zip(drawn[0].axes, (1, 5), (0, -20), (0.3, 0.6), strict=False):
            image = axes.images[0]
            values = np.asarray(image.get_array())
            left, right, bottom, top = image.get_extent()
            assert (left, bottom, top) == (0, 0, 8)
            assert right == pytest.approx(seconds, abs=0.008)
            middle = values[:, values.shape[1] // 2]
            assert middle.argmax() / (len(middle) - 1) * top == pytest.approx(khz, abs=0.02)
            assert middle.max() == pytest.approx(level, abs=0.5)
            assert axes.get_title() == f"{khz} kHz"
            assert image.get_clim() == pytest.approx((-70, 0), abs=0.5)

    def test_more_signals_are_wider(self, tmp_path):
        one, three = Path(tmp_path / "one.png"), Path(tmp_path / "three.png")
        spectrograms({"a": self.tone(500)}, 8000, one)
        spectrograms({name: self.tone(500) for name in "abc"}, 8000, three)
        assert pixels(three).shape[1] > 2 * pixels(one).shape[1]

    def test_silence(self, tmp_path):
        spectrograms({"silence": np.zeros(4000, np.float32)}, 16000, tmp_path / "silence.png")
        assert (tmp_path / "silence.png").stat().st_size > 0
