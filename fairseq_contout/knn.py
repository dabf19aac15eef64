"""Exact nearest neighbours of predictions among the rows of a table, without a (N × V) tensor."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_contout.scores import Query

#: Rows per product. The largest temporary is (N × CHUNK_ROWS) float32.
CHUNK_ROWS = 65536


class Neighbours(NamedTuple):
    """The best rows of every query.

    Attributes:
        logits: ``(N, k)``, best first.
        indices: rows of the table, ``(N, k)``, int64.
        log_sum_exp: log Σ_w exp(logit_w) over *all* rows that may be returned, ``(N,)``: the exact
            normaliser of the distribution that the k logits belong to.
    """

    logits: Tensor
    indices: Tensor
    log_sum_exp: Tensor


@torch.no_grad()
def exact_search(
    query: Query,
    weight: Tensor,
    k: int,
    *,
    allowed: Optional[Tensor] = None,
    normalizer: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> Neighbours:
    """Find the k rows with the largest logits, and the exact log-sum-exp over all rows.

    The rows are visited in chunks: product, running top-k, running log-sum-exp. Time O(N V d),
    memory O(N (chunk_rows + k)). No gradient flows through the result.

    Args:
        query: predictions, ``(N, d)``.
        weight: unit-norm rows, ``(V, d)``.
        k: neighbours per query, 1 ≤ k ≤ V.
        allowed: rows that may be returned, ``(V,)`` bool; all when None. A row that is not allowed
            has no part in the log-sum-exp either. With fewer than k allowed rows the last logits
            are -inf.
        normalizer: False leaves the log-sum-exp out (zeros), for those who want neighbours alone.
        chunk_rows: rows per product.

    Raises:
        ValueError: k is not in 1..V.
    """
    size = weight.size(0)
    if not 1 <= k <= size:
        raise ValueError(
            f"k must be between 1 and the number of rows of the table ({size}), but is {k}; "
            "lower --knn"
        )
    count = query.vector.size(0)
    log_sum_exp = query.vector.new_full((count,), -torch.inf if normalizer else 0.0)
    best = query.vector.new_empty((count, 0))
    indices = torch.empty((count, 0), dtype=torch.long, device=best.device)
    for start in range(0, size, chunk_rows):
        rows = weight[start : start + chunk_rows].to(query.vector.dtype)
        logits = query.finish(query.vector @ rows.t())  # N x chunk
        if allowed is not None:
            logits.masked_fill_(~allowed[start : start + chunk_rows], -torch.inf)
        if normalizer:
            log_sum_exp = torch.logaddexp(log_sum_exp, logits.logsumexp(dim=-1))
        top, position = logits.topk(min(k, logits.size(-1)), dim=-1)
        best = torch.cat((best, top), dim=-1)
        indices = torch.cat((indices, position + start), dim=-1)
        if best.size(-1) > k:
            best, order = best.topk(k, dim=-1)
            indices = indices.gather(-1, order)
    return Neighbours(best, indices, log_sum_exp)
