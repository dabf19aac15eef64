"""Every search against brute force, on a table alone."""

import pytest
import torch
from factory import SCORES
from searching import FOUND, WHOLE, WORDS, large_table, whole

from fairseq_contout import knn, search_options
from fairseq_contout.approximate import SampledNormalizer
from fairseq_contout.candidates import find_candidates
from fairseq_contout.knn import Int8Rows, exact_search
from fairseq_contout.learned_table import LearnedTable
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


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_kept_of_learned_rows_has_no_graph(name):
    searcher = make_searcher(whole(name), learned_from(large_table()[0]).eval())
    searcher.refresh()  # as benchmarks do, outside of a search
    kept = [searcher._rows] if name in ("bfloat16", "int8") else []
    kept = kept or [searcher._frequent_rows, searcher.normalizer.rows]
    kept += [part for rows in kept for part in getattr(rows, "__dict__", {}).values()]
    assert not any(getattr(rows, "requires_grad", False) for rows in kept)


def test_rows_that_an_optimizer_of_fairseqs_changed_are_noticed():
    """It writes into .data, which torch's count of versions does not see."""
    frozen, hidden = large_table(scale=3.0)
    table = learned_from(frozen).eval()
    searcher = make_searcher(whole("ivf"), table)
    query = make_query(hidden, "cosine", 3.0)
    searcher.search(query, FOUND)
    table.train()
    assert table._kept is None
    table.weight.data.copy_(table.weight.data.flip(0))
    table.eval()
    expected = brute_force(table, hidden, FOUND)[1]
    assert torch.equal(searcher.search(query, FOUND).indices, expected)


def learned_from(frozen):
    from factory import make_dictionary

    weight = torch.nn.Parameter(5 * frozen.weight)
    return LearnedTable(weight, make_dictionary(WORDS, 4), frozen.score, frozen.fixed_scale)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_learned_table_normalises_its_rows_once(ema, monkeypatch):
    frozen, hidden = large_table()
    table = learned_from(frozen)
    if ema is not None:
        table.ema = ema
        table.register_buffer("average", table.weight.detach().clone())
    normalised = []
    normalize = torch.nn.functional.normalize

    def count(rows, **options):
        normalised.append(len(rows))
        return normalize(rows, **options)

    monkeypatch.setattr("fairseq_contout.learned_table.F.normalize", count)
    table.eval()
    with torch.no_grad():
        for _ in range(3):
            table.candidates(hidden, 5)
            table.log_probs(hidden)
    assert sum(size == WORDS + 8 for size in normalised) == 1
    before = table.rows().detach().clone()
    # fairseq's optimizers write into .data, which torch's count of versions does not see
    table.train()
    (table.average if ema is not None else table.weight).data.copy_(-table.weight.data)
    table.eval()
    with torch.no_grad():
        torch.testing.assert_close(table.rows(), -before)
        found = table.candidates(hidden, 5)
    torch.testing.assert_close(found.log_probs, table.log_probs(hidden).gather(1, found.indices))


def test_a_learned_table_keeps_no_rows_where_gradients_flow():
    table = learned_from(large_table()[0])
    table.eval()
    with torch.no_grad():
        table.rows()
    assert table.rows().requires_grad
    assert "_kept" not in "".join(table.state_dict())
    table.double()
    with torch.no_grad():
        assert table.rows().dtype == torch.float64


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


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"knn_search": "nearest"}, "--knn-search must be one of exact, .*, but is 'nearest'"),
        ({"knn_rows": "float16"}, "--knn-rows must be one of float32, .*, but is 'float16'"),
        (
            {"knn_search": "ivf", "knn_rows": "int8"},
            "--knn-rows int8 belongs to --knn-search exact, but that is ivf; leave --knn-rows out",
        ),
        (
            {"knn_cache": "folder"},
            "--knn-cache folder belongs to --knn-search hnsw or ivf or ivfpq",
        ),
        ({"normalizer_sample": 5}, "--normalizer-sample 5 belongs to --knn-search hnsw or ivf or"),
        ({"knn_search": "ivf", "hnsw_links": 8}, "--hnsw-links 8 belongs to --knn-search hnsw,"),
        ({"hnsw_ef_construction": 8}, "--hnsw-ef-construction 8 belongs to --knn-search hnsw,"),
        ({"hnsw_ef": 8}, "--hnsw-ef 8 belongs to --knn-search hnsw, but that is exact"),
        ({"knn_search": "hnsw", "ivf_lists": 8}, "--ivf-lists 8 belongs to --knn-search ivf or iv"),
        ({"knn_search": "hnsw", "ivf_probes": 8}, "--ivf-probes 8 belongs to --knn-search ivf or"),
        ({"knn_search": "ivf", "pq_bytes": 8}, "--pq-bytes 8 belongs to --knn-search ivfpq, but"),
        ({"shortlist": "x"}, "--shortlist x belongs to --knn-search shortlist, but that is exact"),
        ({"knn_search": "shortlist"}, "--knn-search shortlist needs --shortlist FILE.*build_lexic"),
        ({"knn_search": "hnsw", "hnsw_links": 1}, "--hnsw-links must be 2 or more, but is 1"),
        ({"knn_search": "hnsw", "hnsw_ef": 0}, "--hnsw-ef must be 1 or more, but is 0"),
        ({"knn_search": "hnsw", "hnsw_ef_construction": 0}, "--hnsw-ef-construction must be 1 or"),
        ({"knn_search": "ivf", "ivf_lists": 0}, "--ivf-lists must be 1 or more, but is 0"),
        ({"knn_search": "ivf", "ivf_probes": 0}, "--ivf-probes must be 1 or more, but is 0"),
        ({"knn_search": "ivf", "normalizer_sample": 0}, "--normalizer-sample must be 1 or more"),
        ({"knn_search": "ivfpq", "pq_bytes": 0}, "--pq-bytes must be 1 or more, but is 0"),
        (
            {"knn_search": "ivf", "ivf_lists": 301},
            r"--ivf-lists must be at most .*\(270\), but is 301",
        ),
        (
            {"knn_search": "ivf", "ivf_lists": 301, "knn_frequent": 0},
            r"--ivf-lists must be at most .*\(300\), but is 301",
        ),
        ({"new_word_bonus": 5.0}, "--new-word-bonus 5.0 belongs to --knn-search shortlist, but"),
        (
            {"knn_search": "shortlist", "shortlist": "x", "new_word_bonus": float("nan")},
            "--new-word-bonus must be a finite number, but is nan; change it",
        ),
        ({"knn_frequent": 5}, "--knn-frequent 5 belongs to --knn-search hnsw or ivf or ivfpq, but"),
        ({"knn_search": "ivf", "knn_frequent": -1}, "--knn-frequent must be 0 or more, but is -1"),
        (
            {"knn_search": "hnsw", "knn_frequent": 300},
            r"--knn-frequent must be less than .*\(300\), but is 300; .* --knn-search exact",
        ),
        (
            {"knn_search": "ivf", "ivf_lists": 5, "ivf_probes": 6},
            r"--ivf-probes must be at most --ivf-lists \(5\), but is 6; lower it",
        ),
        ({"knn_search": "ivfpq", "pq_bytes": 3}, r"--pq-bytes must divide .*\(8\), but is 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_searcher(SearchOptions(**options), large_table()[0])
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_small_table_has_no_codes():
    from factory import make_table

    message = "--knn-search ivfpq learns 256 values .* the index has 255; lower --knn-frequent, or "
    with pytest.raises(ValueError, match=f"{message}take --knn-search exact"):
        make_searcher(SearchOptions("ivfpq"), make_table(words=283)[0])  # 28 are frequent
    make_searcher(SearchOptions("ivfpq", knn_frequent=27), make_table(words=283)[0])
    make_searcher(SearchOptions("ivfpq"), make_table(words=284)[0])
    make_searcher(SearchOptions("ivf"), make_table(words=2)[0])  # probes 32 of 2 lists: all


def test_every_option_has_an_owner():
    names = set(SearchOptions.__dataclass_fields__) - {"knn_search"}
    assert set(search_options._OWNERS) == names
