"""Marks, tables and the plot, from made records."""

import io

import pytest
from rich.console import Console

from smalti.studies.quantizers.experiment import Column, Curve
from smalti.studies.quantizers.figures import rate_distortion
from smalti.studies.quantizers.report import (
    TITLES,
    WIDTH,
    cells,
    note_on_marks,
    on_screen,
    overview,
    with_weights,
)
from smalti.studies.quantizers.significance import indistinguishable

COLUMNS = (
    Column("bits_learned", "learned", ".1f", has_error=True),
    Column("mse_over_variance", "MSE", ".3f", has_error=True, is_score=True),
    Column("psnr", "PSNR"),
)


def record(entry, seed, mse, asked=441.0, **metrics):
    values = {"bits_learned": 300.0 + seed, "mse_over_variance": mse, "rate": 1.0 + seed, "distortion": mse}
    return {
        "entry": entry,
        "seed": seed,
        "asked_bits": asked,
        "bits": 441.0,
        "weights": {"commitment_weight": 0.25} if entry != "fsq" else {},
        "metrics": values | metrics,
    }


# The seeds differ much more than the quantizers, whose differences are the same for each seed but for noise.
PAIRED = [
    *(record("a", seed, value) for seed, value in enumerate((0.1, 0.2, 0.3))),
    *(record("b", seed, value) for seed, value in enumerate((0.11, 0.21, 0.311))),
    *(record("c", seed, value) for seed, value in enumerate((0.13, 0.18, 0.31))),
    *(record("d", seed, value) for seed, value in enumerate((0.5, 0.1))),
]


def test_differences_are_paired_over_seeds():
    # Differences to a: b 0.0103 +- 0.0003; c 0.0067 +- 0.0145; d, of two seeds, 0.15 +- 0.25.
    assert indistinguishable(PAIRED, "mse_over_variance") == {"a", "c", "d"}


def test_one_seed_marks_only_the_best():
    records = [record("a", 0, 0.1), record("b", 0, 0.1001)]
    assert indistinguishable(records, "mse_over_variance") == {"a"}
    assert "not tested" in note_on_marks(records)


def test_each_rate_has_its_best():
    records = [record("a, 8 bits", 0, 0.3, 8.0), record("b, 8 bits", 0, 0.2, 8.0)]
    records += [record("a, 9 bits", 0, 0.1, 9.0), record("mine", 0, 0.05, None)]
    assert indistinguishable(records, "mse_over_variance") == {"b, 8 bits", "a, 9 bits", "mine"}
    assert indistinguishable([*records[:2], records[3]], "mse_over_variance") == {"mine"}


def test_cells_have_means_and_errors_over_seeds():
    header, rows = cells(PAIRED[:3], COLUMNS)
    assert header == ["quantizer", "learned", "MSE"]  # no record has a PSNR
    assert rows == [["a", "301.0 ± 0.6", "0.200 ± 0.058*"]]


def test_weights_are_a_column_where_some_were_chosen():
    records = [record("vq", 0, 0.1), record("fsq", 0, 0.2)]
    header, rows = with_weights(cells(records, COLUMNS), records)
    assert [(row[0], row[-1]) for row in rows] == [("vq", "commitment=0.25"), ("fsq", "-")]
    assert header[-1] == "loss weights"
    assert with_weights(cells(records[1:], COLUMNS), records[1:]) == cells(records[1:], COLUMNS)


def test_a_table_fits_the_screen():
    header = ["quantizer", "bits", "learned prior", "MSE / variance", "PSNR", "distortion", "bits/dim"]
    row = ["a-long-name, 1800 bits", "1,792.0", "1,512.3 ± 10.2", "0.0123 ± 0.0011*", "25.31 ± 0.12"]
    console = Console(width=WIDTH, file=io.StringIO())
    other = ["b", "1.0", "1.0", "0.0456 ± 0.0011", "1.0", "1.0", "1.0"]
    console.print(on_screen(TITLES[0], (header, [[*row, "3.512", "4.123 ± 0.012*"], other])))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line.index("0.0123") for line in lines if "0.0123" in line] == [lines[-1].index("0.0456")]
    assert any("1,512.3 ± 10.2" in line and "* 4.123 ± 0.012" in line for line in lines)


@pytest.mark.usefixtures("drawn_figures")
def test_the_plot_is_drawn_with_and_without_references(tmp_path):
    curve = Curve("bound", ((0.0, 1.0), (441.0, 0.1)))
    for number, (records, curves) in enumerate(
        [
            ([record(name, seed, 0.1, bits_per_dim=2.0) for name in "ab" for seed in (0, 1)], []),
            ([record("a", 0, 0.1), record("b", 0, 0.2)], [curve]),
        ]
    ):
        path = tmp_path / f"{number}.png"
        rate_distortion(records, curves, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_an_overview_has_a_column_for_each_data_set_and_rate():
    records = [
        {**record(f"{name}, {bits:g} bits", 0, mse, bits), "dataset": data}
        for data, name, bits, mse in (
            ("letters", "vq", 8.0, 0.1),
            ("letters", "fsq", 8.0, 0.2),
            ("letters", "vq", 4.0, 0.3),
            ("clothes", "vq", 8.0, 0.4),
            ("others", "vq", 8.0, 0.5),
        )
    ]
    header, rows = overview(records, COLUMNS[1], {"clothes": "Clothes", "letters": "Letters"})
    assert header == ["quantizer", "Clothes, 8 bits", "Letters, 4 bits", "Letters, 8 bits"]
    assert rows == [["vq", "0.400*", "0.300*", "0.100*"], ["fsq", "-", "-", "0.200"]]
