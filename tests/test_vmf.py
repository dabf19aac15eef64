"""The von Mises-Fisher normaliser against mpmath, closed forms, limits and identities.

``PYTHONPATH=. python tests/test_vmf.py`` prints the measured errors that docs/vmf.md quotes.
"""

import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch

from fairseq_contout import vmf
from fairseq_contout.vmf import log_normalizer, mean_resultant_length

DIMS = (2, 3, 4, 5, 10, 16, 42, 50, 64, 100, 128, 256, 300, 512, 768, 1024, 4096)
KAPPAS = np.logspace(-8, 6, 71)
#: On both sides of dim 42, the first that needs no recurrence.
SEAM_DIMS = (2, 3, 40, 41, 42, 43, 44, 300)


@cache
def reference(dim):
    """log C, A and A' of every κ as mpmath numbers, from besseli at 40 digits."""
    rows = []
    with mpmath.workdps(40):
        for kappa in map(mpmath.mpf, KAPPAS.tolist()):
            order = mpmath.mpf(dim) / 2 - 1
            # The default maxterms ends the series too early for large κ and orders.
            low, high = (mpmath.besseli(order + i, kappa, maxterms=10**7) for i in (0, 1))
            mean = high / low
            value = order * mpmath.log(kappa) - (order + 1) * mpmath.log(2 * mpmath.pi)
            variance = 1 - mean**2 - (dim - 1) * mean / kappa
            rows.append((value - mpmath.log(low), mean, variance))
    return [list(column) for column in zip(*rows)]


def derivatives(kappa, dim):
    """log C, A and A' by autograd: the second derivative goes through the first."""
    kappa = kappa.detach().requires_grad_()
    value = log_normalizer(kappa, dim)
    (slope,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), kappa)
    return value.detach(), -slope.detach(), -bend


def worst_error(found, expected, floor):
    """max |found - expected| / max(floor, |expected|), the difference taken in mpmath."""
    with mpmath.workdps(40):
        return max(
            float(abs(mpmath.mpf(f) - e) / max(floor, abs(e)))
            for f, e in zip(found.tolist(), expected)
        )


def errors(dim):
    """Value relative to max(1, |value|); A and A' relative to themselves."""
    found = derivatives(torch.from_numpy(KAPPAS), dim)
    return [worst_error(f, e, floor) for f, e, floor in zip(found, reference(dim), (1, 0, 0))]


@pytest.mark.parametrize("dim", DIMS)
def test_value_and_derivatives_agree_with_mpmath(dim):
    # 1e-9 relative to max(1, |.|) is what training needs. These bounds are a few times what was
    # measured (6e-15, 4e-14 at d = 42, 3e-13), so that a lost term or digit shows. NaN fails, too.
    value, mean, variance = errors(dim)
    assert value <= 1e-12
    assert mean <= 1e-13
    assert variance <= 1e-11


def test_dim_3_is_the_closed_form():
    kappa = torch.from_numpy(KAPPAS)
    log_sinh = kappa + torch.log1p(-torch.exp(-2 * kappa)) - math.log(2)
    log_sinh = torch.where(kappa < 1e-2, kappa.sinh().log(), log_sinh)
    expected = kappa.log() - math.log(4 * math.pi) - log_sinh
    torch.testing.assert_close(log_normalizer(kappa, 3), expected, rtol=1e-13, atol=1e-13)
    kappa = kappa[kappa > 0.1]  # coth κ - 1/κ itself loses its digits below
    expected = 1 / kappa.tanh() - 1 / kappa
    torch.testing.assert_close(mean_resultant_length(kappa, 3), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("dim", "area"),
    [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2), (5, 8 * math.pi**2 / 3)],
)
def test_kappa_zero_is_the_uniform_law(dim, area):
    value, mean, variance = derivatives(torch.zeros(1, dtype=torch.float64), dim)
    torch.testing.assert_close(value.item(), -math.log(area), rtol=1e-14, atol=0)
    assert mean.item() == 0
    torch.testing.assert_close(variance.item(), 1 / dim, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_limit_of_small_kappa(dim):
    kappa = torch.logspace(-6, -3, 7, dtype=torch.float64)
    area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    value, mean, variance = derivatives(kappa, dim)
    expected = -area - kappa**2 / (2 * dim)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
    # One more term of the series each: relative error below κ^4.
    bend = kappa**2 / (dim * (dim + 2))
    torch.testing.assert_close(mean, kappa / dim * (1 - bend), rtol=1e-11, atol=0)
    torch.testing.assert_close(variance, (1 - 3 * bend) / dim, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 16, 64, 300])
def test_limit_of_large_kappa(dim):
    kappa = torch.tensor([1e5, 1e6, 1e7], dtype=torch.float64)
    value, mean, variance = derivatives(kappa, dim)
    curve = (dim - 1) * (dim - 3) / (8 * kappa)
    expected = (dim - 1) / 2 * (kappa / (2 * math.pi)).log() - kappa + curve
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    missing = (dim - 1) / (2 * kappa) - curve / kappa
    torch.testing.assert_close(1 - mean, missing, rtol=1e-5, atol=1e-15)
    expected = (dim - 1) / (2 * kappa**2) - 2 * curve / kappa**2
    torch.testing.assert_close(variance, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dim", SEAM_DIMS + (4096,))
def test_no_jump_on_a_fine_grid(dim):
    kappa = torch.logspace(-6, 6, 20001, dtype=torch.float64)
    value, mean, variance = derivatives(kappa, dim)
    for numbers in (value, mean, variance):
        assert numbers.isfinite().all()
    rounding = 1e-14 * value.abs().clamp(min=1)
    assert (value.diff() <= rounding[1:]).all()  # falls
    assert (mean >= 0).all() and (mean < 1).all()
    assert (mean.diff() > 0).all()  # A rises
    assert (variance > 0).all()
    assert (variance.diff() <= 1e-11 * variance[1:]).all()  # A is concave
    # Each step of the value is the integral of its slope (trapezoid, error h³ |A''| / 12).
    integral = kappa.diff() * (mean[1:] + mean[:-1]) / 2
    allowed = rounding[1:] + dim * kappa.log().diff() ** 3 / 12
    assert ((value.diff() + integral).abs() <= allowed).all()


@pytest.mark.parametrize("dim", [38, 39, 40, 41, 42, 43])
def test_dimensions_meet(dim):
    # 1/A_d = A_{d+2} + d/κ joins the orders reached by recurrence to those of the expansion.
    kappa = torch.from_numpy(KAPPAS)
    expected = 1 / (mean_resultant_length(kappa, dim + 2) + dim / kappa)
    torch.testing.assert_close(mean_resultant_length(kappa, dim), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dim", SEAM_DIMS)
def test_starting_order_does_not_matter(dim, monkeypatch):
    kappa = torch.logspace(-6, 6, 500, dtype=torch.float64)
    usual = derivatives(kappa, dim)
    monkeypatch.setattr(vmf, "MIN_ORDER", 160)
    for few, many, rtol in zip(usual, derivatives(kappa, dim), (1e-12, 1e-13, 1e-10)):
        torch.testing.assert_close(few, many, rtol=rtol, atol=1e-13 if rtol == 1e-12 else 0)


@pytest.mark.parametrize("dim", [2, 3, 7, 42, 300])
def test_gradcheck(dim):
    kappa = torch.tensor([0.05, 0.7, 5.0, 40.0, 300.0], dtype=torch.float64, requires_grad=True)
    for function in (log_normalizer, mean_resultant_length):
        assert torch.autograd.gradcheck(function, (kappa, dim))
        assert torch.autograd.gradgradcheck(function, (kappa, dim))


def test_gradients_add_up_when_value_and_slope_are_both_used():
    kappa = torch.tensor([0.5, 8.0], dtype=torch.float64, requires_grad=True)
    value = log_normalizer(kappa, 16)
    (slope,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
    (both,) = torch.autograd.grad((3 * value + slope**2).sum(), kappa)
    _, mean, variance = derivatives(kappa, 16)
    torch.testing.assert_close(both, -3 * mean + 2 * mean * variance)


@pytest.mark.parametrize("dim", DIMS)
def test_float32_is_float64_rounded_once(dim):
    kappa = torch.from_numpy(KAPPAS).float()
    exact = derivatives(kappa.double(), dim)
    for found, expected in zip(derivatives(kappa, dim), exact):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_float32_arithmetic_will_do(dim):
    # What devices without float64 run; measured 4e-7.
    kappa = torch.from_numpy(KAPPAS).float()
    exact = vmf._value_and_mean(kappa.double(), dim)
    for found, expected in zip(vmf._value_and_mean(kappa, dim), exact):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    print("   d    log C        A       A'")
    for d in DIMS:
        print(f"{d:4d}  " + "  ".join(f"{error:.1e}" for error in errors(d)))
