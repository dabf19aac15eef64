"""The sparse path decodes as the dense one, which decodes by the documented probabilities."""

import math

import pytest
import torch
from decoding import Decoder, assert_same_hypotheses

from fairseq_contout.target_table import emittable_rows

#: score → the criterion that a model is trained with, and a scale that leaves much uncertainty
SCORES = {
    "dot": ("vmf", 2.0),
    "cosine": ("cosine", 6.0),
    "l2": ("l2", 6.0),
    "power_spherical": ("power_spherical", 0.05),
}
OPTIONS = {
    "plain": {},
    "lenpen": {"lenpen": 0.3},
    "unnormalized": {"unnormalized": True},
    "min-len": {"min_len": 7},
    "max-len": {"max_len_a": 0.5, "max_len_b": 1},
    "prefix-size": {"prefix_size": 2},
    "long-prefix": {"prefix_size": 5},  # reaches </s> and the padding after it
    "no-repeat-1gram": {"no_repeat_ngram_size": 1},
    "no-repeat-2gram": {"no_repeat_ngram_size": 2, "min_len": 9},
    "no-repeat-3gram": {"no_repeat_ngram_size": 3, "min_len": 12},
    "prefix-with-repeats": {"prefix_size": 5, "no_repeat_ngram_size": 1},
    "unkpen": {"unkpen": 3.0},
    "likes-unk": {"unkpen": -8.0},
    "sharp": {"temperature": 0.5},
    "flat": {"temperature": 2.5},
    "match-source-len": {"match_source_len": True},
    "diverse-siblings": {"diversity_rate": 0.5},
    "sampling-topk": {"sampling": True, "sampling_topk": 5},
    "many": {"prefix_size": 1, "no_repeat_ngram_size": 2, "temperature": 1.5, "lenpen": 2.0},
}


@pytest.fixture(scope="module")
def decoder(corpus, trained):
    made = {}

    def make(score):
        if score not in made:
            model, scale = SCORES[score]
            made[score] = Decoder(corpus.data, trained(model), scale=scale)
            assert made[score].table.score == score
        return made[score]

    return make


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("score", SCORES)
def test_sparse_equals_dense(score, options, beam, decoder):
    decoder = decoder(score)
    dense = decoder.generate(beam=beam, **OPTIONS[options])
    k = max(2 * beam, OPTIONS[options].get("sampling_topk", 0))
    sparse = decoder.generate(k, beam=beam, **OPTIONS[options])
    assert_same_hypotheses(dense, sparse)


@pytest.mark.parametrize("knn", [None, 10])
def test_a_forced_prefix_may_repeat_itself(knn, decoder):
    decoder = decoder("cosine")
    found = decoder.generate(knn, beam=5, prefix_size=5, no_repeat_ngram_size=1)
    repeats = 0
    for best, target in zip(found, decoder.batch["target"]):
        prefix = [t for t in target[:5].tolist() if t != decoder.dictionary.pad()]
        repeats += len(set(prefix)) < len(prefix)
        for hypothesis in best:
            assert hypothesis["tokens"][: len(prefix)].tolist() == prefix
    assert repeats > 2


def test_sparse_looks_at_fewer_rows_than_the_table_has(decoder):
    generator = decoder("cosine").build(10, beam=5)
    assert generator.vocab_size == 14 < len(decoder("cosine").dictionary)


def test_decoding_is_not_trivial(decoder):
    """The tests above would prove little if every hypothesis were the same or certain."""
    for score in SCORES:
        hypotheses = decoder(score).generate(beam=5)
        assert len({len(h["tokens"]) for best in hypotheses for h in best}) > 2
        certain = [h["positional_scores"].exp().mean().item() for h, *_ in hypotheses]
        assert sum(certain) / len(certain) < 0.9


def by_hand(score, hidden, rows, scale):
    """Logits as documented, ``(N, d)``, ``(V, d)`` → ``(N, V)``."""
    if score == "dot":
        return scale * hidden @ rows.t()
    if score == "l2":
        return -scale / 2 * (hidden.unsqueeze(1) - rows.unsqueeze(0)).pow(2).sum(dim=2)
    cosines = torch.cosine_similarity(hidden.unsqueeze(1), rows.unsqueeze(0), dim=2)
    if score == "cosine":
        return scale * cosines
    return scale * hidden.norm(dim=1, keepdim=True) * torch.log1p(cosines)


@pytest.mark.parametrize("knn", [None, 10])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("score", SCORES)
def test_scores_are_the_documented_probabilities(score, temperature, knn, decoder):
    decoder = decoder(score)
    emittable = emittable_rows(decoder.dictionary)
    greedy = [h[0] for h in decoder.generate(knn, beam=1, temperature=temperature)]
    predicted = decoder.predictions([h["tokens"] for h in greedy])
    for hypothesis, hidden in zip(greedy, predicted):
        logits = by_hand(score, hidden, decoder.table.weight, SCORES[score][1]) / temperature
        lprobs = torch.log_softmax(logits.masked_fill(~emittable, -torch.inf), dim=1)
        tokens = hypothesis["tokens"]
        expected = lprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(hypothesis["positional_scores"], expected, rtol=1e-4, atol=1e-4)
        assert hypothesis["score"].item() == pytest.approx(expected.mean().item(), abs=1e-4)
        lprobs[0, decoder.dictionary.eos()] = -torch.inf  # --min-len is 1 by default
        if len(tokens) < 13:  # else </s> is forced
            assert torch.equal(lprobs.argmax(dim=1), tokens)


@pytest.mark.parametrize("score", SCORES)
def test_beam_search_finds_no_worse_than_greedy(score, decoder):
    def found(beam):
        return sum(h[0]["score"] for h in decoder(score).generate(beam=beam, unnormalized=True))

    assert found(5) >= found(1) - 1e-4


def test_some_symbols_are_never_emitted(decoder):
    decoder = decoder("cosine")
    symbols = decoder.dictionary.symbols
    never = [i for i, s in enumerate(symbols) if s in ("<s>", "<pad>") or "madeupword" in s]
    assert len(never) >= 3
    hidden = decoder.table.weight[never]  # predictions that point right at them
    assert decoder.table.log_probs(hidden)[:, never].eq(-math.inf).all()
    offered = decoder.table.candidates(hidden, 39 - 4)
    for log_probs, indices in zip(*offered):
        assert not set(indices[log_probs > -math.inf].tolist()) & set(never)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"diverse_beam_groups": 5}, "--diverse-beam-groups .* --task translation"),
        ({"constraints": "ordered"}, "--constraints .* --task translation"),
        ({"sampling": True}, "--sampling without --sampling-topk .* --task translation"),
        ({"sampling": True, "sampling_topp": 0.5}, "--sampling-topp .* --task translation"),
        ({"sampling": True, "sampling_topk": 15}, "--sampling-topk must be at most .*10.* is 15"),
        ({"beam": 6}, r"--knn must be between 2 x beam \(12\).* is 10; change --knn or --beam"),
        ({"knn": 1000}, r"--knn must be between .*words of the table \(36\), but is 1000"),
        ({"ensemble": True}, "ensemble .* --task translation"),
    ],
)
def test_what_the_sparse_path_cannot_do_is_refused(options, message, decoder):
    decoder = decoder("cosine")
    options = {"beam": 5, "knn": 10, **options}
    models = [decoder.model] * (2 if options.pop("ensemble", False) else 1)
    with pytest.raises(ValueError, match=message) as error:
        decoder.build(models=models, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"diverse_beam_groups": 5},
        {"sampling": True},
        {"sampling": True, "sampling_topp": 0.5},
        {"sampling": True, "sampling_topk": 15},
    ],
)
def test_the_dense_path_can(options, decoder):
    hypotheses = decoder("cosine").generate(beam=5, **options)
    assert all(h["tokens"][-1] == 2 and h["score"].isfinite() for best in hypotheses for h in best)


def test_sampling_follows_the_seed(decoder):
    def tokens(seed):
        found = decoder("cosine").generate(beam=5, sampling=True, seed=seed)
        return [h["tokens"].tolist() for best in found for h in best]

    assert tokens(1) == tokens(1) != tokens(2)


def test_ensembles_average_probabilities(decoder):
    one, other = decoder("cosine"), decoder("dot")
    hypotheses = [h[0] for h in one.generate(models=[one.model, other.model], beam=5)]
    tokens = [h["tokens"] for h in hypotheses]
    both = [[d.table.log_probs(hidden) for hidden in d.predictions(tokens)] for d in (one, other)]
    for hypothesis, first, second in zip(hypotheses, *both):
        mean = (first.exp() + second.exp()).div(2).log()
        expected = mean.gather(1, hypothesis["tokens"].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(hypothesis["positional_scores"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("knn", [None, 10])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(knn, bad, corpus, trained):
    decoder = Decoder(corpus.data, trained("cosine"))
    decoder.model.decoder.continuous_output.projection.bias.data[2] = bad
    with pytest.raises(ValueError, match=r"must be finite, but \d+ of \d+ hold NaN .*; take an"):
        decoder.generate(knn, beam=2)
