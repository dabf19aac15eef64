"""The polynomials that the von Mises-Fisher normaliser evaluates, against all ten terms."""

import mpmath
import pytest

from fairseq_contout.vmf_series import ROUNDING, TERMS, log_series, short_polynomials

POINTS = [i / 200 for i in range(201)]


def evaluated(coefficients, p):
    return mpmath.polyval([mpmath.mpf(c) for c in reversed(coefficients)], p)


def truncation(order):
    """The largest errors of the two polynomials, relative to order and to 1."""
    value, slope = short_polynomials(order)
    full = log_series(order)
    derived = [j * c for j, c in enumerate(full)]
    with mpmath.workdps(40):
        at_one, v = evaluated(full, 1), mpmath.mpf(order)
        errors = []
        for p in map(mpmath.mpf, POINTS):
            exact = mpmath.log((1 + p) / 2) / 2 + evaluated(full, p) - at_one
            exact_slope = p * (evaluated(derived, p) + 0.5) / v
            errors.append(
                (abs(evaluated(value, p) - exact) / v, abs(evaluated(slope, p) - exact_slope))
            )
        return [float(max(column)) for column in zip(*errors)]


# at order 20 the ten terms themselves are 4e-14 away from the Bessel functions
@pytest.mark.parametrize("order", [20, 20.5, 24, 31, 49, 149, 149.5, 255, 511, 2047, 1e6])
def test_what_is_cut_off_is_below_rounding(order):
    value, slope = truncation(order)
    assert value <= ROUNDING and slope <= ROUNDING and ROUNDING < 1e-15


def test_higher_orders_take_shorter_polynomials():
    orders = (20, 24, 49, 149, 511, 2047)
    lengths = [tuple(map(len, short_polynomials(order))) for order in orders]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[3] == (16, 12) and lengths[4] == (16, 10)
    assert max(lengths[0]) < 3 * TERMS + 1
