"""Settings nearest to a rate, against a table worked out by hand; the search of loss weights."""

import json
import math

import pytest

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.studies.quantizers.entries import ENTRIES, Target, entries_of, nearest_levels
from smalti.studies.quantizers.search import best, trials

MNIST, CIFAR = Target(9.0, (7, 7), 16), Target(28.0, (8, 8), 16, num_codebooks=4)


@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        (1, (2,)),
        (2, (4,)),
        (3, (8,)),
        (4, (4, 4)),
        (5, (6, 5)),
        (6, (8, 8)),
        (7, (5, 5, 5)),
        (8, (7, 6, 6)),
        (9, (8, 8, 8)),  # the choice of the paper's authors for about 512 codes
        (10, (8, 5, 5, 5)),  # and for about 1,000
        (12, (8, 8, 8, 8)),
    ],
)
def test_levels_by_hand(bits, levels):
    assert nearest_levels(float(bits)) == levels


@pytest.mark.parametrize("bits", [2.5, 3.7, 11, 14, 16, 18.3])
def test_levels_are_near_to_any_rate(bits):
    levels = nearest_levels(float(bits))
    assert abs(math.log2(math.prod(levels)) - bits) < 0.2
    assert list(levels) == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("vq", MNIST, (1, 512, 16)),
        ("vq-gradient", Target(9.01, (7, 7), 16), (1, 516, 16)),
        ("product", MNIST, (2, 23, 16)),
        ("residual", MNIST, (2, 23, 16)),
        ("fsq", MNIST, (1, 512, 3)),
        ("ifsq", MNIST, (1, 512, 3)),
        ("residual-fsq", MNIST, (2, 24, 2)),  # two stages of 6x4 levels
        ("residual-dac", MNIST, (2, 23, 16)),
        ("vq-l2", MNIST, (1, 512, 8)),
        ("simvq", MNIST, (1, 512, 16)),
        ("rotation", MNIST, (1, 512, 16)),
        ("diveq", MNIST, (1, 512, 16)),
        ("nsvq", MNIST, (1, 512, 16)),
        ("lfq", MNIST, (1, 512, 9)),
        ("bsq", MNIST, (1, 512, 9)),
        ("lfq", CIFAR, (4, 128, 28)),
        ("ibq", MNIST, (1, 512, 16)),
        # Grids of 1, 2, 3, 4, 6 and 7 squared are 115 codes; 441 bits are 3.83 bits for each.
        ("multi-scale", MNIST, (115, 14, 16)),
        ("vq", CIFAR, (4, 128, 64)),
        ("vq", Target(28.0, (8, 8), 16), (2, 16384, 16)),
        ("residual", CIFAR, (3, 645, 16)),
    ],
)
def test_nearest_settings_by_hand(name, target, expected):
    quantizer = ENTRIES[name].nearest(target).build()
    assert (quantizer.num_codebooks, quantizer.num_codes, quantizer.dim) == expected


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_near_to_nine_bits_and_its_weights_can_be_set(name):
    entry = ENTRIES[name]
    config = entry.nearest(MNIST)
    quantizer = config.build()
    positions = math.prod(quantizer.code_grid(MNIST.grid))
    bits = positions * quantizer.num_codebooks * math.log2(quantizer.num_codes)
    assert bits / math.prod(MNIST.grid) == pytest.approx(9, abs=0.2)
    for tried in trials(config, entry.weights, 3):
        assert config.changed(tried).build().dim == quantizer.dim


def test_entropy_weights_fall_within_a_short_training():
    for steps, expected in ((100_000, 2000), (500, 100)):
        target = Target(9.0, (7, 7), 16, steps=steps)
        assert {ENTRIES[name].nearest(target).entropy_anneal_steps for name in ("lfq", "bsq")} == {expected}


@pytest.mark.parametrize("name", ["fsq", "ifsq", "ibq"])
def test_more_codes_than_a_prior_can_have_are_refused(name):
    with pytest.raises(InputError, match="received 28:"):
        ENTRIES[name].nearest(CIFAR)


def test_every_quantizer_of_the_package_is_in_the_table():
    kinds = {getattr(entry.nearest(MNIST), "kind", "") for entry in ENTRIES.values()}
    assert kinds == {
        kind for kind, config in QUANTIZERS.kinds().items() if config.__module__.startswith("smalti.")
    }


def test_names_settings_and_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"deep": {"kind": "residual", "num_quantizers": 3}, "flat": {"kind": "vq"}}))
    found = entries_of(["vq,fsq", "kind=fsq levels=5,5", str(path)])
    assert list(found) == ["vq", "fsq", "fsq-levels=5,5", "deep", "flat"]
    configs = {name: entry.nearest(MNIST) for name, entry in found.items()}
    assert configs["fsq-levels=5,5"] == FSQConfig(levels=(5, 5))
    assert configs["deep"] == ResidualVQConfig(num_quantizers=3)
    assert configs["flat"] == VectorQuantizerConfig()
    assert found["deep"].weights == ("commitment_weight",)
    assert [entry.is_fixed for entry in found.values()] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["vqq"], "did you mean vq?"),
        (["vq", "fsq,vq"], "'vq' twice"),
        (["kind=fsq levels=1"], "levels"),
        (["kind=fsqq levels=8,8"], "did you mean fsq?"),
        ([], "expected quantizers"),
        (["missing.json"], "missing.json"),
    ],
)
def test_mistakes_get_a_sentence(words, named):
    with pytest.raises(InputError, match=named.replace("?", r"\?")):
        entries_of(words)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"a b": {"kind": "fsq"}}', '{"a": {"kind": "fsq", "levels": [1]}}']
)
def test_a_broken_file_gets_a_sentence(content, tmp_path):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(InputError, match="json"):
        entries_of([str(tmp_path / "mine.json")])


def test_trials_try_every_value_of_every_weight_once():
    config = VectorQuantizerConfig()
    assert trials(config, (), 3) == [{}]
    assert trials(config, ("commitment_weight",), 1) == [{"commitment_weight": 0.25}]
    assert [t["commitment_weight"] for t in trials(config, ("commitment_weight",), 3)] == [0.0625, 0.25, 1.0]
    names = ("commitment_weight", "codebook.decay")
    for num in (3, 5):
        tried = trials(config, names, num)
        assert len(tried) == num
        assert tried[num // 2] == {"commitment_weight": 0.25, "codebook.decay": 0.99}
        for name in names:
            assert len({each[name] for each in tried}) == num


def test_the_best_weights():
    low, middle, high = ({"w": value} for value in (0.1, 0.2, 0.3))
    assert best([(low, 3.0), (middle, 2.0), (high, 1.0)]) == high
    assert best([(low, 1.0), (middle, 1.0), (high, 1.0)]) == middle
    assert best([(low, 5.0), (middle, math.inf), (high, math.inf)]) == low
    with pytest.raises(InputError):
        best([(low, math.inf)])
