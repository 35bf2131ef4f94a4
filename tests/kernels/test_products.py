"""Products of compiled loops, against NumPy."""

import numba
import numpy as np
import pytest

from smalti.kernels.products import LANES, PANEL, add_panels, add_product, in_panels


@numba.njit
def panels_of(out, panels, x):
    add_panels(out, panels, x)


@numba.njit
def product_of(out, weight, x):
    add_product(out, weight, x)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


OUTPUTS = pytest.mark.parametrize("outputs", [1, LANES, LANES + 3, PANEL, PANEL + 1, 3 * PANEL])


@OUTPUTS
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("inputs", [1, 5, 64])
def test_panels(rows, inputs, outputs):
    out, weight, x = drawn(rows, outputs), drawn(inputs, outputs), drawn(rows, inputs)
    expected = out + x @ weight
    panels_of(out, in_panels(weight), x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@OUTPUTS
@pytest.mark.parametrize("inputs", [0, 1, 5, 64])
def test_a_row_by_a_part_of_a_weight(inputs, outputs):
    out, weight, x = drawn(outputs), drawn(inputs, outputs + 9), drawn(inputs)
    expected = out + x @ weight[:, :outputs]
    product_of(out, weight[:, :outputs], x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_panels_hold_the_weight_in_the_order_in_which_it_is_read():
    weight = drawn(2, 3, PANEL + 5)
    panels = in_panels(weight)
    assert panels.shape == (2, 2, 3, PANEL)
    assert panels.flags.c_contiguous
    np.testing.assert_array_equal(panels[1, 0], weight[1, :, :PANEL])
    np.testing.assert_array_equal(panels[1, 1, :, :5], weight[1, :, PANEL:])
    assert not panels[:, 1, :, 5:].any()
