"""Searches that would fail at a step of beam search are refused when a generator is built."""

import pytest
import torch
from searching import WORDS, TinyModel

from fairseq_contout.lexicon_file import Lexicon, save_lexicon


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyModel(tmp_path_factory.mktemp("tiny"))


def test_a_lexicon_that_may_leave_a_beam_without_candidates_is_refused(tiny, tmp_path):
    best = torch.full((len(tiny.dictionary), 1), -1)
    path = tmp_path / "lexicon.safetensors"
    save_lexicon(path, Lexicon.alike(best, torch.arange(4, 10)), tiny.dictionary, tiny.dictionary)
    search = {"knn_search": "shortlist", "shortlist": str(path)}
    # six frequent words, </s> and <unk>
    assert [len(best) for best in tiny.generate(search, beam=4)] == [4] * 5
    message = r"must give a step 2 x beam \(10\) candidates, but .* has 8, 6 frequent words and 2 "
    message += "special symbols; lower --beam, or make the file again with .*build_lexicon.py"
    with pytest.raises(ValueError, match=message) as error:
        tiny.build(search, beam=5)
    assert f"--shortlist {path}: " in str(error.value)


# codes are taken for eight times as many rows, or for all words
@pytest.mark.parametrize("name, found", [("hnsw", 40), ("ivf", 40), ("ivfpq", 160)])
def test_too_small_a_sample_is_refused_when_the_generator_is_built(name, found, tiny):
    search = {"knn_search": name, "normalizer_sample": found}
    message = rf"--normalizer-sample must be greater than .* \({found}\), but is {found}; raise it"
    with pytest.raises(ValueError, match=message):
        tiny.build(search, knn=20 if name == "ivfpq" else 40, beam=4)
    search["normalizer_sample"] += 1
    assert tiny.generate(search, knn=20 if name == "ivfpq" else 40, beam=4)
    # every word is in the sample: there is nothing to estimate
    assert tiny.build({"knn_search": name, "normalizer_sample": WORDS}, knn=WORDS, beam=4)
