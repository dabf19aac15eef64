"""Every search against brute force, on a table alone."""

import pytest
import torch
from factory import SCORES
from searching import FOUND, WHOLE, WORDS, large_table, learned_from, whole

from fairseq_contout import knn
from fairseq_contout.approximate import SampledNormalizer
from fairseq_contout.candidates import find_candidates
from fairseq_contout.knn import Int8Rows, exact_search
from fairseq_contout.scores import make_query
from fairseq_contout.search_options import SearchOptions, make_searcher


def brute_force(table, hidden, k):
    """The best words and the log-sum-exp over all words, special symbols left out."""
    logits = table.scores(hidden)[:, table.num_specials :]
    best = logits.topk(k, dim=1)
    return best.values, best.indices + table.num_specials, logits.logsumexp(dim=1)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", WHOLE)
def test_equals_brute_force(name, score):
    table, hidden = large_table(score, scale=3.0)
    found = make_searcher(whole(name), table).search(make_query(hidden, score, 3.0), FOUND)
    logits, indices, total = brute_force(table, hidden, FOUND)
    torch.testing.assert_close(found.logits, logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.indices, indices)
    loose = 5e-3 if name in ("bfloat16", "int8") else 1e-5
    torch.testing.assert_close(found.log_sum_exp, total, atol=loose, rtol=1e-5)


@pytest.mark.parametrize("row_type", ["bfloat16", "int8"])
def test_rows_of_fewer_bits_rank_better_once_scored_again(row_type):
    table, hidden = large_table()
    hidden = table.rows()[10:300] + 0.5 * torch.randn(290, 8)
    rows = table.rows()[4:]
    rows = rows.bfloat16() if row_type == "bfloat16" else Int8Rows([rows])
    query = make_query(hidden, "cosine", 20.0)
    rough = exact_search(query, rows, 3, allowed=table.emittable[4:])
    _, indices, _ = brute_force(table, hidden, 3)
    assert not torch.equal(rough.indices + 4, indices)
    searcher = make_searcher(SearchOptions(knn_rows=row_type), table)
    assert torch.equal(searcher.search(query, 3).indices, indices)


@pytest.mark.parametrize("row_type", ["float32", "bfloat16", "int8"])
def test_all_words_are_found_and_no_others(row_type):
    table, hidden = large_table()
    searcher = make_searcher(SearchOptions(knn_rows=row_type), table)
    found = searcher.search(make_query(hidden, "cosine", 3.0), WORDS + 4)  # and padding words
    assert found.logits[:, :WORDS].isfinite().all()
    assert found.logits[:, WORDS:].eq(-torch.inf).all()
    with pytest.raises(ValueError, match=r"k must be between 1 and .*\(304\), but is 305"):
        searcher.search(make_query(hidden, "cosine", 3.0), WORDS + 5)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_rows_of_one_byte(chunk):
    table, _ = large_table()
    rows = table.rows()
    kept = Int8Rows(rows.split(chunk))
    assert kept.values.dtype == torch.int8 and kept.size(0) == len(rows) and kept.size(1) == 8
    step = rows.abs().amax(dim=1, keepdim=True) / 127
    assert ((kept[5:20] - rows[5:20]).abs() <= step[5:20] / 2 + 1e-7).all()
    assert kept.values.abs().amax(dim=1).eq(127).all()


def test_the_sum_counts_the_best_rows_exactly():
    table, _ = large_table()
    hidden = table.rows()[10:60]  # predictions that point right at a row: it is nearly all of Z
    query = make_query(hidden, "cosine", 60.0)
    rows = Int8Rows([table.rows()[4:]])
    rough = exact_search(query, rows, 1, allowed=table.emittable[4:]).log_sum_exp
    exact = (table.logits_of(hidden, torch.arange(4, 304), 60.0)).logsumexp(dim=1)
    found = make_searcher(SearchOptions(knn_rows="int8"), table).search(query, 3).log_sum_exp
    assert (found - exact).abs().max() < 1e-3 < (rough - exact).abs().max()


@pytest.mark.parametrize("name", WHOLE)
def test_candidates(name):
    """Special symbols compete, blocked words are replaced by the next nearest."""
    table, hidden = large_table(scale=3.0)
    dense = table.log_probs(hidden, 2.0)
    order = dense[:, 4:].argsort(dim=1, descending=True) + 4
    excluded = torch.cat((order[:, :2], torch.full((20, 1), 2)), dim=1)
    excluded[4] = -1
    searcher = make_searcher(whole(name), table)
    found, total = find_candidates(table, searcher, hidden, FOUND, 2.0, excluded)
    assert torch.equal(found.indices[:, :4], torch.arange(4).expand(20, 4))
    assert torch.equal(found.indices[:4, 4:], order[:4, 2 : FOUND + 2])
    assert torch.equal(found.indices[4, 4:], order[4, :FOUND])
    expected = dense.gather(1, found.indices)
    expected[[i for i in range(20) if i != 4], 2] = -torch.inf
    torch.testing.assert_close(found.log_probs, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(total, table.scores(hidden, 2.0).logsumexp(dim=1), atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["float32", *WHOLE])
def test_words_can_be_blocked_where_all_are_asked_for(name):
    table, hidden = large_table(scale=3.0)
    searcher = make_searcher(SearchOptions() if name == "float32" else whole(name), table)
    excluded = torch.tensor([[7, 9]]).expand(len(hidden), 2)
    found, _ = find_candidates(table, searcher, hidden, WORDS + 4, excluded=excluded)
    assert found.log_probs.shape == (20, 4 + WORDS + 4)
    possible = found.log_probs[:, 4:] > -torch.inf
    assert not torch.isin(found.indices[:, 4:][possible], torch.tensor([7, 9])).any()
    if name != "hnsw":  # whose graph leaves out a few words
        assert possible.sum(dim=1).eq(WORDS - 2).all()


@pytest.mark.parametrize("name", ["hnsw", "ivf", "ivfpq"])
def test_with_fewer_rows_found_than_wanted_the_last_are_minus_infinity(name):
    table, hidden = large_table()
    narrow = {"ivf_lists": 30, "ivf_probes": 1} if name != "hnsw" else {}
    searcher = make_searcher(SearchOptions(**{"knn_search": name, **narrow}), table)
    found = searcher.search(make_query(hidden, "cosine", 3.0), WORDS + 4)
    there = found.logits > -torch.inf
    assert there.sum(dim=1).max() <= WORDS
    if name != "hnsw":
        assert there.sum(dim=1).max() < 100
    words = found.indices[there]
    assert table.emittable[words].all() and (words >= 4).all()
    logits = table.scores(hidden * 1.0).div(table.scale).mul(3.0)
    exact = logits.gather(1, found.indices)[there]
    torch.testing.assert_close(found.logits[there], exact, atol=1e-5, rtol=1e-5)
    # the sample is the whole table: what is not found is still counted
    total = logits[:, 4:].logsumexp(dim=1)
    torch.testing.assert_close(found.log_sum_exp, total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["float32", *WHOLE])
def test_rows_that_change_are_noticed(name):
    options = SearchOptions() if name == "float32" else whole(name)
    frozen, hidden = large_table(scale=3.0)
    for make in (lambda: frozen, lambda: learned_from(frozen).eval()):
        table = make()
        searcher = make_searcher(options, table)
        query = make_query(hidden, "cosine", 3.0)
        first = searcher.search(query, FOUND)
        with torch.no_grad():
            table.weight.copy_(table.weight.flip(0))
        second = searcher.search(query, FOUND)
        assert not torch.equal(first.indices, second.indices)
        assert torch.equal(second.indices, brute_force(table, hidden, FOUND)[1])


def test_the_exact_search_never_converts_the_whole_table(monkeypatch):
    table, hidden = large_table()
    table.half()
    monkeypatch.setattr(knn, "CHUNK_ROWS", 50)
    monkeypatch.setattr(exact_search.__wrapped__, "__kwdefaults__", {
        **exact_search.__wrapped__.__kwdefaults__, "chunk_rows": 50,
    })  # fmt: skip
    sizes, convert = [], torch.Tensor.to

    def to(tensor, *arguments, **options):
        if tensor.dtype == torch.float16:
            sizes.append(len(tensor))
        return convert(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: to(tensor, torch.float32))
    found = table.candidates(hidden, 5)
    table.log_prob_of(hidden, found.indices[:, 5])
    assert sizes and max(sizes) <= 50


# ---- the normaliser ------------------------------------------------------------------------------


def test_the_estimate_is_unbiased_over_samples_and_exact_with_all_rows():
    table, hidden = large_table()
    hidden = table.rows()[30:40] + 0.2 * hidden[:10]  # peaked: most of Z is near
    query = make_query(hidden, "cosine", 15.0)
    logits, indices, total = brute_force_at(table, hidden, 15.0, 10)
    words = table.emittable.nonzero().squeeze(1)[2:]
    estimates = torch.stack(
        [SampledNormalizer(table, words, 40, seed)(query, logits, indices) for seed in range(2000)]
    )
    ratios = (estimates - total).double().exp()  # Z is unbiased, not its logarithm
    error = ratios.std(dim=0) / len(ratios) ** 0.5
    assert ((ratios.mean(dim=0) - 1).abs() < 4 * error).all()
    assert ratios.std(dim=0).max() > 1e-3 > 0  # there is something to estimate
    whole_sample = SampledNormalizer(table, words, 10**6)
    torch.testing.assert_close(whole_sample(query, logits, indices), total)
    for k in (WORDS, 1):
        logits, indices, total = brute_force_at(table, hidden, 15.0, k)
        torch.testing.assert_close(whole_sample(query, logits, indices), total)


def brute_force_at(table, hidden, scale, k):
    table.fixed_scale = scale
    return brute_force(table, hidden, k)


def test_the_sample_is_drawn_once_and_asks_no_global_seed():
    table, hidden = large_table()
    options = SearchOptions("ivf", ivf_probes=17, ivf_lists=17, normalizer_sample=60)
    query, state = make_query(hidden, "cosine", 3.0), torch.get_rng_state()
    one = make_searcher(options, table).search(query, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = make_searcher(options, table)
    for part in (query, query):
        assert torch.equal(again.search(part, 5).log_sum_exp, one.log_sum_exp)
    exact = brute_force_at(table, hidden, 3.0, 5)[2]
    assert 1e-4 < (one.log_sum_exp - exact).abs().max() < 0.3


@pytest.mark.parametrize("name, rows", [("hnsw", 12), ("ivf", 12), ("ivfpq", 96)])
def test_a_sample_that_could_be_found_whole_is_refused(name, rows):
    table, hidden = large_table()
    query = make_query(hidden, "cosine", 3.0)
    options = {"knn_search": name, "normalizer_sample": rows}
    message = rf"--normalizer-sample must be greater than .* \({rows}\), but is {rows}; raise it"
    with pytest.raises(ValueError, match=message):
        make_searcher(SearchOptions(**options), table).search(query, 12)
    options["normalizer_sample"] += 1
    assert (
        make_searcher(SearchOptions(**options), table)
        .search(query, 12)
        .log_sum_exp.isfinite()
        .all()
    )
