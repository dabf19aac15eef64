"""examples/wikitext-2/run.sh, end to end on a slice of the bundled corpus: make test-recipes."""

import lzma

import pytest
import torch
from recipe_data import REPOSITORY, error, results, run
from safetensors.torch import load_file

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
    recipes = ["softmax", "softmax-fasttext", "adaptive", "best", "contrastive", "hybrid"]
    frozen = ["contrastive-frozen", "cosine", "l2", "vmf", "power-spherical"]
    for recipe in recipes + frozen:
        out = tmp_path / recipe
        process = run("wikitext-2", recipe, out, *TINY, DATA_DIR=data, **shared)
        found[recipe] = results(process)[-1]
        assert 1 < found[recipe]["valid_ppl"] < 1e5 and 1 < found[recipe]["test_ppl"] < 1e5
        assert found[recipe]["updates"] == 6 and found[recipe]["seconds_per_update"] > 0
        assert found[recipe]["peak_memory_bytes"] > 50e6 and found[recipe]["train_seconds"] > 0
    for recipe in ("best", "contrastive", "hybrid"):
        assert found[recipe]["table"] == "learned"
    for recipe in ("best", "softmax-fasttext"):
        assert found[recipe]["begins_with"].startswith("table-fasttext-d16")
    for recipe in frozen:
        assert found[recipe]["table"].startswith("table-fasttext-d16")
    # the same command again trains no second time, with a larger end it trains on
    longer = ["8" if option == "6" else option for option in TINY]
    state = torch.load(tmp_path / "softmax-fasttext" / "beginning.pt", weights_only=False)["model"]
    (table,) = (tmp_path / "prep").glob("table-fasttext-d16*.safetensors")
    rows, pad = load_file(table)["weight"], 1
    for name in ("embed_tokens", "output_projection"):
        first = state[f"decoder.{name}.weight"]
        assert torch.equal(first[pad + 1 :], rows[pad + 1 :]) and not first[pad].any()
    for options, updates in ((TINY, 6), (longer, 8)):
        process = run(
            "wikitext-2", "softmax-fasttext", tmp_path / "softmax-fasttext", *options,
            DATA_DIR=data, **shared,
        )  # fmt: skip
        assert results(process)[-1]["updates"] == updates
    # how many tokens are scored at once changes nothing
    again = run("wikitext-2", "cosine", tmp_path / "cosine", *TINY, SOFTMAX_BATCH=7, **shared)
    assert results(again)[-1]["test_ppl"] == found["cosine"]["test_ppl"]
    message = error(run("wikitext-2", "margin", tmp_path / "x", *TINY, DATA_DIR=data, **shared))
    assert "RECIPE must be one of softmax, softmax-fasttext, adaptive, best" in message
