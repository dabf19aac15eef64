"""Searches that would fail are refused: options that do not fit, or too few words for a beam."""

import pytest
import torch
from factory import make_table
from searching import WORDS, large_table

from fairseq_contout import search_options
from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.search_options import SearchOptions, make_searcher


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
    message = "--knn-search ivfpq learns 256 values .* the index has 255; lower --knn-frequent, or "
    with pytest.raises(ValueError, match=f"{message}take --knn-search exact"):
        make_searcher(SearchOptions("ivfpq"), make_table(words=283)[0])  # 28 are frequent
    make_searcher(SearchOptions("ivfpq", knn_frequent=27), make_table(words=283)[0])
    make_searcher(SearchOptions("ivfpq"), make_table(words=284)[0])
    make_searcher(SearchOptions("ivf"), make_table(words=2)[0])  # probes 32 of 2 lists: all


def test_every_option_has_an_owner():
    names = set(SearchOptions.__dataclass_fields__) - {"knn_search"}
    assert set(search_options._OWNERS) == names
