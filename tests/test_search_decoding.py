"""Each search in fairseq's generator: what exact search finds, or what its shortlist allows."""

import cli
import preprocess_tools
import pytest
import torch
from decoding import assert_same_hypotheses
from factory import collate, make_dictionary
from fairseq.sequence_generator import SequenceGenerator
from searching import WHOLE, WORDS, TinyModel

from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.search_options import SearchOptions, make_searcher

OPTIONS = {
    "plain": {"beam": 4},
    "greedy": {"beam": 1},
    "prefix": {"beam": 4, "prefix_size": 3},
    "no-repeat": {"beam": 4, "no_repeat_ngram_size": 2},
    "sampling": {"beam": 4, "sampling": True, "sampling_topk": 5},
    "temperature": {"beam": 4, "temperature": 2.0},
    "alignment": {"beam": 4, "print_alignment": "hard"},
    "many": {"beam": 3, "prefix_size": 2, "no_repeat_ngram_size": 2, "lenpen": 0.5, "unkpen": 1.0},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyModel(tmp_path_factory.mktemp("tiny"))


def save(folder, tiny, best, frequent, logs=None):
    path, lexicon = folder / "lexicon.safetensors", Lexicon.alike(best, frequent)
    if logs is not None:
        lexicon = lexicon._replace(log_probability=logs)
    save_lexicon(path, lexicon, tiny.dictionary, tiny.dictionary)
    return {"knn_search": "shortlist", "shortlist": str(path)}


@pytest.fixture(scope="module")
def searches(tiny, tmp_path_factory):
    """Every search with options under which it misses nothing."""
    words = torch.arange(4, WORDS + 4)
    best = words.expand(len(tiny.dictionary), -1).clone()
    best[:4] = -1
    lexicon = save(tmp_path_factory.mktemp("lexicon"), tiny, best, words[:30])
    return {**WHOLE, "shortlist": lexicon}


def generate(tiny, search, prefix_size=0, batch=None, **options):
    batch = batch or tiny.batch
    prefix = batch["target"][:, :prefix_size] if prefix_size else None
    return tiny.generate(search, batch=batch, prefix=prefix, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", [*WHOLE, "shortlist"])
def test_equals_exact_search(name, options, tiny, searches):
    exact = generate(tiny, {}, **OPTIONS[options])
    found = generate(tiny, searches[name], **OPTIONS[options])
    loose = {"rtol": 1e-3, "atol": 2e-3} if name in ("bfloat16", "int8") else {}
    assert_same_hypotheses(exact, found, **loose)
    if options == "no-repeat":
        assert not any(repeats(h["tokens"].tolist()) for best in found for h in best)


def repeats(tokens):
    pairs = list(zip(tokens, tokens[1:]))
    return len(set(pairs)) < len(pairs)


def test_the_decoding_is_not_trivial(tiny):
    found = generate(tiny, {}, beam=4)
    assert len({tuple(h["tokens"].tolist()) for best in found for h in best}) > 8
    assert any(repeats(h["tokens"].tolist()) for best in found for h in best)
    assert len({len(h["tokens"]) for best in found for h in best}) > 1


# ---- the shortlist -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tiny, tmp_path_factory):
    """A lexicon of three words for each source word and twelve frequent ones, and its options."""
    draw = torch.Generator().manual_seed(5)
    best = torch.randint(4, WORDS + 4, (len(tiny.dictionary), 3), generator=draw)
    best[:4] = -1
    best[torch.rand(len(best), generator=draw) < 0.3, 2] = -1
    best[20:24, 0] = WORDS + 4  # a padding word is never emitted
    frequent = torch.randperm(WORDS, generator=draw)[:12] + 4
    return Lexicon.alike(best, frequent), save(
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
    search = save(tmp_path, tiny, lexicon.best, lexicon.frequent, logs)
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
    search = save(tmp_path, tiny, lexicon.best, lexicon.frequent, -torch.rand(lexicon.best.shape))
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
    search = save(tmp_path, tiny, best, words[:50])
    lexicon = Lexicon.alike(best, words[:50])
    for sentence, hypotheses in enumerate(generate(tiny, search, beam=4)):
        own = allowed_for(tiny, lexicon, tiny.batch["net_input"]["src_tokens"][sentence])
        assert all(own[h["tokens"]].all() for h in hypotheses)


def test_a_lexicon_that_does_not_fit_is_refused(tiny, narrow, tmp_path):
    lexicon, _ = narrow
    search = save(tmp_path, tiny, lexicon.best, torch.tensor([WORDS + 4, 2]))
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


# ---- tasks ---------------------------------------------------------------------------------------


def test_options_reach_the_search(tiny):
    graph = {"hnsw_ef": 77, "hnsw_links": 5, "hnsw_ef_construction": 33}
    generator = tiny.build({"knn_search": "hnsw", **graph}, beam=2)
    generator.generate([tiny.model], tiny.batch)
    assert generator.slots.searcher.index.hnsw.efSearch == 77
    assert generator.slots.searcher.index.hnsw.efConstruction == 33
    assert generator.slots.searcher.index.hnsw.nb_neighbors(1) == 5
    generator = tiny.build({"knn_search": "ivf", "ivf_lists": 12, "ivf_probes": 4}, beam=2)
    generator.generate([tiny.model], tiny.batch)
    assert (generator.slots.searcher.index.nlist, generator.slots.searcher.index.nprobe) == (12, 4)


def test_both_tasks_have_the_options():
    from dataclasses import fields

    from fairseq_contout.tasks.continuous_language_modeling import (
        ContinuousLanguageModelingConfig as Language,
    )
    from fairseq_contout.tasks.continuous_translation import (
        ContinuousTranslationConfig as Translation,
    )

    for config in (Language(data="none"), Translation(data="none")):
        assert SearchOptions.of(config) == SearchOptions()
        for option in fields(SearchOptions):
            assert config.__dataclass_fields__[option.name].metadata["help"]


def test_wrong_options_are_refused_when_the_generator_is_built(tiny):
    with pytest.raises(ValueError, match="--ivf-lists 7 belongs to --knn-search ivf or ivfpq"):
        tiny.build({"ivf_lists": 7}, beam=2)
    with pytest.raises(ValueError, match="--knn-rows must be one of float32"):
        tiny.build({"knn_rows": "half"}, beam=2)
    assert tiny.build({"knn_search": "hnsw"}, beam=2, score_reference=True)  # needs no search


def test_from_the_command_line(corpus, trained, tmp_path):
    def decode(*options):
        output = cli.call(
            "generate", corpus.data, "--path", trained("cosine"), "--beam", 5, "--knn", 10,
            "--task", "continuous_translation", *options,
        )  # fmt: skip
        return {i: [t.text for t in best] for i, best in cli.translations(output).items()}

    exact = decode()
    probes = ("--ivf-lists", 4, "--ivf-probes", 4)
    assert decode("--knn-search", "ivf", *probes, "--knn-cache", tmp_path) == exact
    assert len([*tmp_path.glob("ivf-*.index")]) == 1
    assert decode("--knn-rows", "int8") == exact
    text = [corpus.raw / f"train.{side}" for side in ("src", "tgt")]
    dictionaries = [corpus.data / f"dict.{side}.txt" for side in ("src", "tgt")]
    lexicon = ["--output", tmp_path / "lexicon", "--words", 2, "--frequent", 10]
    assert (
        preprocess_tools.call(
            "build_lexicon", "--input", *text, "--dictionary", *dictionaries, *lexicon
        )
        == 0
    )
    found = decode("--knn-search", "shortlist", "--shortlist", tmp_path / "lexicon")
    same = sum(found[i][0] == exact[i][0] for i in exact) / len(exact)
    assert found.keys() == exact.keys() and same > 0.8
