"""examples/wikitext-2/run.sh, end to end on a slice of the bundled corpus: make test-recipes."""

import lzma

import pytest
from recipe_data import REPOSITORY, error, results, run

pytestmark = pytest.mark.recipes

DEMO = REPOSITORY / "examples" / "demo" / "data"

TINY = ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32"]
TINY += ["--decoder-attention-heads", "2", "--max-update", "6", "--max-epoch", "9"]
TINY += ["--tokens-per-sample", "64", "--decoder-input-dim", "16", "--decoder-output-dim", "16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wikitext 2")
    for split, lines in (("train", 400), ("valid", 60), ("test", 60)):
        text = lzma.decompress((DEMO / f"{split}.en.xz").read_bytes()).decode("utf-8")
        chosen = [f" {line.lower()} \n" for line in text.splitlines()[:lines]]
        (folder / f"{split}.txt").write_text(" \n".join(chosen))  # empty lines, as in the files
    return folder


def test_recipes(data, tmp_path):
    shared = {"PREP_DIR": tmp_path / "prep", "TABLE_DIM": 16, "ADAPTIVE_CUTOFF": "50,200"}
    found = {}
    for recipe in ("softmax", "adaptive", "best", "cosine"):
        out = tmp_path / recipe
        process = run("wikitext-2", recipe, out, *TINY, DATA_DIR=data, **shared)
        found[recipe] = results(process)[-1]
        assert 1 < found[recipe]["valid_ppl"] < 1e5 and 1 < found[recipe]["test_ppl"] < 1e5
        assert found[recipe]["updates"] == 6 and found[recipe]["seconds_per_update"] > 0
        assert found[recipe]["peak_memory_bytes"] > 50e6 and found[recipe]["train_seconds"] > 0
    assert found["best"]["table"] == "learned"
    assert found["best"]["begins_with"].startswith("table-fasttext-d16")
    assert found["cosine"]["table"].startswith("table-fasttext-d16")
    # how many tokens are scored at once changes nothing
    again = run("wikitext-2", "cosine", tmp_path / "cosine", *TINY, SOFTMAX_BATCH=7, **shared)
    assert results(again)[-1]["test_ppl"] == found["cosine"]["test_ppl"]
    message = error(run("wikitext-2", "margin", tmp_path / "x", *TINY, DATA_DIR=data, **shared))
    assert "RECIPE must be one of softmax, adaptive, best, contrastive" in message
