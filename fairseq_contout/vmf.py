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

import torch
from torch import Tensor

from fairseq_contout.vmf_series import log_series, short_polynomials

#: Orders below this are reached by recurrence. From here on the expansion leaves 4e-14 of the slope
#: or less; a higher order only costs time.
MIN_ORDER = 20
#: Elements a thread takes at a time: enough to make the start of an operation cheap, few enough for
#: half a dozen rows of them, 2 MB, to stay in the cache of one core.
BLOCK = 40960


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
    at_zero = math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi)
    value, _ = _LogMomentGenerating.apply(_checked_kappa(kappa), dim, -1, at_zero)
    return value


def mean_resultant_length(kappa: Tensor, dim: int) -> Tensor:
    """Return A_d(κ) = I_{d/2}(κ) / I_{d/2-1}(κ), the mean of μ·x, in [0, 1).

    Differentiable: A' = 1 - A² - (d-1) A/κ, computed without that formula's cancellation. Shapes,
    dtypes, special values and errors are those of :func:`log_normalizer`.
    """
    dim = _checked_dim(dim)
    _, mean = _LogMomentGenerating.apply(_checked_kappa(kappa), dim, 1, 0.0)
    return mean


class _LogMomentGenerating(torch.autograd.Function):
    """κ → (offset + sign F_d(κ), sign A_d(κ)), whose derivatives are sign A and sign A'.

    The sign is 1 or -1: it goes into the coefficients and costs no pass over the values. The
    slope is an output, so that saving it keeps its own graph: a second derivative goes through this
    class again, a third through the plain operations of ``_variance``.
    """

    @staticmethod
    def forward(kappa: Tensor, dim: int, sign: int, offset: float) -> tuple[Tensor, Tensor]:
        value = torch.empty(kappa.shape, dtype=_result_dtype(kappa), device=kappa.device)
        slope = torch.empty_like(value)
        _evaluate(kappa, dim, sign, offset, _working_dtype(kappa), value, slope)
        return value, slope

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        kappa, ctx.dim, ctx.sign, _ = inputs
        ctx.save_for_backward(kappa, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_value, grad_slope):
        kappa, slope = ctx.saved_tensors
        grad = None
        if grad_value is not None:
            grad = grad_value * slope
        # Costs a second pass, only when a second derivative is asked for.
        if grad_slope is not None:
            variance = _variance(kappa.to(_working_dtype(kappa)), ctx.dim)
            term = (grad_slope * (ctx.sign * variance)).to(slope.dtype)
            grad = term if grad is None else grad + term
        return grad if grad is None else grad.to(kappa.dtype), None, None, None

    @staticmethod
    def vmap(info, in_dims, kappa, dim, sign, offset):
        # Every element stands alone, so that a batch is but a larger tensor.
        results = _LogMomentGenerating.apply(kappa, dim, sign, offset)
        return results, (in_dims[0], in_dims[0])


def _value_and_mean(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """F_d(κ) and A_d(κ), computed in κ's own type."""
    value, mean = torch.empty_like(kappa), torch.empty_like(kappa)
    _evaluate(kappa, dim, 1, 0.0, kappa.dtype, value, mean)
    return value, mean


def _evaluate(
    kappa: Tensor, dim: int, sign: int, offset: float, dtype: torch.dtype, value, slope
) -> None:
    """Write offset + sign F_d(κ) and sign A_d(κ), computed in dtype, into value and slope.

    On a CPU the elements come in blocks: intermediate results that leave its cache, and fresh
    memory for each of them, would take longer than the arithmetic.
    """
    flat, value, slope = kappa.reshape(-1), value.view(-1), slope.view(-1)
    size = flat.numel()
    if kappa.device.type == "cpu":
        size = min(size, BLOCK * torch.get_num_threads())
    expansion = _Expansion(dim, sign, offset, dtype, kappa.device)
    scratch = torch.empty((6, size), dtype=dtype, device=kappa.device)
    for start in range(0, flat.numel(), max(1, size)):
        part = slice(start, start + size)
        rows = scratch[:, : flat.numel() - start].unbind()
        expansion.evaluate(flat[part], value[part], slope[part], rows)


class _Expansion:
    """The formulas of docs/vmf.md for one dim and sign, in place, without temporary tensors."""

    def __init__(self, dim: int, sign: int, offset: float, dtype: torch.dtype, device):
        def constants(numbers: list[float]) -> list[Tensor]:
            # Made by the device, not copied to it.
            return [torch.full((), number, dtype=dtype, device=device) for number in numbers]

        self.order, self.lower_orders = _orders(dim)
        self.sign, self.dtype = sign, dtype
        value, slope = short_polynomials(self.order)
        value = [offset + sign * value[0]] + [sign * c for c in value[1:]]
        slope = [sign * c / self.order for c in slope]
        # The last coefficient stays a number: the one before + p * it is a single pass, too.
        self.value, self.last_value = constants(value[:-1]), value[-1]
        self.slope, self.last_slope = constants(slope[:-1]), slope[-1]
        self.one, self.signed_order = constants([1.0, sign * self.order])
        limits = torch.finfo(dtype)
        self.below_zero = -limits.tiny * limits.eps  # the negative number nearest to 0

    def evaluate(self, kappa: Tensor, value: Tensor, slope: Tensor, rows) -> None:
        """Fill value and slope, vectors as long as kappa and as each of the six rows."""
        k, *rows, own_value, own_slope = rows
        if kappa.dtype != self.dtype:
            kappa = k.copy_(kappa)
        torch.threshold(kappa, self.below_zero, math.nan, out=k)
        if value.dtype == self.dtype:
            self._expand(k, value, slope, *rows)
        else:
            self._expand(k, own_value, own_slope, *rows)
            value.copy_(own_value)
            slope.copy_(own_slope)

    def _expand(self, k: Tensor, value: Tensor, slope: Tensor, s: Tensor, p: Tensor, t: Tensor):
        """Olver's expansion at the order, then the recurrence; s, p and t are scratch."""
        order, sign = self.order, self.sign
        torch.addcmul(self.one, k, k, value=1 / order**2, out=s)
        torch.rsqrt(s, out=p)
        torch.addcmul(self.signed_order, s, p, value=sign * order, out=s)
        torch.div(k, s, out=s)  # κ/(v+s) with the sign, all of the slope but a share of about 1/v
        _horner(self.slope, self.last_slope, p, out=slope)
        slope.mul_(p)
        torch.addcmul(s, k, slope, value=-1, out=slope)
        torch.addcmul(self.value[0], k, s, out=t)
        _horner([t, *self.value[1:]], self.last_value, p, out=value)
        _log1p(self.one, k, s, sign / (2 * order), out=p)
        value.sub_(p, alpha=sign * (order + 0.5))
        for v in self.lower_orders:
            _log1p(self.one, k, slope, sign / (2 * v), out=p)
            value.add_(p, alpha=sign)
            slope.mul_(k).add_(sign * 2 * v)
            torch.div(k, slope, out=slope)


def _horner(coefficients: list[Tensor], last: float, x: Tensor, out: Tensor) -> None:
    """Polynomial whose coefficients but the last are tensors: one pass a multiply and add."""
    torch.add(coefficients[-1], x, alpha=last, out=out)
    for coefficient in reversed(coefficients[:-1]):
        torch.addcmul(coefficient, out, x, out=out)


def _log1p(one: Tensor, x: Tensor, y: Tensor, factor: float, out: Tensor) -> None:
    """log(1 + factor x y): in float64 without log1p, which takes twice the time.

    It loses 1e-16 of 1, no more than the values that the result is added to are rounded by. Float32
    would lose 1e-7 of 1, times the order.
    """
    if x.dtype == torch.float64:
        torch.addcmul(one, x, y, value=factor, out=out).log_()
    else:
        torch.mul(x, y, out=out).mul_(factor).log1p_()


def _variance(kappa: Tensor, dim: int) -> Tensor:
    """A_d'(κ)."""
    order, lower_orders = _orders(dim)
    kappa, s, p = _olver_variables(kappa, order)
    coefficients = log_series(order)
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


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """Horner's rule, of which autograd can take derivatives."""
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


def _checked_kappa(kappa: Tensor) -> Tensor:
    if not isinstance(kappa, Tensor) or not kappa.is_floating_point():
        found = kappa.dtype if isinstance(kappa, Tensor) else type(kappa).__name__
        raise ValueError(
            f"kappa must be a floating-point tensor, but is {found}; convert it with "
            "torch.as_tensor(kappa, dtype=torch.float32)"
        )
    return kappa


def _working_dtype(kappa: Tensor) -> torch.dtype:
    """The type to compute in: float64, or float32 on Apple's GPUs, which have no other."""
    return torch.float32 if kappa.device.type == "mps" else torch.float64


def _result_dtype(kappa: Tensor) -> torch.dtype:
    return kappa.dtype if kappa.dtype == torch.float64 else torch.float32
