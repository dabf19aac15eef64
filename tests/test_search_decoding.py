"""Each search in fairseq's generator finds what exact search does."""

import cli
import preprocess_tools
import pytest
import torch
from decoding import assert_same_hypotheses
from searching import OPTIONS, WHOLE, WORDS, generate, save_shortlist

from fairseq_contout.search_options import SearchOptions


@pytest.fixture(scope="module")
def searches(tiny, tmp_path_factory):
    """Every search with options under which it misses nothing."""
    words = torch.arange(4, WORDS + 4)
    best = words.expand(len(tiny.dictionary), -1).clone()
    best[:4] = -1
    lexicon = save_shortlist(tmp_path_factory.mktemp("lexicon"), tiny, best, words[:30])
    return {**WHOLE, "shortlist": lexicon}


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
