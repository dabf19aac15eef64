"""Every search with a unigram prior: what brute force over the whole table finds."""

import logging
from pathlib import Path

import pytest
import torch
from decoding import assert_same_hypotheses
from factory import SCORES, collate
from searching import FOUND, WHOLE, WORDS, TinyModel, give_prior, large_table

from fairseq_contout.candidates import find_candidates
from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.search_options import APPROXIMATE, SearchOptions, make_searcher

SEARCHES = {"float32": {}, **WHOLE}
OPTIONS = {
    "plain": {"beam": 4},
    "temperature": {"beam": 4, "temperature": 2.0},
    "many": {"beam": 3, "prefix_size": 2, "no_repeat_ngram_size": 2, "lenpen": 0.5, "unkpen": 1.0},
}


def search_of(name, table, **more):
    return make_searcher(SearchOptions(**{**SEARCHES[name], **more}), table)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", SEARCHES)
def test_equals_brute_force(name, score):
    table, hidden = large_table(score, scale=3.0)
    plain = table.scores(hidden)[:, 4:].topk(FOUND, dim=1).indices + 4
    give_prior(table)
    if score == "power_spherical" and name in APPROXIMATE:
        message = f"--knn-search {name} ranks words by inner products, .* take --knn-search exact"
        with pytest.raises(ValueError, match=message):
            search_of(name, table)
        return
    found = search_of(name, table).search(table.query(hidden), FOUND)
    logits = table.scores(hidden)[:, 4:]
    best = logits.topk(FOUND, dim=1)
    torch.testing.assert_close(found.logits, best.values, atol=1e-4, rtol=1e-5)
    assert torch.equal(found.indices, best.indices + 4) and not torch.equal(found.indices, plain)
    loose = 1e-2 if name in ("bfloat16", "int8") else 1e-5
    torch.testing.assert_close(found.log_sum_exp, logits.logsumexp(1), atol=loose, rtol=1e-5)


@pytest.mark.parametrize("temperature", [2.0, "each"])
@pytest.mark.parametrize("name", SEARCHES)
def test_candidates(name, temperature):
    table, hidden = large_table(scale=3.0)
    give_prior(table)
    if temperature == "each":
        temperature = torch.linspace(0.5, 3, 20).unsqueeze(1)
    dense = table.log_probs(hidden, temperature)
    order = dense[:, 4:].argsort(dim=1, descending=True) + 4
    excluded = torch.cat((order[:, :2], torch.full((20, 1), 2)), dim=1)
    excluded[4] = -1
    found, total = find_candidates(
        table, search_of(name, table), hidden, FOUND, temperature, excluded
    )
    assert torch.equal(found.indices[:4, 4:], order[:4, 2 : FOUND + 2])
    assert torch.equal(found.indices[4, 4:], order[4, :FOUND])
    expected = dense.gather(1, found.indices)
    expected[[i for i in range(20) if i != 4], 2] = -torch.inf
    torch.testing.assert_close(found.log_probs, expected, atol=2e-2, rtol=0)
    expected = table.scores(hidden, temperature).logsumexp(dim=1)
    torch.testing.assert_close(total, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("name", ["float32", "int8", "ivf", "hnsw"])
def test_counts_that_change_are_noticed(name):
    table, hidden = large_table(scale=3.0)
    give_prior(table)
    searcher = search_of(name, table)
    first = searcher.search(table.query(hidden), FOUND).indices
    table.prior.counts.copy_(table.prior.counts.flip(0))
    second = searcher.search(table.query(hidden), FOUND).indices
    expected = table.scores(hidden)[:, 4:].topk(FOUND, dim=1).indices + 4
    assert torch.equal(second, expected) and not torch.equal(first, second)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_an_index_file_is_of_the_counts_and_of_no_weight(name, tmp_path):
    table, hidden = large_table(scale=3.0)
    plain = search_of(name, table, knn_cache=str(tmp_path))
    plain.search(table.query(hidden), FOUND)
    give_prior(table)

    def files():
        search_of(name, table, knn_cache=str(tmp_path)).search(table.query(hidden), FOUND)
        return len([*Path(tmp_path).iterdir()])

    assert files() == 2
    table.calibration.load(give_prior(large_table()[0], weight=0.1).calibration.state())
    table.fixed_scale = 20.0
    assert files() == 2
    table.calibration.reset()  # a weight of 0
    expected = large_table(scale=20.0)[0].scores(hidden)[:, 4:].topk(FOUND, dim=1).indices + 4
    found = search_of(name, table, knn_cache=str(tmp_path)).search(table.query(hidden), FOUND)
    assert torch.equal(found.indices, expected)
    table.prior.observe(torch.full((100,), 9))
    assert files() == 3


def test_recall_is_measured_with_the_prior(caplog):
    caplog.set_level(logging.INFO)
    table, hidden = large_table(scale=3.0)
    searcher = search_of("ivf", give_prior(table), ivf_lists=30, ivf_probes=1)
    searcher.search(table.query(hidden), 5)
    (line,) = [r.getMessage() for r in caplog.records if "recall@1 " in r.getMessage()]
    queries = []
    look = searcher._look
    searcher._look = lambda query, k: queries.append(query) or look(query, k)
    one, ten = searcher._recall()
    assert f"recall@1 {one:.4f}, recall@10 {ten:.4f}" in line and ten < one < 1
    assert queries[0].prior.eq(table.prior_weight).all()


def test_codes_have_bytes_of_their_own_for_the_prior():
    table, _ = large_table()
    for size, dim, total in ((4, 10, 5), (8, 10, 10), (1, 16, 2), (2, 12, 3)):
        searcher = make_searcher(SearchOptions("ivfpq", pq_bytes=size), table)
        assert (searcher._shape.dim, searcher._shape.pq_bytes) == (8, size)
        with_prior, _ = large_table()
        searcher = make_searcher(SearchOptions("ivfpq", pq_bytes=size), give_prior(with_prior))
        assert (searcher._shape.dim, searcher._shape.pq_bytes) == (dim, total)


# ---- fairseq's generator -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    tiny = TinyModel(tmp_path_factory.mktemp("tiny"))
    give_prior(tiny.table)
    return tiny


@pytest.fixture(scope="module")
def shortlist(tiny, tmp_path_factory):
    """A lexicon of three words for each source word and twelve frequent ones, and its options."""
    draw = torch.Generator().manual_seed(5)
    best = torch.randint(4, WORDS + 4, (len(tiny.dictionary), 3), generator=draw)
    best[:4] = -1
    frequent = torch.randperm(WORDS, generator=draw)[:12] + 4
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.safetensors"
    save_lexicon(path, Lexicon.alike(best, frequent), tiny.dictionary, tiny.dictionary)
    return best, frequent, {"knn_search": "shortlist", "shortlist": str(path)}


def generate(tiny, search, prefix_size=0, **options):
    prefix = tiny.batch["target"][:, :prefix_size] if prefix_size else None
    return tiny.generate(search, prefix=prefix, **options)


def dense(tiny, prefix_size=0, **options):
    from argparse import Namespace

    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    config = TranslationConfig(data="none")
    task = TranslationTask(config, tiny.dictionary, tiny.dictionary)
    generator = task.build_generator([tiny.model], Namespace(max_len_b=9, **options))
    prefix = tiny.batch["target"][:, :prefix_size] if prefix_size else None
    return generator.generate([tiny.model], tiny.batch, prefix_tokens=prefix)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SEARCHES)
def test_hypotheses_are_those_of_the_dense_path(name, options, tiny):
    expected = dense(tiny, **OPTIONS[options])
    found = generate(tiny, SEARCHES[name], **OPTIONS[options])
    loose = {"rtol": 1e-3, "atol": 5e-3} if name in ("bfloat16", "int8") else {}
    assert_same_hypotheses(expected, found, **loose)


def test_the_prior_changes_hypotheses(tiny):
    weighted = generate(tiny, {}, beam=4)
    kept = tiny.table.calibration.state()
    tiny.table.calibration.reset()
    try:
        plain = generate(tiny, {}, beam=4)
    finally:
        tiny.table.calibration.load(kept)
    tokens = [[best[0]["tokens"].tolist() for best in found] for found in (weighted, plain)]
    assert sum(one != other for one, other in zip(*tokens)) > 1


@pytest.mark.parametrize("options", ["plain", "temperature"])
@pytest.mark.parametrize("kind", ["shortlist", "lists"])
def test_a_list_is_a_smaller_table_for_each_sentence(kind, options, tiny, shortlist, monkeypatch):
    best, frequent, search = shortlist
    options = OPTIONS[options]
    sources = tiny.batch["net_input"]["src_tokens"]
    own = torch.zeros(len(sources), len(tiny.dictionary), dtype=torch.bool)
    own[:, 2:4] = True
    for sentence, words in enumerate(sources):
        own[sentence, best[words[words.ge(4)]].flatten()] = True
    if kind == "shortlist":
        own[:, frequent] = True
        found = generate(tiny, search, **options)
    else:
        lists = [row.nonzero().flatten()[2:] for row in own]
        generator = tiny.build({"knn_search": "lists"}, **options)
        width = max(map(len, lists))
        given = torch.stack(
            [torch.nn.functional.pad(w, (0, width - len(w)), value=0) for w in lists]
        )
        generator.slots.searcher.give(given)
        found = generator.generate([tiny.model], tiny.batch)
    for sentence, best_of in enumerate(found):
        words = sources[sentence]
        single = collate(tiny.dictionary, [words[words.ge(4)]])
        with monkeypatch.context() as patch:
            patch.setitem(tiny.table._buffers, "emittable", own[sentence])
            expected = tiny.generate({}, batch=single, **options)
        assert_same_hypotheses(expected, [best_of])
