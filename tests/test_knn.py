"""Exact search in chunks against one product with the whole table."""

import pytest
import torch
from factory import SCORES

from fairseq_contout.knn import exact_search
from fairseq_contout.scores import make_query


def setting(score="cosine", rows=53, dim=6):
    torch.manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(rows, dim, dtype=torch.float64), dim=1)
    return make_query(torch.randn(9, dim, dtype=torch.float64), score, 3.0), weight


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("chunk_rows", [1, 7, 53, 1000])
def test_equals_brute_force(score, chunk_rows):
    query, weight = setting(score)
    logits = query.finish(query.vector @ weight.t())
    found = exact_search(query, weight, 5, chunk_rows=chunk_rows)
    expected, indices = logits.sort(dim=1, descending=True)
    torch.testing.assert_close(found.logits, expected[:, :5])
    assert torch.equal(found.indices, indices[:, :5])
    torch.testing.assert_close(found.log_sum_exp, logits.logsumexp(dim=1))


def test_rows_that_are_not_allowed_do_not_exist():
    query, weight = setting()
    allowed = torch.rand(len(weight)) < 0.5
    found = exact_search(query, weight, 5, allowed=allowed, chunk_rows=7)
    fewer = exact_search(query, weight[allowed], 5)
    torch.testing.assert_close(found.logits, fewer.logits)
    assert torch.equal(found.indices, allowed.nonzero().squeeze(1)[fewer.indices])
    torch.testing.assert_close(found.log_sum_exp, fewer.log_sum_exp)


def test_half_precision_rows_give_scores_in_the_precision_of_the_query():
    query, weight = setting()
    found = exact_search(query, weight.half(), 5)
    assert found.logits.dtype == torch.float64
    torch.testing.assert_close(
        found.logits, exact_search(query, weight, 5).logits, atol=5e-3, rtol=0
    )


@pytest.mark.parametrize("k", [0, -1, 54])
def test_k_outside_the_table_is_an_error(k):
    query, weight = setting()
    with pytest.raises(ValueError, match=rf"k must be between 1 and .*53.*is {k}; lower --knn"):
        exact_search(query, weight, k)
