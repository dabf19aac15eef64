"""Decoding with a shortlist: a smaller table for each sentence, and a bonus for new words."""

import pytest
import torch
from decoding import assert_same_hypotheses
from factory import collate, make_dictionary
from fairseq.sequence_generator import SequenceGenerator
from searching import OPTIONS, WORDS, TinyModel, generate, save_shortlist

from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.search_options import SearchOptions, make_searcher


@pytest.fixture(scope="module")
def narrow(tiny, tmp_path_factory):
    """A lexicon of three words for each source word and twelve frequent ones, and its options."""
    draw = torch.Generator().manual_seed(5)
    best = torch.randint(4, WORDS + 4, (len(tiny.dictionary), 3), generator=draw)
    best[:4] = -1
    best[torch.rand(len(best), generator=draw) < 0.3, 2] = -1
    best[20:24, 0] = WORDS + 4  # a padding word is never emitted
    frequent = torch.randperm(WORDS, generator=draw)[:12] + 4
    return Lexicon.alike(best, frequent), save_shortlist(
        tmp_path_factory.mktemp("narrow"), tiny, best, frequent
    )


def allowed_for(tiny, lexicon, sentence):
    words = torch.zeros_like(tiny.table.emittable)
    words[lexicon.frequent] = True
    own = lexicon.best[sentence].flatten()
    words[own[own >= 0]] = True
    words[:4] = True
    return words & tiny.table.emittable


@pytest.mark.parametrize("options", ["plain", "greedy", "no-repeat", "temperature"])
def test_a_shortlist_is_a_smaller_table_for_each_sentence(options, tiny, narrow, monkeypatch):
    lexicon, search = narrow
    options = dict(OPTIONS[options], lenpen=0.3)
    found = generate(tiny, search, **options)
    # sentences end at different steps, so that fairseq takes some out of the batch
    steps = {max(len(h["tokens"]) for h in best) for best in found}
    assert options["beam"] == 1 or len(steps) > 1
    for sentence, best in enumerate(found):
        words = tiny.batch["net_input"]["src_tokens"][sentence]
        single = collate(tiny.dictionary, [words[words.ge(4)]])
        own = allowed_for(tiny, lexicon, words)
        assert 15 < own.sum() < 45
        with monkeypatch.context() as patch:
            patch.setitem(tiny.table._buffers, "emittable", own)
            expected = generate(tiny, {}, batch=single, **options)
        assert_same_hypotheses(expected, [best])


def test_new_words_have_a_bonus(tiny, narrow, tmp_path, monkeypatch):
    lexicon, _ = narrow
    draw = torch.Generator().manual_seed(8)
    logs = -3 * torch.rand(lexicon.best.shape, generator=draw)
    search = save_shortlist(tmp_path, tiny, lexicon.best, lexicon.frequent, logs)
    new = torch.arange(len(tiny.table.weight)) >= 120
    monkeypatch.setattr(tiny.table, "new_words", new)
    plain = generate(tiny, search, beam=4)
    found = generate(tiny, {**search, "new_word_bonus": 2.5}, beam=4)
    count = [sum(int(new[h["tokens"]].sum()) for best in n for h in best) for n in (plain, found)]
    assert count[1] > count[0]
    assert max(h["tokens"].bincount()[4:].max() for best in plain for h in best) > 1
    scores, written = tiny.table.scores, []

    def with_gain(hidden, temperature, gain):
        # once in a hypothesis
        once = gain.repeat(len(hidden), 1).scatter(1, written[-1], 0)
        return scores(hidden, temperature) + once

    for sentence, best in enumerate(found):
        words = tiny.batch["net_input"]["src_tokens"][sentence]
        words = words[words.ge(4)]
        gain = torch.zeros(len(new))
        for s in words.tolist():
            for t, log in zip(lexicon.best[s].tolist(), logs[s].tolist()):
                if t >= 0 and new[t] and t not in lexicon.frequent:
                    gain[t] = max(gain[t], 2.5 + log) if gain[t] else 2.5 + log
        assert gain.any()
        with monkeypatch.context() as patch:
            patch.setitem(tiny.table._buffers, "emittable", allowed_for(tiny, lexicon, words))
            patch.setattr(tiny.table, "scores", lambda *args, gain=gain: with_gain(*args, gain))
            dense = SequenceGenerator([tiny.model], tiny.dictionary, beam_size=4, max_len_b=9)
            forward = dense.model.forward_decoder
            dense.model.forward_decoder = lambda tokens, *rest, forward=forward: (
                written.append(tokens) or forward(tokens, *rest)
            )
            expected = dense.generate([tiny.model], collate(tiny.dictionary, [words]))
        assert_same_hypotheses(expected, [best])


def test_a_forced_new_word_has_its_bonus_once(tiny, narrow, tmp_path, monkeypatch):
    lexicon, _ = narrow
    search = save_shortlist(
        tmp_path, tiny, lexicon.best, lexicon.frequent, -torch.rand(lexicon.best.shape)
    )
    new = torch.arange(len(tiny.table.weight)) >= 120
    monkeypatch.setattr(tiny.table, "new_words", new)
    generator = tiny.build({**search, "new_word_bonus": 2.5}, beam=2)
    slots, searcher = generator.slots, generator.slots.searcher
    searcher.begin(tiny.batch["net_input"]["src_tokens"])
    searcher.reorder(torch.arange(5).repeat_interleave(2))
    searcher.reorder(torch.arange(2, 10))  # the first sentence is done
    words, hidden = searcher._words[searcher._sentences], torch.randn(8, 16)
    have = searcher._gain[searcher._sentences].abs().argmax(dim=1)
    tokens = words[torch.arange(8), have]
    assert new[tokens].all()
    written = torch.full((8, 3), 2)
    written[1::2, 1] = tokens[1::2]
    searcher.follow(written)
    monkeypatch.setattr(slots.decoder, "split_temperature", lambda _: (hidden, 1.5))
    expected = slots.get_normalized_probs([None], log_probs=True)[:, 0]
    place = slots.indices.eq(tokens.unsqueeze(1)).long().argmax(dim=1)
    expected = expected[torch.arange(8), place]
    assert slots.indices[torch.arange(8), place].equal(tokens)
    torch.testing.assert_close(slots.offer(torch.arange(8), tokens), expected)
    rows = torch.tensor([6, 3, 0])
    torch.testing.assert_close(slots.offer(rows, tokens[rows]), expected[rows])
    frequent = lexicon.frequent[:3]
    assert searcher.gain(rows, frequent).eq(0).all()
    assert searcher.gain(rows, tokens[rows]).ne(0).tolist() == [True, False, True]


def test_a_bonus_needs_new_words(tiny, narrow, monkeypatch):
    message = (
        "--new-word-bonus 1.0 is for the words that --new-table brings, but there is none; give"
    )
    for new in (None, torch.zeros(len(tiny.table.weight), dtype=torch.bool)):
        monkeypatch.setattr(tiny.table, "new_words", new)
        with pytest.raises(ValueError, match=message):
            tiny.build({**narrow[1], "new_word_bonus": 1.0}, beam=4)


@pytest.mark.parametrize("beam", [1, 4])
def test_batches_do_not_matter(beam, tiny, narrow):
    _, search = narrow
    generator = tiny.build(search, beam=beam, max_len_b=9)
    found = generator.generate([tiny.model], tiny.batch)
    sentences = [w[w.ge(4)] for w in tiny.batch["net_input"]["src_tokens"]]
    for order, padding in (([3, 1, 4, 0, 2], 0), (range(5), 3), ([2], 0), ([4, 0], 1)):
        batch = collate(tiny.dictionary, [sentences[i] for i in order], padding)
        other = generator.generate([tiny.model], batch)
        assert_same_hypotheses([found[i] for i in order], other)


def test_a_forced_word_joins_the_shortlist(tiny, narrow):
    """With scores that are probabilities given the shortlist and that word."""
    lexicon, search = narrow
    prefix = torch.tensor([[100, 4], [101, 2], [102, 200], [103, 7], [int(lexicon.frequent[0]), 8]])
    sources = tiny.batch["net_input"]["src_tokens"]
    own = set(lexicon.best[sources[2]].flatten().tolist()) - {-1, *lexicon.frequent.tolist()}
    own = torch.tensor(sorted(own - {WORDS + 4}))
    with torch.no_grad():
        first = tiny.model(sources[2:3], torch.tensor([6]), torch.tensor([[2]]))[0][0]
    # the likeliest word of the sentence's own list: were it counted twice, it would show
    prefix[2, 0] = own[tiny.table.scores(first)[0, own].argmax()]
    found = tiny.generate(search, prefix=prefix, beam=4)
    joined = 0
    for sentence, best in enumerate(found):
        tokens = best[0]["tokens"]
        own = allowed_for(tiny, lexicon, sources[sentence])
        previous = torch.cat((torch.tensor([2]), tokens[:-1])).unsqueeze(0)
        words = sources[sentence][sources[sentence].ne(1)].unsqueeze(0)
        with torch.no_grad():
            hidden = tiny.model(words, torch.tensor([words.size(1)]), previous)[0][0]
            logits = tiny.table.scores(hidden)
        for step, token in enumerate(tokens.tolist()):
            allowed = own.clone()
            joined += not allowed[token]
            allowed[token] = True
            expected = torch.log_softmax(logits[step].masked_fill(~allowed, -torch.inf), dim=0)
            torch.testing.assert_close(
                best[0]["positional_scores"][step], expected[token], rtol=1e-4, atol=1e-4
            )
        forced = prefix[sentence].tolist()
        assert tokens.tolist()[: 1 if forced[1] == 2 else 2] == forced[: 1 if forced[1] == 2 else 2]
    assert joined >= 4


@pytest.mark.parametrize("name", ["ivf", "shortlist"])
def test_no_forced_word_is_more_than_certain(name, tiny, narrow):
    # the estimate of the normaliser may leave a forced word out: 5 rows of 300, and a sample of 50
    search = {"knn_search": "ivf", "ivf_lists": 60, "ivf_probes": 1, "normalizer_sample": 50}
    search = search if name == "ivf" else narrow[1]
    hypotheses = tiny.generate(search, knn=8, prefix=torch.arange(200, 205).view(5, 1), beam=4)
    scores = torch.stack([h["positional_scores"][0] for best in hypotheses for h in best])
    assert scores.isfinite().all() and (scores <= 0).all()
    slots = tiny.build({"knn_search": "ivf"}, beam=1).slots
    hidden, low = tiny.table.weight[200:201].clone(), torch.tensor([-5.0])  # an estimate too low
    slots._last, slots.indices = (hidden, 1.0, low), torch.zeros(1, 9, dtype=torch.long)
    assert slots.offer(torch.tensor([0]), torch.tensor([200])) == 0


@pytest.mark.parametrize("arch", ["continuous_lstm"])
def test_other_encoders_are_followed(arch, tmp_path):
    sizes = {"encoder_embed_dim": 32, "decoder_embed_dim": 32, "decoder_out_embed_dim": 32}
    sizes.update(encoder_hidden_size=32, decoder_hidden_size=32)
    tiny = TinyModel(tmp_path, arch, **sizes)
    words = torch.arange(4, WORDS + 4)
    best = torch.full((len(tiny.dictionary), 1), -1)
    best[4:, 0] = torch.arange(4, len(best))
    search = save_shortlist(tmp_path, tiny, best, words[:50])
    lexicon = Lexicon.alike(best, words[:50])
    for sentence, hypotheses in enumerate(generate(tiny, search, beam=4)):
        own = allowed_for(tiny, lexicon, tiny.batch["net_input"]["src_tokens"][sentence])
        assert all(own[h["tokens"]].all() for h in hypotheses)


def test_a_lexicon_that_does_not_fit_is_refused(tiny, narrow, tmp_path):
    lexicon, _ = narrow
    search = save_shortlist(tmp_path, tiny, lexicon.best, torch.tensor([WORDS + 4, 2]))
    with pytest.raises(ValueError, match="must hold frequent words, .* has none; make it again"):
        tiny.build(search, beam=4)
    other = make_dictionary(WORDS - 1, padding_words=5)
    save_lexicon(search["shortlist"], lexicon, tiny.dictionary, other)
    with pytest.raises(ValueError, match="made for another target dictionary"):
        tiny.build(search, beam=4)
    save_lexicon(search["shortlist"], lexicon, other, tiny.dictionary)
    with pytest.raises(ValueError, match="made for another source dictionary"):
        tiny.build(search, beam=4)


def test_a_language_model_has_no_shortlist(tiny, narrow):
    searcher = make_searcher(SearchOptions(**narrow[1]), tiny.table)
    with pytest.raises(ValueError, match="given a source sentence, but a language model has none"):
        searcher.attend(None)


def test_a_shortlist_is_of_what_the_encoder_read(tiny, narrow):
    generator = tiny.build(narrow[1], beam=4)
    net_output = (torch.randn(7, 1, 17), None)
    with pytest.raises(ValueError, match="has read 0 for 7 predictions; decode with fairseq's"):
        generator.slots.get_normalized_probs(net_output, True)
