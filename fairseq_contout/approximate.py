"""Approximate search: rows of frequent words one by one, the nearest others from a FAISS index.

The normaliser is exact over frequent words, and an estimate for the others.
"""

import logging

import torch
from torch import Tensor

from fairseq_contout import faiss_index
from fairseq_contout.knn import (
    CHUNK_ROWS,
    Neighbours,
    best_of,
    exact_search,
    logits_of_found,
)
from fairseq_contout.prior import half_circle
from fairseq_contout.scores import Query
from fairseq_contout.searchers import ExactSearch, Searcher

logger = logging.getLogger(__name__)

#: Rows that are taken from an index for each one wanted: codes rank rows only roughly.
_REFINE = {"hnsw": 1, "ivf": 1, "ivfpq": 8}
#: Queries of the recall, and the length of the noise on a row: their cosine is about 0.71.
_RECALL_QUERIES, _RECALL_NOISE = 1000, 1.0
_SEED = 1


class SampledNormalizer:
    """Estimates log Σ_w exp(logit_w) from the rows found and a fixed sample of the others.

    With F the k rows found, S the sample, m' = |S \\ F| and V words,

        Z ≈ Σ_{w ∈ F} exp(logit_w) + (V - k) / m' · Σ_{w ∈ S \\ F} exp(logit_w).

    Over random samples this Z is unbiased, whatever F is; where S holds all words it is exact.

    Sources: Rastogi and Van Durme (2015), Sublinear Partition Estimation,
    https://arxiv.org/abs/1508.01596; Mussmann and Ermon (2016), Learning and Inference via Maximum
    Inner Product Search, https://proceedings.mlr.press/v48/mussmann16.html

    Args:
        table: the target table.
        words: rows that may be found, ``(V,)``.
        size: rows of the sample, all words at most.
        seed: of the sample.
    """

    def __init__(self, table, words: Tensor, size: int, seed: int = _SEED):
        self.count, self.size = len(words), min(size, len(words))
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(self.count, generator=generator)[: self.size]
        sample = words[drawn.to(words.device)]
        self.rows, self.log_prior = table.rows(sample), table.log_prior(sample)
        # row of the table → its place in the sample; those that are not in it share a last place
        self.places = sample.new_full((len(table.weight),), self.size)
        self.places[sample] = torch.arange(self.size, device=sample.device)

    def __call__(self, query: Query, logits: Tensor, indices: Tensor) -> Tensor:
        """Return the estimate ``(N,)`` for rows found ``(N, k)``; those at -inf were not.

        Raises:
            ValueError: the rows found could be the whole sample.
        """
        _check_sample(self.size, indices.size(1), self.count)
        was_found = logits > -torch.inf
        places = self.places[indices].masked_fill(~was_found, self.size)
        taken = torch.zeros(len(logits), self.size + 1, dtype=torch.bool, device=logits.device)
        taken = taken.scatter_(1, places, True)[:, : self.size]
        products = query.vector @ self.rows.to(query.vector.dtype).t()  # N x sample
        sampled = query.finish(products, self.log_prior)
        sampled = sampled.masked_fill_(taken, -torch.inf)
        others = self.count - was_found.sum(dim=1)
        weight = others / (self.size - taken.sum(dim=1))
        rest = sampled.logsumexp(dim=1) + weight.to(sampled.dtype).log()
        rest = rest.masked_fill(others == 0, -torch.inf)
        return torch.logaddexp(logits.logsumexp(dim=1), rest)


def _check_sample(size: int, found: int, words: int):
    # with the whole sample among the rows found, nothing says how much the others weigh
    if size <= found and size < words:
        raise ValueError(
            f"--normalizer-sample must be greater than the rows that are found at a step "
            f"({found}), but is {size}; raise it"
        )


class ApproximateSearch(Searcher):
    """Frequent words, and the nearest others that a FAISS index finds, scored in float32.

    Nearly all tokens of a text are a few thousand words, whose rows cost little to look at; an
    index would miss some of them. It lives on the CPU and holds the other words that may be
    emitted. Its recall is logged when it is built: the share of the 1 or 10 nearest words by exact
    search that are found, for 1,000 of its rows with Gaussian noise of length 1 on them.

    The most frequent words are those with the largest counts of --unigram-prior, or else the first
    of the dictionary, which fairseq-preprocess sorts by frequency.

    With a prior, rows and queries have further coordinates, :func:`~fairseq_contout.prior
    .half_circle`, by which the index ranks words as the logits do. They do not depend on τ and β.

    Args:
        table: the target table.
        options: :class:`~fairseq_contout.search_options.SearchOptions`.

    Raises:
        ValueError: faiss is missing, a parameter does not fit the table, or its score and prior
            do not make an inner product.
    """

    def __init__(self, table, options):
        super().__init__(table)
        if table.prior is not None and table.score == "power_spherical":
            raise ValueError(
                f"--knn-search {options.knn_search} ranks words by inner products, but the score "
                "power_spherical and the prior of --unigram-prior do not add up to one; take "
                "--knn-search exact, or --model-overrides \"{'unigram_prior': False}\""
            )
        self._faiss = faiss_index.import_faiss(options.knn_search)
        self.options = options
        words = len(self._words())
        self._frequent = options.frequent_of(words)
        self._count = words - self._frequent
        self._shape = faiss_index.make_shape(options, table.dim, self._count)
        if table.prior is not None:
            self._shape = faiss_index.widened(self._shape, 2)

    def check(self, k: int, candidates: int):
        """Refuse what :meth:`Searcher.check` does, and too small a sample for the normaliser."""
        super().check(k, candidates)
        # blocked words, of which --no-repeat-ngram-size makes more as hypotheses grow, are found
        # beside these: steps look again
        _check_sample(self.options.get("normalizer_sample"), self._reach(k), self._count)

    def _reach(self, k: int) -> int:
        # rows to take from the index for k wanted
        return min(_REFINE[self._shape.kind] * k, self._count)

    def _words(self) -> Tensor:
        words = self.table.emittable.nonzero().squeeze(1)
        return words[words >= self.table.num_specials]

    def _split(self):
        # the frequent words, and the others in the dictionary's order
        words = order = self._words()
        if self.table.prior is not None:
            counts = self.table.prior.counts[words]
            order = words[counts.argsort(descending=True, stable=True)]
        frequent = order[: self._frequent]
        return frequent, words[~torch.isin(words, frequent)]

    def _chunks(self):
        for number, index in enumerate(self.words.split(CHUNK_ROWS)):
            rows = self.table.rows(index).detach().float().cpu()
            if self.table.prior is not None:
                rows = torch.cat((rows, self._beside[number * CHUNK_ROWS :][: len(rows)]), dim=1)
            yield rows.contiguous()

    def _prepare(self):
        options = self.options
        self.frequent, self.words = self._split()
        self._frequent_rows = self.table.rows(self.frequent)
        if self.table.prior is not None:
            beside, self._half = half_circle(self.table.log_prior(self.words).cpu())
            lacking = self._shape.dim - self.table.dim - beside.size(1)
            self._beside = torch.nn.functional.pad(beside, (0, lacking))
        self.index, seconds = faiss_index.cached_index(
            self._faiss, self._shape, len(self.words), self._chunks, options.knn_cache
        )
        if self._shape.kind == "hnsw":
            self.index.hnsw.efSearch = options.get("hnsw_ef")
        else:
            self.index.nprobe = min(options.get("ivf_probes"), self._shape.lists)
        self.normalizer = SampledNormalizer(
            self.table, self.words, options.get("normalizer_sample")
        )
        if seconds:
            one, ten = self._recall()
            logger.info(
                f"{self._shape.kind} index of {len(self.words)} rows built in {seconds:.1f} s; "
                f"recall@1 {one:.4f}, recall@10 {ten:.4f} on {_RECALL_QUERIES} rows with noise"
            )

    def _find(self, query: Query, k: int):
        # rows near vectors (N, d) and whether there are so many: (N, k) int64 and bool
        vectors = query.vector
        if self.table.prior is not None:
            beside = vectors.new_zeros(len(vectors), self._shape.dim - vectors.size(1))
            if query.prior is not None:
                beside[:, :1] = query.prior * self._half
            vectors = torch.cat((vectors, beside), dim=1)
        queries = vectors.float().cpu().contiguous().numpy()
        places = torch.from_numpy(self.index.search(queries, k)[1]).to(vectors.device)
        return self.words[places.clamp(min=0)], places >= 0

    def _look(self, query: Query, k: int):
        # of the index: logits and rows (N, M); and the k best of the frequent words, or None
        indices, there = self._find(query, self._reach(k))
        rows, log_prior = self.table.rows(indices), self.table.log_prior(indices)
        logits = logits_of_found(query, rows, log_prior).masked_fill(~there, -torch.inf)
        if not len(self.frequent):
            return logits, indices, None
        known = exact_search(
            query,
            self._frequent_rows,
            min(k, len(self.frequent)),
            log_prior=self.table.log_prior(self.frequent),
        )
        return logits, indices, known._replace(indices=self.frequent[known.indices])

    def _search(self, query: Query, k: int) -> Neighbours:
        logits, indices, known = self._look(query, k)
        total = self.normalizer(query, logits, indices)
        if known is not None:
            total = torch.logaddexp(known.log_sum_exp, total)
        return Neighbours(*_best_of_all(logits, indices, known, k), total)

    def _recall(self):
        generator = torch.Generator().manual_seed(_SEED)
        drawn = torch.randint(len(self.words), (_RECALL_QUERIES,), generator=generator)
        rows = self.table.rows(self.words[drawn.to(self.words.device)])
        noise = torch.randn(rows.shape, generator=generator) * _RECALL_NOISE / rows.size(1) ** 0.5
        noisy, k = rows + noise.to(rows), min(10, len(self.words))
        query = Query(noisy) if self.table.prior is None else self.table.query(noisy)
        found = _best_of_all(*self._look(query, k), k)[1]
        nearest = ExactSearch(self.table).search(query, k).indices
        shared = (found.unsqueeze(2) == nearest.unsqueeze(1)).any(dim=1).float()
        return shared[:, 0].mean().item(), shared.mean().item()


def _best_of_all(logits: Tensor, indices: Tensor, known, k: int):
    # the k best of an index's rows and of the frequent words
    if known is not None:
        logits = torch.cat((known.logits, logits), dim=1)
        indices = torch.cat((known.indices, indices), dim=1)
    return best_of(logits, indices, k)
