"""Frequent words beside an index: never missed, whatever the index finds."""

import pytest
import torch
from searching import FOUND, WORDS, give_prior, large_table

from fairseq_contout.scores import make_query
from fairseq_contout.search_options import APPROXIMATE, MOST_FREQUENT, SearchOptions, make_searcher

#: name → options under which an index misses much
NARROW = {
    "hnsw": {"hnsw_links": 2, "hnsw_ef_construction": 1, "hnsw_ef": 1},
    "ivf": {"ivf_lists": 20, "ivf_probes": 1},
    "ivfpq": {"ivf_lists": 20, "ivf_probes": 1, "pq_bytes": 2},
}


def narrow(name, table, **more):
    return make_searcher(SearchOptions(name, **{**NARROW[name], **more}), table)


@pytest.mark.parametrize("frequent", [1, 30, 44])
@pytest.mark.parametrize("name", APPROXIMATE)
def test_the_first_words_are_always_found(name, frequent):
    table, hidden = large_table()
    query = make_query(hidden, "cosine", 9.0)
    searcher = narrow(name, table, knn_frequent=frequent)
    found = searcher.search(query, FOUND)
    logits = table.scores(hidden, table.scale / 9.0)[:, 4:]
    assert searcher.index.ntotal == WORDS - frequent and len(searcher.frequent) == frequent
    for row in range(len(hidden)):
        own = found.indices[row][found.logits[row] > -torch.inf]
        assert len(own.unique()) == len(own)
        order = logits[row].argsort(descending=True) + 4
        wanted = order[:FOUND][order[:FOUND] < 4 + frequent]
        assert torch.isin(wanted, own).all()
        torch.testing.assert_close(
            found.logits[row][: len(own)], logits[row][own - 4], atol=1e-4, rtol=1e-5
        )
    if frequent >= 30:  # which an index alone does not give
        alone = narrow(name, table, knn_frequent=0).search(query, FOUND)
        nearest = logits.topk(FOUND, dim=1).indices + 4
        there = (nearest.unsqueeze(2) == alone.indices.unsqueeze(1)).any(dim=2)
        assert not there[nearest < 4 + frequent].all()


@pytest.mark.parametrize("name", APPROXIMATE)
def test_with_counts_they_are_those_of_the_largest(name):
    table, hidden = large_table(scale=9.0)
    give_prior(table)
    searcher = narrow(name, table, knn_frequent=25)
    searcher.search(table.query(hidden), FOUND)
    counts = table.prior.counts.clone()
    counts[~table.emittable] = -1
    counts[: table.num_specials] = -1
    assert searcher.frequent.equal(counts.argsort(descending=True, stable=True)[:25])
    table.prior.observe(torch.full((5000,), 200))
    assert 200 not in searcher.frequent
    searcher.search(table.query(hidden), FOUND)
    assert searcher.frequent[0] == 200


@pytest.mark.parametrize("prior", [False, True])
def test_the_normaliser_is_exact_over_them(prior):
    table, hidden = large_table(scale=9.0)
    if prior:
        give_prior(table)
    query, exact = table.query(hidden), table.scores(hidden)[:, 4:].logsumexp(dim=1)
    errors = []
    for frequent in (0, 280):
        searcher = narrow("ivf", table, knn_frequent=frequent, normalizer_sample=12)
        errors.append((searcher.search(query, 4).log_sum_exp - exact).abs().mean())
    assert errors[1] < 0.3 * errors[0]
    whole = narrow("ivf", table, knn_frequent=100, normalizer_sample=WORDS)
    found = whole.search(query, 4).log_sum_exp
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-6)


def test_how_many_there_are_by_default():
    for words, frequent in ((9, 0), (300, 30), (10**6, MOST_FREQUENT)):
        assert SearchOptions("ivf").frequent_of(words) == frequent
    assert SearchOptions("ivf", knn_frequent=0).frequent_of(300) == 0
    searcher = make_searcher(SearchOptions("ivf"), large_table()[0])
    searcher.refresh()
    assert searcher.frequent.equal(torch.arange(4, 34)) and searcher.index.ntotal == 270
