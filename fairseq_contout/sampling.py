"""Which rows a contrastive loss compares with, and how probable each of them was to be there."""

import math
from typing import Tuple

import torch
from torch import Tensor


def unigram(counts: Tensor, allowed: Tensor, power: float = 1.0) -> Tensor:
    """Return probabilities ∝ count^power over the allowed rows: ``(V,)`` → ``(V,)`` float64.

    power 0 is uniform, 1 the unigram distribution. Words that were never counted count once, so
    that every allowed row can be drawn.

    Raises:
        ValueError: power is not in 0..1.
    """
    if not 0 <= power <= 1:
        raise ValueError(
            f"--negative-power must be between 0 (uniform) and 1 (unigram), but is {power}"
        )
    weights = counts.to(torch.float64).clamp(min=1).pow(power) * allowed
    return weights / weights.sum()


def draw(cumulative: Tensor, number: int) -> Tensor:
    """Draw rows with replacement, in O(number log V): → ``(number,)`` int64.

    Args:
        cumulative: running sums of the rows' probabilities, ``(V,)``.
        number: draws.
    """
    points = torch.rand(number, dtype=cumulative.dtype, device=cumulative.device)
    # rounding may leave the last sum below 1: scale to it, and stay inside the table
    found = torch.searchsorted(cumulative, points * cumulative[-1], right=True)
    return found.clamp(max=len(cumulative) - 1)


def log_inclusion(text: Tensor, tokens: int, drawn: Tensor, samples: int) -> Tensor:
    """Return log Q, the log-probability that a row is among the candidates of a batch.

    Candidates are the distinct tokens of a batch and rows drawn beside them. A row w is missing
    only if no token and no draw is w: Q_w = 1 - (1 - p_w)^tokens (1 - s_w)^samples.

    Args:
        text: p, probability of each row as a token, ``(M,)``.
        tokens: tokens of the batch.
        drawn: s, probability of each row in one draw, ``(M,)``.
        samples: draws.

    Returns:
        ``(M,)`` float64, ≤ 0.
    """
    missing = tokens * torch.log1p(-text) + samples * torch.log1p(-drawn)
    return torch.log(-torch.expm1(missing))


def log_kept(number: int, count: int) -> float:
    """Return log r, the log-probability that another row than a token's own is kept.

    r = (number - 1) / (count - 1), where :func:`kept_candidates` keeps number of count.
    """
    return math.log((number - 1) / (count - 1))


def kept_candidates(
    candidates: Tensor, log_q: Tensor, positive: Tensor, number: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep some candidates, drawn uniformly: what a batch costs then grows with its tokens alone.

    A target that is not kept takes the column of a kept one, drawn uniformly, too: each token is
    compared with number - 1 of the M - 1 others, all of them equally probable. With any other
    token's target, a row is compared with probability Q'_w = Q_w r (:func:`log_kept`). A target
    has the correction of its row, too: where the loss is lowest, log p alone then tells which of
    the rows at hand is the target.

    Args:
        candidates: rows, ``(M,)``.
        log_q: log Q of each to be a candidate, ``(M,)``.
        positive: column of each target, ``(N,)``.
        number: how many to keep, 1 < number < M.

    Returns:
        The kept rows, ``(number,)``; their log Q', ``(number,)``; the column that each target
        has or takes, ``(N,)``; its own log Q', ``(N,)``.
    """
    kept = torch.randperm(len(candidates), device=candidates.device)[:number]
    column = torch.randint(number, (len(candidates),), device=candidates.device)
    column[kept] = torch.arange(number, device=candidates.device)
    log_q = log_q + log_kept(number, len(candidates))
    return candidates[kept], log_q[kept], column[positive], log_q[positive]
