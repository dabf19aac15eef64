"""Normaliser of the von Mises-Fisher law on the unit sphere of R^d, without underflow.

The density at x is C_d(κ) exp(κ μ·x). Everything here comes from one function, the log of the
moment generating function of the uniform law on the sphere,

    F_d(κ) = log C_d(0) - log C_d(κ),    F' = A_d (mean of μ·x),    F'' = A_d' (its variance).

F is 0 at κ = 0 and all three are positive, so nothing cancels at small κ, as it would between
(d/2-1) log κ and log I_{d/2-1}(κ). One formula serves every κ, so there is no seam: Olver's
uniform expansion at an order v >= MIN_ORDER, then, for smaller d, the recurrence down to d/2-1,
which only adds positive numbers. See docs/vmf.md for the formulas and the measured errors.

Sources: F. W. J. Olver, in NIST Digital Library of Mathematical Functions, section 10.41,
https://dlmf.nist.gov/10.41 ; Sachin Kumar and Yulia Tsvetkov (2019), Von Mises-Fisher Loss for
Training Sequence to Sequence Models with Continuous Outputs, https://arxiv.org/abs/1812.04616 ;
Kanti V. Mardia and Peter E. Jupp (2000), Directional Statistics, section 9.3.2.
"""

import math
import operator
from fractions import Fraction

import torch
from torch import Tensor

#: Orders below this are reached by recurrence. From here on TERMS terms leave nothing but float64
#: rounding (8 terms leave 3e-14, order 10 leaves 6e-12); more of either only costs time.
MIN_ORDER = 20
#: Terms of the expansion.
TERMS = 10


def log_normalizer(kappa: Tensor, dim: int) -> Tensor:
    """Return log C_d(κ), the log-normaliser of the von Mises-Fisher density on the sphere of R^d.

    log C_d(κ) = (d/2-1) log κ - (d/2) log 2π - log I_{d/2-1}(κ), for any dim >= 2 and for κ from 0
    to 1e6 and beyond. d/dκ = -A_d(κ), see :func:`mean_resultant_length`; higher derivatives work
    too. The number of operations depends on dim alone, and for a backward pass only κ and A stay
    in memory.

    κ = 0 is the uniform law: -log of the sphere's area, with derivative 0. A negative, NaN or
    infinite κ gives NaN, value and derivative: raising would have to wait for the device.

    Args:
        kappa: concentration, any shape, float. Half-precision inputs give float32 (values reach
            -1e6, float16 ends at 65504); other dtypes come back as they are.
        dim: d, the length of the unit vectors, an integer.

    Returns:
        A tensor of kappa's shape on its device. Computed in float64, where the device has it.

    Raises:
        ValueError: dim is no integer or below 2; kappa is no floating-point tensor.
    """
    dim = _checked_dim(dim)
    value, _ = _LogMomentGenerating.apply(_widened(kappa), dim)
    at_zero = math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi)
    return (at_zero - value).to(_result_dtype(kappa))


def mean_resultant_length(kappa: Tensor, dim: int) -> Tensor:
    """Return A_d(κ) = I_{d/2}(κ) / I_{d/2-1}(κ), the mean of μ·x, in [0, 1).

    Differentiable: A' = 1 - A² - (d-1) A/κ, computed without that formula's cancellation. Shapes,
    dtypes, special values and errors are those of :func:`log_normalizer`.
    """
    dim = _checked_dim(dim)
    _, mean = _LogMomentGenerating.apply(_widened(kappa), dim)
    return mean.to(_result_dtype(kappa))


class _LogMomentGenerating(torch.autograd.Function):
    """κ → (F_d(κ), A_d(κ)), with A and A' as derivatives.

    A is an output, so that saving it keeps its own graph: a second derivative goes through this
    class again, a third through the plain operations of ``_variance``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return _value_and_mean(kappa, dim)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        kappa, ctx.dim = inputs
        ctx.save_for_backward(kappa, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_value, grad_mean):
        kappa, mean = ctx.saved_tensors
        grad = None
        if grad_value is not None:
            grad = grad_value * mean
        if grad_mean is not None:  # costs a second pass: only when a second derivative is asked for
            term = grad_mean * _variance(kappa, ctx.dim)
            grad = term if grad is None else grad + term
        return grad, None


def _value_and_mean(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """F_d(κ) and A_d(κ)."""
    order, lower_orders = _orders(dim)
    kappa, s, p = _olver_variables(kappa, order)
    coefficients = _log_series(order)
    t = kappa * (kappa / (order + s))  # s - v, without the cancellation
    value = t - order * torch.log1p(t / (2 * order)) - 0.5 * torch.log1p(t / order)
    value = value + (_polynomial(coefficients, p) - sum(coefficients))
    mean = kappa * _mean_over_kappa(coefficients, order, s, p)
    for v in lower_orders:
        value = value + torch.log1p(kappa * mean / (2 * v))
        mean = kappa / (kappa * mean + 2 * v)
    return value, mean


def _variance(kappa: Tensor, dim: int) -> Tensor:
    """A_d'(κ)."""
    order, lower_orders = _orders(dim)
    kappa, s, p = _olver_variables(kappa, order)
    coefficients = _log_series(order)
    mean = kappa * _mean_over_kappa(coefficients, order, s, p)
    # With w = p L'(p): A' = v/(s(v+s)) + [(κ/s)² (1 + 2w + p w') - 1/2 - w] / s².
    once = [j * c for j, c in enumerate(coefficients)]
    twice = [j * j * c for j, c in enumerate(coefficients)]
    w, dw = _polynomial(once, p), _polynomial(twice, p)
    bend = (kappa / s) ** 2 * (1 + 2 * w + dw) - 0.5 - w
    variance = order / (s * (order + s)) + bend / s**2
    for v in lower_orders:
        upper, mean = mean, kappa / (kappa * mean + 2 * v)
        # mean²/κ² (2v - κ² A'), where mean/κ is spelled so that κ may be 0.
        variance = (2 * v - kappa**2 * variance) / (kappa * upper + 2 * v) ** 2
    return variance


def _mean_over_kappa(coefficients: list[float], order: float, s: Tensor, p: Tensor) -> Tensor:
    """I_{v+1}(κ) / (κ I_v(κ)) = 1/(v+s) - (1/2 + p L'(p)) / s²."""
    slope = _polynomial([j * c for j, c in enumerate(coefficients)], p)
    return 1 / (order + s) - (0.5 + slope) / s**2


def _olver_variables(kappa: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    """κ (NaN where negative), s = sqrt(κ² + v²) and p = v/s."""
    kappa = kappa.masked_fill(kappa < 0, math.nan)
    s = torch.sqrt(kappa * kappa + order * order)
    return kappa, s, order / s


def _orders(dim: int) -> tuple[float, list[float]]:
    """The order to expand at, and the orders from it down to d/2 (the last step ends at d/2-1)."""
    target = dim / 2 - 1
    steps = max(0, math.ceil(MIN_ORDER - target))
    return target + steps, [target + i for i in range(steps, 0, -1)]


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


def _log_series(order: float) -> list[float]:
    """L(p) = sum_k D_k(p) / v^k as the coefficients of one polynomial in p."""
    total = [0.0] * (3 * TERMS + 1)
    for k, polynomial in enumerate(_LOG_EXPANSION, start=1):
        for i, coefficient in enumerate(polynomial):
            total[i] += coefficient / order**k
    return total


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """Horner's rule."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _checked_dim(dim: int) -> int:
    try:
        number = operator.index(dim)
    except TypeError:
        number = None
    if number is None or number < 2:
        raise ValueError(
            f"dim must be an integer of at least 2, but is {dim!r}; pass the length of the vectors"
        )
    return number


def _widened(kappa: Tensor) -> Tensor:
    """κ in the type to compute in: float64, or float32 on Apple's GPUs, which have no other."""
    if not isinstance(kappa, Tensor) or not kappa.is_floating_point():
        found = kappa.dtype if isinstance(kappa, Tensor) else type(kappa).__name__
        raise ValueError(
            f"kappa must be a floating-point tensor, but is {found}; convert it with "
            "torch.as_tensor(kappa, dtype=torch.float32)"
        )
    return kappa.to(torch.float32 if kappa.device.type == "mps" else torch.float64)


def _result_dtype(kappa: Tensor) -> torch.dtype:
    return kappa.dtype if kappa.dtype == torch.float64 else torch.float32
