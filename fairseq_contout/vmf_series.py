"""Coefficients of the von Mises-Fisher normaliser's expansion, as Python floats.

Ten terms of Olver's expansion of I_v make a polynomial of degree 30 in p = v / sqrt(κ² + v²). The
higher the order v, the less its tail says: :func:`short_polynomials` ends where the rest is small
as rounding errors of a value, in place of a number of terms chosen for each order. See
docs/vmf.md.
"""

import math
from fractions import Fraction
from functools import lru_cache

from numpy.polynomial import Polynomial, chebyshev

#: Terms of the expansion. Ten leave 4e-14 of the slope at order 20, and nothing but the rounding of
#: float64 from order 31 on.
TERMS = 10
#: of the Chebyshev series of the logarithm, whose terms fall by 5.8 each: 1e-24 is left.
LOG_TERMS = 32
#: Twice what may be cut off, relative to numbers near 1: two units in the last place, no more than
#: what the passes that follow round away.
ROUNDING = 2.0**-50


def _log_expansion(terms: int) -> list[list[float]]:
    """Coefficients of D_1..D_terms, where log sum_k U_k(p)/v^k = sum_k D_k(p)/v^k (DLMF 10.41.3).

    The recurrence of U_k (DLMF 10.41.9), written for the logarithm: D_1' = (1 - 5p²)/8 and
    D_{k+1}' = p²(1-p²)/2 (D_k'' + sum_{i+j=k} D_i' D_j') + (p - 2p³) D_k', D_k(0) = 0.
    """
    slopes = [[Fraction(1, 8), Fraction(0), Fraction(-5, 8)]]
    for k in range(1, terms):
        slope = [Fraction(0)] * (3 * k + 3)
        for i, a in enumerate(slopes[-1]):
            slope[i + 1] += a + Fraction(i, 2) * a
            slope[i + 3] -= 2 * a + Fraction(i, 2) * a
        for left, right in zip(slopes[:-1], reversed(slopes[:-1])):
            for i, a in enumerate(left):
                for j, b in enumerate(right):
                    slope[i + j + 2] += a * b / 2
                    slope[i + j + 4] -= a * b / 2
        slopes.append(slope)
    return [[0.0] + [float(a / (i + 1)) for i, a in enumerate(slope)] for slope in slopes]


_LOG_EXPANSION = _log_expansion(TERMS)


def log_series(order: float) -> list[float]:
    """Return L(p) = sum_k D_k(p) / v^k, all ten terms, as the coefficients of one polynomial."""
    total = [0.0] * (3 * TERMS + 1)
    for k, polynomial in enumerate(_LOG_EXPANSION, start=1):
        for i, coefficient in enumerate(polynomial):
            total[i] += coefficient / order**k
    return total


@lru_cache(maxsize=64)
def short_polynomials(order: float) -> tuple[list[float], list[float]]:
    """Return the two polynomials in p on [0, 1] that a value and its slope take.

    The first is log((1+p)/2)/2 + L(p) - L(1), up to ROUNDING v / 2: it is added to v log(...). The
    second is Q(p) = p (1/2 + p L'(p)) / v, up to ROUNDING / 2: it is taken from numbers in
    [1/2, 1]. Either is a list of coefficients, the constant first.
    """
    series = log_series(order)
    value = _chebyshev(series)
    value[0] -= math.fsum(series)
    # log((1+p)/2) is log((3+x)/4) at x = 2p-1, whose Chebyshev series is known in closed form.
    ratio = 3 - math.sqrt(8)
    value[0] -= math.log(8 * ratio) / 2
    value += [0.0] * (LOG_TERMS - len(value))
    for n in range(1, LOG_TERMS):
        value[n] -= (-ratio) ** n / n
    slope = [0.0, 0.5 / order] + [j * c / order for j, c in enumerate(series[1:], start=1)]
    return _economised(value, order * ROUNDING / 2), _economised(_chebyshev(slope), ROUNDING / 2)


def _chebyshev(coefficients: list[float]) -> list[float]:
    """Coefficients in the Chebyshev polynomials of x = 2p-1, from those in the powers of p."""
    return chebyshev.poly2cheb(Polynomial(coefficients)(Polynomial([0.5, 0.5])).coef).tolist()


def _economised(coefficients: list[float], tolerance: float) -> list[float]:
    """Powers of p, from Chebyshev coefficients less their tail, whose sum is within tolerance."""
    length, tail = len(coefficients), 0.0
    while tail + abs(coefficients[length - 1]) <= tolerance:
        length, tail = length - 1, tail + abs(coefficients[length - 1])
    powers = Polynomial(chebyshev.cheb2poly(coefficients[:length]))
    return powers(Polynomial([-1.0, 2.0])).coef.tolist()
