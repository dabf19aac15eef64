"""Fitting the weight β of a unigram prior together with the scale τ, by likelihood.

    log p(w | h) = τ s(h, w) + β log π_w - log Σ_u π_u^β exp(τ s(h, u))

For all β of a grid the last sum is one product of the powers exp(τ s) with a (V × B) matrix.
"""

import math
from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_contout.calibration import (
    BINS,
    ScaleCalibration,
    binned,
    calibration_error,
    grid_place,
    lowest_between,
    lowest_fine,
    vertex,
)
from fairseq_contout.scale_grid import FINE_GRID, GRID, below_best, between, grid_powers

#: Candidate weights β, evenly spaced. 0 must be the first: it leaves the prior out. 1 is Bayes'
#: rule, where exp(τ s(h, w)) is in proportion to the density of h given w.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHAPE, _FINE_SHAPE = (len(WEIGHTS), len(GRID)), (len(WEIGHTS), len(FINE_GRID))


class PriorScores(NamedTuple):
    """What a batch says about each weight β (B of them) and each scale τ of FINE_GRID (F).

    Attributes:
        nll: sums of -log p(target) in nats, float64 on the CPU, ``(B, F)``.
        bins: as :func:`fairseq_contout.calibration.grid_bins`, of the likeliest word under each β
            and τ, ``(B, F, BINS, 3)``.
    """

    nll: Tensor
    bins: Tensor


def prior_grid_scores(logits: Tensor, target: Tensor, log_prior: Tensor) -> PriorScores:
    """Score targets for each weight β and each scale τ of FINE_GRID.

    Args:
        logits: logits at scale 1, ``(N, V)``, -inf where a word is never emitted.
        target: token indices ``(N,)``.
        log_prior: log π of the words, finite, ``(V,)``.
    """
    log_prior, weights = log_prior.to(logits), logits.new_tensor(WEIGHTS)
    below, top = below_best(logits)
    sums = _log_sums(below, (log_prior.unsqueeze(1) * weights).exp())
    own = logits.gather(1, target.unsqueeze(1))
    own_prior = log_prior[target].unsqueeze(1) * weights  # N x B
    # of words that are equally frequent the one with the largest logit is ahead for all β and τ
    levels, group = log_prior.unique(return_inverse=True)
    ahead = logits.new_full((len(logits), len(levels)), -torch.inf)
    ahead = ahead.scatter_reduce_(1, group.expand_as(logits), logits, "amax")
    bias = levels.unsqueeze(1) * weights  # levels x B
    nll, confidence, right = [], [], []
    for i, scale in enumerate(FINE_GRID.tolist()):
        total = sums[i] + scale * top  # N x B
        positive = scale * own + own_prior
        nll.append((total - positive).double().sum(dim=0))
        best = torch.stack([(scale * ahead + column).amax(dim=1) for column in bias.t()], dim=1)
        confidence.append((best - total).exp())
        right.append(positive.ge(best))
    # F x N x B → one row for each pair of weight and scale; at once, as a transfer is a wait
    confidence, right = (
        torch.stack(x).cpu().double().permute(2, 0, 1).flatten(0, 1) for x in (confidence, right)
    )
    bins = binned(confidence, right).view(*_FINE_SHAPE, BINS, 3)
    return PriorScores(torch.stack(nll, dim=1).cpu(), bins)


def _log_sums(below: Tensor, shares: Tensor) -> Tensor:
    # log Σ_w share_w exp(τ x_w) for each τ of FINE_GRID: x (N, V), shares (V, B) → (F, N, B)
    values = below.new_empty(len(GRID), len(below), shares.size(1))
    slopes, scales = torch.empty_like(values), GRID.tolist()
    for i, powers in grid_powers(below):
        total = powers @ shares
        values[i] = total.log()
        slopes[i] = scales[i] * ((powers * below) @ shares) / total
    return between(values, slopes)


def lowest_pair(sums: Tensor) -> Tuple[float, float]:
    """Return the scale τ and the weight β at which sums over the grid are lowest, interpolated.

    The sum is convex in τ and β. For each β :func:`~fairseq_contout.calibration.lowest_between`
    gives the lowest sum and its τ; a parabola in β through the three lowest of these gives β,
    between 0 and 1, and one through their log τ gives τ.

    Args:
        sums: ``(B, G)``.
    """
    found = [lowest_between(row) for row in sums]
    logs = [math.log(GRID[place]) + step * math.log(GRID[1] / GRID[0]) for place, step, _ in found]
    place, step = _lowest([value for *_, value in found])
    left, right = logs[place - 1] - logs[place], logs[place + 1] - logs[place]
    log_scale = logs[place] + 0.5 * (right - left) * step + 0.5 * (left + right) * step**2
    return math.exp(log_scale), WEIGHTS[1] * (place + step)


def lowest_sum(sums: Tensor) -> float:
    """Return the lowest sum, 0 or more: ``(F,)`` over FINE_GRID, ``(B, F)`` over weights, too."""
    if sums.dim() == 1:
        return max(lowest_fine(sums)[1], 0.0)  # rounded, it may be a little less
    values = [lowest_fine(row)[1] for row in sums]
    place, step = _lowest(values)
    left, middle, right = values[place - 1 : place + 2]
    value = middle + 0.5 * (right - left) * step + 0.5 * (left - 2 * middle + right) * step**2
    return max(value, 0.0)


def fitted_error(sums: Tensor, bins: Tensor) -> float:
    """Return the expected calibration error at the likeliest scale, 0..1.

    It is interpolated between the two points of FINE_GRID around it, 9 % apart. With weights it is
    under the likeliest of :data:`WEIGHTS`.

    Args:
        sums: ``(F,)``, or with weights ``(B, F)``.
        bins: ``(F, BINS, 3)``, or ``(B, F, BINS, 3)``.
    """
    if sums.dim() == 2:
        likeliest = int(sums.amin(dim=1).argmin())
        sums, bins = sums[likeliest], bins[likeliest]
    place = lowest_fine(sums)[0]
    before = min(int(place), len(bins) - 2)
    way = place - before
    return (1 - way) * calibration_error(bins[before]) + way * calibration_error(bins[before + 1])


def lowest_weight(sums: Tensor, scale: float) -> float:
    """Return the weight β at which sums over the grid are lowest for a given scale τ.

    Args:
        sums: ``(B, G)``; between two scales of the grid they are interpolated in log τ.
        scale: τ, taken for the grid's first or last where it is beyond them.
    """
    before, way = grid_place(scale)
    values = torch.lerp(sums[:, before], sums[:, before + 1], way)
    return WEIGHTS[1] * sum(_lowest(values.tolist()))


def _lowest(values: List[float]) -> Tuple[int, float]:
    # the weight around which the parabola is laid, never the first or last, and the step from there
    place = min(max(values.index(min(values)), 1), len(values) - 2)
    return place, min(max(vertex(*values[place - 1 : place + 2]), -1.0), 1.0)


class PriorCalibration(ScaleCalibration):
    """Negative log-likelihood of validation tokens for each weight β and each scale τ: ``(B, G)``.

    Sums add up as those of :class:`~fairseq_contout.calibration.ScaleCalibration` do.
    """

    shape, fine_shape = _SHAPE, _FINE_SHAPE

    def __init__(self):
        super().__init__()
        self._pair = None  # fitted once: each step of decoding asks for it

    def add(self, sums: Tensor, tokens: int):
        """Add the sums ``(B, F)`` of :func:`prior_grid_scores` for some tokens."""
        self._pair = None
        super().add(sums, tokens)

    def load(self, state: Tensor):
        """Take over what :meth:`state` returned; errors as the parent's."""
        self._pair = None
        super().load(state)

    def _best(self) -> Tuple[float, float]:
        if self._pair is None:
            self._pair = lowest_pair(self.sums)
        return self._pair

    def best(self) -> Optional[float]:
        """Return the scale of the most likely pair, or None without data."""
        return self._best()[0] if self.tokens else None

    def weight(self, scale: Optional[float] = None) -> float:
        """Return the most likely weight β, for a given scale or beside the best; 0 without data."""
        if not self.tokens:
            return 0.0
        return self._best()[1] if scale is None else lowest_weight(self.sums, scale)


def without_prior(state: Tensor) -> Tensor:
    """Return the state of the calibration at β = 0, of one with a prior or without."""
    return state[: 1 + len(GRID)] if state.shape == (1 + math.prod(_SHAPE),) else state
