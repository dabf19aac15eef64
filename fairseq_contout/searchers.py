"""How a table's words that compete at a step are found: one interface, interchangeable searches.

=============  ==============================  ===========================================
search         looks at                        normaliser of the probabilities
=============  ==============================  ===========================================
``exact``      all rows, in chunks             exact (rows of fewer bits: nearly)
``hnsw``       a FAISS index: a graph          found rows exact, the rest estimated from a
``ivf``        … : clusters of rows            fixed random sample
``ivfpq``      … : clusters of short codes
``shortlist``  words likely given the source   exact over the shortlist
``lists``      words listed for the sentence   exact over the list
=============  ==============================  ===========================================

Special symbols are no part of a search: they are always candidates, scored by the table itself.
"""

from abc import ABC, abstractmethod
from typing import Iterator

import torch
from torch import Tensor

from fairseq_contout.knn import (
    CHUNK_ROWS,
    Int8Rows,
    Neighbours,
    best_of,
    exact_search,
    logits_of_found,
)
from fairseq_contout.scores import Query


class Searcher(ABC):
    """Finds the words of a table that are nearest to predictions.

    What a search keeps of the rows is made when it is first used, and again when they have changed:
    fairseq builds generators before it loads a checkpoint, and decodes between epochs.

    Args:
        table: the :class:`~fairseq_contout.target_table.TargetTable`.
    """

    #: whether logits are normalised by anything else than the sum over all float32 rows
    approximate = True

    def __init__(self, table):
        self.table = table
        self._made_of = None

    @torch.no_grad()
    def search(self, query: Query, k: int) -> Neighbours:
        """Find k words for each query.

        Args:
            query: predictions, ``(N, d)``.
            k: words to find, 1 ≤ k ≤ words of the table.

        Returns:
            exact logits ``(N, k)``, best first; rows of the table ``(N, k)``; and the log-sum-exp
            over all words that the search lets compete, ``(N,)``. Where fewer than k are found, the
            last logits are -inf.

        Raises:
            ValueError: k is out of range.
        """
        self.refresh()
        return self._search(query, k)

    def check(self, k: int, candidates: int):
        """Refuse to serve a beam search that would fail at one of its steps.

        Args:
            k: words that each step asks for.
            candidates: what a step takes at most, words or special symbols: 2 × beam.

        Raises:
            ValueError: k is out of range, or the search does not find as many.
        """
        words = len(self.table.weight) - self.table.num_specials
        if not candidates <= k <= words:
            raise ValueError(
                f"--knn must be between 2 x beam ({candidates}), since a step may take as many "
                f"candidates from one beam, and the words of the table ({words}), but is {k}; "
                "change --knn or --beam"
            )

    @torch.no_grad()
    def refresh(self):
        """Make what the search keeps of the rows, unless they are those that it was made of."""
        now = self.table.search_state()
        if self._made_of != now:
            self._prepare()
            self._made_of = now

    def chunks(self) -> Iterator[Tensor]:
        """Yield the rows of all words, special symbols left out, some at a time in float32."""
        table = self.table
        words = torch.arange(table.num_specials, len(table.weight), device=table.weight.device)
        for index in words.split(CHUNK_ROWS):
            yield table.rows(index)

    def attend(self, encoder):
        """Return what takes the place of a model's encoder, which may be None: the encoder."""
        return encoder

    def follow(self, tokens: Tensor):  # noqa: B027  (most searches look at predictions alone)
        """Take the hypotheses that the next search goes on with, ``(N, t)``, ``</s>`` first."""

    def covers(self, beams: Tensor, tokens: Tensor) -> Tensor:
        """Tell whether the normaliser of beams ``(M,)`` counts words ``(M,)``: bool ``(M,)``."""
        return torch.ones_like(tokens, dtype=torch.bool)

    def gain(self, beams: Tensor, tokens: Tensor) -> Tensor:
        """Return what the search adds to the logits of words ``(M,)`` of beams ``(M,)``."""
        return torch.zeros(len(tokens), device=tokens.device)

    @abstractmethod
    def _prepare(self):
        """Make what is kept of the rows."""

    @abstractmethod
    def _search(self, query: Query, k: int) -> Neighbours:
        """Do what :meth:`search` says, with everything made."""


class ExactSearch(Searcher):
    """All words, by chunks of products: nothing is missed.

    With bfloat16 or int8 rows, which take a half or a quarter of the memory beside the table's, the
    best 2 k + 32 rows are scored again with the table's own: logits are exact, and the best k are
    those of float32 unless one of them lies further down. In the log-sum-exp those best rows count
    exactly and the others as they are kept.

    Args:
        table: the target table.
        row_type: one of :data:`~fairseq_contout.search_options.ROW_TYPES`.
    """

    def __init__(self, table, row_type: str = "float32"):
        super().__init__(table)
        self.row_type = row_type
        self.approximate = row_type != "float32"
        self._rows = None

    def _prepare(self):
        if self.row_type == "bfloat16":
            self._rows = torch.cat([rows.bfloat16() for rows in self.chunks()])
        elif self.row_type == "int8":
            self._rows = Int8Rows(self.chunks())
        # of float32 the table keeps all that there is to keep

    def _search(self, query: Query, k: int) -> Neighbours:
        specials = self.table.num_specials
        rows = self._rows if self.approximate else self.table.stored_rows()[specials:]
        size = rows.size(0)
        reach = min(2 * k + 32, size) if self.approximate and k <= size else k
        found = exact_search(
            query,
            rows,
            reach,
            allowed=self.table.emittable[specials:],
            log_prior=self.table.log_prior(slice(specials, None)),
        )
        indices = found.indices + specials
        if not self.approximate:
            return Neighbours(found.logits, indices, found.log_sum_exp)
        logits = logits_of_found(query, self.table.rows(indices), self.table.log_prior(indices))
        logits = logits.masked_fill(found.logits.isneginf(), -torch.inf)  # rows not allowed
        share = (found.logits.logsumexp(dim=1) - found.log_sum_exp).exp().clamp(max=1)
        rest = found.log_sum_exp + torch.log1p(-share)
        total = torch.logaddexp(rest, logits.logsumexp(dim=1))
        return Neighbours(*best_of(logits, indices, k), total)
