"""Exact nearest neighbours of predictions among the rows of a table, without a (N × V) tensor."""

from typing import Iterable, NamedTuple, Optional, Union

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


class Int8Rows:
    """Rows in a quarter of the memory of float32: e ≈ s_w · q_w, q_w in -127 … 127, s_w a float.

    The largest number of each row becomes ±127, so that a number is off by s_w / 2 at most.

    Args:
        chunks: the rows, in tensors ``(…, d)`` of some rows each.
    """

    def __init__(self, chunks: Iterable[Tensor]):
        values, scales = [], []
        for rows in chunks:
            scale = rows.float().abs().amax(dim=1, keepdim=True) / 127
            scales.append(scale)
            values.append((rows.float() / scale).round().to(torch.int8))
        self.values, self.scales = torch.cat(values), torch.cat(scales)

    def size(self, dim: int) -> int:
        """Return V for 0 and d for 1."""
        return self.values.size(dim)

    def __getitem__(self, part: slice) -> Tensor:
        return self.values[part] * self.scales[part]  # float32


@torch.no_grad()
def exact_search(
    query: Query,
    weight: Union[Tensor, "Int8Rows"],
    k: int,
    *,
    allowed: Optional[Tensor] = None,
    log_prior: Optional[Tensor] = None,
    normalizer: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> Neighbours:
    """Find the k rows with the largest logits, and the exact log-sum-exp over all rows.

    The rows are visited in chunks: product, running top-k, running log-sum-exp. Time O(N V d),
    memory O(N (chunk_rows + k)). No gradient flows through the result.

    Args:
        query: predictions, ``(N, d)``.
        weight: unit-norm rows, ``(V, d)``, of any floating dtype: each chunk takes that of the
            query. Or what has a tensor's ``size`` and gives its slices, as :class:`Int8Rows`.
        k: neighbours per query, 1 ≤ k ≤ V.
        allowed: rows that may be returned, ``(V,)`` bool; all when None. A row that is not allowed
            has no part in the log-sum-exp either. With fewer than k allowed rows the last logits
            are -inf.
        log_prior: log π of the rows, ``(V,)``, where the query counts it.
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
        rows = weight[start : start + chunk_rows].to(query.vector)  # its dtype and device
        prior = None if log_prior is None else log_prior[start : start + chunk_rows]
        logits = query.finish(query.vector @ rows.t(), prior)  # N x chunk
        part = None if allowed is None else allowed[start : start + chunk_rows]
        if part is not None and not part.all():  # most chunks are whole: N x chunk is worth a look
            logits.masked_fill_(~part, -torch.inf)
        if normalizer:
            log_sum_exp = torch.logaddexp(log_sum_exp, logits.logsumexp(dim=-1))
        top, position = logits.topk(min(k, logits.size(-1)), dim=-1)
        best = torch.cat((best, top), dim=-1)
        indices = torch.cat((indices, position + start), dim=-1)
        if best.size(-1) > k:
            best, order = best.topk(k, dim=-1)
            indices = indices.gather(-1, order)
    return Neighbours(best, indices, log_sum_exp)


def logits_of_found(query: Query, rows: Tensor, log_prior: Optional[Tensor] = None) -> Tensor:
    """Score the rows that were found for each query: ``(N, k, d)`` → logits ``(N, k)``.

    log π of them, ``(N, k)``, is read where the query counts it.
    """
    vector = query.vector.unsqueeze(2)
    return query.finish(torch.bmm(rows.to(vector.dtype), vector).squeeze(2), log_prior)


def best_of(logits: Tensor, indices: Tensor, k: int):
    """Return the k largest logits, best first, and their indices: ``(N, M)`` → ``(N, k)`` twice.

    With M < k the last logits are -inf.
    """
    if logits.size(1) < k:
        lacking = (0, k - logits.size(1))
        logits = torch.nn.functional.pad(logits, lacking, value=-torch.inf)
        indices = torch.nn.functional.pad(indices, lacking)
    logits, order = logits.topk(k, dim=1)
    return logits, indices.gather(1, order)
