"""Fitting the scale τ of a score to validation data by likelihood."""

import math
from typing import Optional, Tuple

import torch
from torch import Tensor

from fairseq_contout.scale_grid import FINE_GRID, GRID, PARTS, grid_log_sum_exp


def grid_nll(logits: Tensor, target: Tensor, log_sums: Optional[Tensor] = None) -> Tensor:
    """Sum -log softmax(τ logits)[target] over tokens, for each scale τ of FINE_GRID.

    Args:
        logits: logits at scale 1, ``(N, V)``.
        target: token indices ``(N,)``.
        log_sums: what :func:`grid_log_sum_exp` returned; computed when None.

    Returns:
        float64 sums in nats on the CPU, ``(F,)``.
    """
    log_sums = grid_log_sum_exp(logits) if log_sums is None else log_sums
    positive = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    scales = FINE_GRID.to(logits).unsqueeze(1)
    return (log_sums - scales * positive).double().sum(dim=1).cpu()


#: Equal intervals of confidence, 0..1, over which the calibration error is averaged.
BINS = 15


def grid_bins(logits: Tensor, target: Tensor, log_sums: Optional[Tensor] = None) -> Tensor:
    """Sort predictions by their confidence, max_w p(w), for each scale τ of FINE_GRID.

    Args:
        logits: logits at scale 1, ``(N, V)``.
        target: token indices ``(N,)``.
        log_sums: what :func:`grid_log_sum_exp` returned; computed when None.

    Returns:
        float64 on the CPU, ``(F, BINS, 3)``: number of predictions, sum of their confidence, and
        number of right ones, in each interval. Sums over batches add up.
    """
    log_sums = grid_log_sum_exp(logits) if log_sums is None else log_sums
    best, found = logits.max(dim=1)
    scales = FINE_GRID.to(logits).unsqueeze(1)
    confidence = (scales * best - log_sums).exp().double().cpu()  # at once: a transfer is a wait
    return binned(confidence, found.eq(target).double().cpu().expand_as(confidence))


def binned(confidence: Tensor, right: Tensor) -> Tensor:
    """Sort predictions into intervals of their confidence, each row by itself.

    Args:
        confidence: 0..1, ``(R, N)``.
        right: 1 where the prediction is right, else 0, ``(R, N)``.

    Returns:
        ``(R, BINS, 3)``: number of predictions, sum of their confidence, and number of right ones.
    """
    interval = (confidence * BINS).long().clamp_(max=BINS - 1)
    interval += BINS * torch.arange(len(confidence)).unsqueeze(1)
    interval, size = interval.flatten(), len(confidence) * BINS
    sums = [interval.bincount(values.flatten(), size) for values in (confidence, right)]
    number = interval.bincount(minlength=size).to(confidence)
    return torch.stack((number, *sums), dim=1).view(-1, BINS, 3)


def calibration_error(bins: Tensor) -> float:
    """Return the expected calibration error of one scale, 0..1: ``(BINS, 3)`` → a number.

    Σ_b (n_b / n) |mean confidence_b - accuracy_b|.

    Source: Chuan Guo, Geoff Pleiss, Yu Sun and Kilian Weinberger (2017), On Calibration of Modern
    Neural Networks, https://arxiv.org/abs/1706.04599
    """
    count, confidence, right = bins.unbind(dim=-1)
    return float((confidence - right).abs().sum() / count.sum())


def lowest_fine(sums: Tensor) -> Tuple[float, float]:
    """Return where in FINE_GRID sums are lowest, between its points, and the lowest.

    Args:
        sums: ``(F,)``.
    """
    lowest, step, value = _lowest_between(sums, FINE_GRID, 2)
    return lowest + step, value


def kept_sums(sums: Tensor) -> Tensor:
    """Return those sums over FINE_GRID that a checkpoint keeps: ``(…, F)`` → ``(…, G)``."""
    return sums[..., ::PARTS]


def grid_place(scale: float) -> Tuple[int, float]:
    """Return the point of the grid before a scale, and the way from there in log τ, 0..1.

    Beyond the grid it is the grid's first or last point.
    """
    place = math.log(scale / GRID[0]) / math.log(GRID[1] / GRID[0])
    place = min(max(place, 0.0), len(GRID) - 1.0)
    before = min(int(place), len(GRID) - 2)
    return before, place - before


def lowest_point(sums: Tensor) -> float:
    """Return the scale at which a sum over the grid is lowest, :func:`lowest_between` its points.

    The sum is a smooth, convex function of τ.
    """
    lowest, step, _ = lowest_between(sums)
    return float(GRID[lowest]) * float(GRID[1] / GRID[0]) ** step


#: Values on either side of the lowest that a polynomial goes through: scales a factor of √2 apart
#: are too coarse for a parabola (1), which tests/test_target_table.py has go red.
_NEIGHBOURS = 5


def lowest_between(values: Tensor) -> Tuple[int, float, float]:
    """Return where the polynomial through the lowest of some values and its neighbours is lowest.

    It is kept above the secants of neighbouring points beyond them, as a convex function of τ is.

    Args:
        values: at the scales of the grid, ``(G,)``; as many on either side take part, five at most.

    Returns:
        the place of the lowest value; the step from there to the lowest point, between -1 and 1,
        0 at either end; and the polynomial's value at that point.
    """
    return _lowest_between(values, GRID, _NEIGHBOURS)


def _lowest_between(values: Tensor, grid: Tensor, neighbours: int) -> Tuple[int, float, float]:
    values = values.to("cpu", torch.float64)
    lowest = int(values.argmin())
    reach = min(neighbours, lowest, len(values) - 1 - lowest)
    if reach == 0:
        return lowest, 0.0, float(values[lowest])
    # above the lowest value: what is common to all would cost digits
    window = values[lowest - reach : lowest + reach + 1] - values[lowest]
    places = torch.linspace(-1, 1, len(window), dtype=torch.float64)
    polynomial = torch.linalg.solve(torch.linalg.vander(places), window)
    steps = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    found = torch.linalg.vander(steps / reach, N=len(window)) @ polynomial
    found = _above_secants(found, steps, window, float(grid[1] / grid[0]))
    best = min(max(int(found.argmin()), 1), len(steps) - 2)
    further = vertex(*found[best - 1 : best + 2].tolist()) * float(steps[1] - steps[0])
    return lowest, float(steps[best]) + further, float(values[lowest] + found[best])


def _above_secants(found: Tensor, steps: Tensor, window: Tensor, ratio: float) -> Tensor:
    # Values at steps from the middle of a window of points, and at least those of each secant that
    # ends where their interval begins. (The chord above them never binds: it is 0 or more, and the
    # lowest of the values is not.)
    middle = len(window) // 2
    scales = ratio ** torch.arange(-middle, middle + 1, dtype=torch.float64)
    at = ratio**steps

    def line(i):  # through two neighbouring points
        slope = (window[i + 1] - window[i]) / (scales[i + 1] - scales[i])
        return window[i] + slope * (at - scales[i])

    below = torch.where(steps < 0, line(middle), line(middle - 1))
    if middle > 1:
        beyond = torch.where(steps < 0, line(middle - 2), line(middle + 1))
        below = torch.maximum(below, beyond)
    return torch.maximum(found, below)


def vertex(left: float, middle: float, right: float) -> float:
    """Return where the parabola through values at -1, 0 and 1 is lowest; 0 where it has no such."""
    curvature = left - 2 * middle + right
    return 0.5 * (left - right) / curvature if curvature > 0 else 0.0


class ScaleCalibration:
    """Negative log-likelihood of validation tokens, summed for each scale of a fixed grid.

    Sums from several batches or processes add up, so the fit does not depend on how the data was
    batched, and averaging the sums of several checkpoints is meaningful.
    """

    #: of the sums, and of those of a batch
    shape: Tuple[int, ...] = (len(GRID),)
    fine_shape: Tuple[int, ...] = (len(FINE_GRID),)

    def __init__(self):
        self.tokens = 0.0
        self.sums = torch.zeros(self.shape, dtype=torch.float64)

    def reset(self):
        """Forget all tokens."""
        self.__init__()

    def add(self, sums: Tensor, tokens: int):
        """Add the sums ``(F,)`` that :func:`grid_nll` returned for some tokens."""
        self.sums += kept_sums(sums)
        self.tokens += tokens

    def state(self) -> Tensor:
        """Return the sums as one float64 tensor ``(1 + G,)``, for a checkpoint."""
        return torch.cat((torch.tensor([self.tokens], dtype=torch.float64), self.sums.flatten()))

    def load(self, state: Tensor):
        """Take over what :meth:`state` returned.

        Raises:
            ValueError: the state is of another grid.
        """
        size = math.prod(self.shape)
        if state.shape != (1 + size,):
            raise ValueError(
                f"the calibration in a checkpoint must have {1 + size} numbers, but has shape "
                f"{tuple(state.shape)}: it is from another version of fairseq_contout; validate "
                "the model again with this one, or give --model-overrides \"{'scale': 20}\""
            )
        self.tokens = float(state[0])
        self.sums = state[1:].to("cpu", torch.float64).reshape(self.shape).clone()

    def best(self) -> Optional[float]:
        """Return the most likely scale, or None without data."""
        return lowest_point(self.sums) if self.tokens else None
