"""What competes at a step of decoding: the special symbols, and the words that a search finds."""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_contout.searchers import Searcher


class Candidates(NamedTuple):
    """Log-probabilities of the special symbols and of the nearest rows.

    Attributes:
        log_probs: ``(N, S + k)`` for S special symbols; with exact search normalised over the whole
            table.
        indices: the rows they belong to, ``(N, S + k)``; the first S are 0 … S - 1.
    """

    log_probs: Tensor
    indices: Tensor


@torch.no_grad()
def find_candidates(
    table,
    searcher: Searcher,
    hidden: Tensor,
    k: int,
    temperature=1.0,
    excluded: Optional[Tensor] = None,
) -> Tuple[Candidates, Tensor]:
    """Return the candidates, and the logarithm of what their probabilities are divided by.

    With exact search the numbers equal those of ``table.log_probs``; no (N × V) tensor is made.

    Args:
        table: the target table.
        searcher: what finds the nearest rows.
        hidden: predictions h, ``(N, d)``.
        k: number of nearest rows.
        temperature: a number or ``(N, 1)``; divides the logits.
        excluded: per prediction, rows that must not be returned, ``(N, M)``, filled up with -1.
            They keep their part in the normaliser, as a blocked word does in fairseq.

    Raises:
        ValueError: k is larger than the number of rows that are no special symbols.
    """
    specials = table.num_specials
    query = table.query(hidden, temperature)
    ids = torch.arange(specials, device=hidden.device)
    products = query.vector @ table.rows(ids).to(query.vector.dtype).t()
    own = query.finish(products, table.log_prior(ids))
    own = own.masked_fill(~table.emittable[:specials], -torch.inf)
    ids = ids.expand(own.size(0), -1)

    reach = k if excluded is None else min(k + excluded.size(1), len(table.weight) - specials)
    found = searcher.search(query, reach)
    logits, indices = found.logits, found.indices
    if excluded is not None:
        blocked = (indices.unsqueeze(2) == excluded.unsqueeze(1)).any(dim=2)
        logits, order = logits.masked_fill(blocked, -torch.inf).topk(k, dim=-1)
        indices = indices.gather(-1, order)
        blocked = (ids.unsqueeze(2) == excluded.unsqueeze(1)).any(dim=2)
    total = torch.logaddexp(own.logsumexp(dim=-1), found.log_sum_exp)
    if excluded is not None:
        own = own.masked_fill(blocked, -torch.inf)
    log_probs = torch.cat((own, logits), 1) - total.unsqueeze(1)
    return Candidates(log_probs, torch.cat((ids, indices), 1)), total
