"""Domains, named axes, and the numbers of a signal that other parts rely on."""

import dataclasses

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.core.signals import Continuous, Levels, SignalSpec


@pytest.mark.parametrize(("levels", "dtype"), [(2, "u1"), (256, "u1"), (257, "i2"), (65536, "i4")])
def test_levels_are_stored_in_the_smallest_type(levels, dtype):
    assert Levels(levels).dtype == np.dtype(dtype)
    assert SignalSpec(1, (4,), levels).levels == levels
    assert np.iinfo(Levels(levels).dtype).max >= levels - 1


def test_a_continuous_domain_has_no_levels_and_is_scored_in_nats():
    spec = SignalSpec(2, (3, 4), domain=Continuous((1.0, 2.0), (3.0, 4.0)))
    assert spec.is_continuous
    assert (spec.domain.unit, spec.domain.nats_per_unit) == ("nats", 1.0)
    with pytest.raises(InputError, match="normal"):
        _ = spec.levels
    assert Levels().unit == "bits"
    assert Levels().nats_per_unit == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("size", "axes", "time", "clip", "pictures"),
    [
        ((8,), None, True, False, False),
        ((8, 8), None, False, False, True),
        ((4, 8, 8), None, True, True, True),
        ((4, 8, 8), ("depth", "height", "width"), False, False, True),
        ((8, 3), ("time", "width"), True, False, False),
    ],
)
def test_axes_are_named_and_not_counted(size, axes, time, clip, pictures):
    spec = SignalSpec(1, size, axes=axes)
    assert (spec.has_time, spec.is_clip, spec.has_pictures) == (time, clip, pictures)
    assert spec.dims == np.prod(size)


def test_a_copy_keeps_all_that_is_not_changed():
    spec = SignalSpec(3, (4, 8, 8), 16, 8000, axes=("depth", "height", "width"))
    longer = dataclasses.replace(spec, size=(8, 8, 8))
    assert dataclasses.asdict(longer) == {**dataclasses.asdict(spec), "size": (8, 8, 8)}


@pytest.mark.parametrize(
    "wrong", [{"axes": ("time",)}, {"axes": ("width", "width")}, {"levels": 4, "domain": Levels(4)}]
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        SignalSpec(1, (2, 2), **wrong)
