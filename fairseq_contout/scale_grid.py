"""Scales τ to choose from, and log Σ_w exp(τ logit_w) for each of them."""

import math
from typing import Iterator, Tuple

import torch
from torch import Tensor

#: Scales from one that a checkpoint keeps the sums of to the next.
PARTS = 4
#: Candidate scales, 2^-6 … 2^12 in steps of 2^(1/8): from nearly uniform to nearly arg max, for
#: logits between those of a cosine (at most 1) and those of a dot product (hundreds).
FINE_GRID = torch.pow(2.0, torch.arange(-48, 97, dtype=torch.float64) / 8)
#: Every :data:`PARTS`-th of them, in steps of √2: a checkpoint keeps the sums of these.
GRID = FINE_GRID[::PARTS]
#: log of the ratio of two neighbours of GRID
_STEP = 0.5 * math.log(2)

#: Squarings after which powers are computed anew: each doubles their rounding error.
_SQUARINGS = 3
#: What stands for -∞ below the best logit, where it is multiplied with a power of 0: exp of it is
#: 0 for all scales.
_FLOOR = -1e5


def grid_powers(below: Tensor) -> Iterator[Tuple[int, Tensor]]:
    """Yield the place of each scale τ of GRID, and exp(τ x), ``(N, V)``, which is overwritten.

    A scale is twice the one two places before it, and exp(2 x) = exp(x)²: most powers are squares
    of others, which take a fraction of the time.

    Args:
        below: x, 0 at most, ``(N, V)``.
    """
    scales = GRID.tolist()
    span = 2 * (1 + _SQUARINGS)
    for start in range(0, len(scales), span):
        for first in range(start, min(start + 2, len(scales))):
            powers = (below * scales[first]).exp_()
            for i in range(first, min(start + span, len(scales)), 2):
                if i > first:
                    powers.square_()
                yield i, powers


def below_best(logits: Tensor) -> Tuple[Tensor, Tensor]:
    """Return logits less the largest, finite, ``(N, V)``, and the largest, ``(N, 1)``."""
    best = logits.max(dim=1, keepdim=True).values
    return (logits - best).clamp_(min=_FLOOR), best


def between(values: Tensor, slopes: Tensor) -> Tensor:
    """Interpolate decreasing functions of log τ from GRID to FINE_GRID: ``(G, …)`` → ``(F, …)``.

    A polynomial of degree 5 goes from point to point, with the values, slopes and curvatures of
    both, kept between their values. A curvature is the one that values and slopes of its
    neighbours have in common, to the fourth order of the step h:

        f''(u) ≈ 2 (f(u + h) - 2 f(u) + f(u - h)) / h² - (f'(u + h) - f'(u - h)) / (2 h)

    Args:
        values: at each scale of GRID.
        slopes: derivatives by log τ there.
    """
    slopes = _STEP * slopes  # by the step
    second = torch.empty_like(values)
    second[1:-1] = 2 * (values[2:] - 2 * values[1:-1] + values[:-2])
    second[1:-1] -= 0.5 * (slopes[2:] - slopes[:-2])
    second[0], second[-1] = slopes[1] - slopes[0], slopes[-1] - slopes[-2]
    found = values.new_empty(len(FINE_GRID), *values.shape[1:])
    found[::PARTS] = values
    for part in range(1, PARTS):
        x = part / PARTS
        y = 1 - x
        found[part::PARTS] = (
            y**3 * (1 + 3 * x + 6 * x**2) * values[:-1]
            + x**3 * (1 + 3 * y + 6 * y**2) * values[1:]
            + x * y**3 * (1 + 3 * x) * slopes[:-1]
            - y * x**3 * (1 + 3 * y) * slopes[1:]
            + 0.5 * x**2 * y**3 * second[:-1]
            + 0.5 * y**2 * x**3 * second[1:]
        )
        found[part::PARTS].clamp_(min=values[1:], max=values[:-1])
    return found


def grid_log_sum_exp(logits: Tensor) -> Tensor:
    """Return log Σ_w exp(τ logit_w) for each scale τ of FINE_GRID: ``(N, V)`` → ``(F, N)``.

    It is computed for those of GRID, with the derivative by log τ, τ Σ_w p_w logit_w, and
    interpolated :func:`between` them.
    """
    below, best = below_best(logits)
    values = logits.new_empty(len(GRID), len(logits))
    slopes, scales = torch.empty_like(values), GRID.tolist()
    for i, powers in grid_powers(below):
        total = powers.sum(dim=1)
        values[i] = total.log()
        slopes[i] = scales[i] * torch.linalg.vecdot(powers, below) / total
    return between(values, slopes) + FINE_GRID.to(logits).unsqueeze(1) * best.squeeze(1)
