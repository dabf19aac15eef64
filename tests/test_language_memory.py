"""Perplexity over a quarter of a million words does not need a matrix of all tokens and words."""

import re
import subprocess
import sys

import cli
import pytest
from fairseq.data import Dictionary
from language_data import SIZES

pytestmark = pytest.mark.slow

WORDS = 250_000
#: calls fairseq-eval-lm, and prints the largest resident set, in kB
EVALUATE = """
import resource
from fairseq_cli.eval_lm import cli_main
cli_main()
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def model(english, tmp_path_factory):
    """Data of 250,000 types and a model over them: its folder."""
    folder = tmp_path_factory.mktemp("large")
    dictionary = Dictionary.load(str(english / "dict.txt"))
    for number in range(WORDS - len(dictionary)):
        dictionary.add_symbol(f"further{number}", n=1)
    dictionary.save(str(folder / "dict.txt"))
    for split in ("train", "valid"):
        cli.call(
            "preprocess", "--only-source", f"--{split}pref", english.parent / split,
            "--srcdict", folder / "dict.txt", "--destdir", folder / "data",
        )  # fmt: skip
    table = cli.write_table(folder / "table.safetensors", folder / "data" / "dict.txt", dim=64)
    arch = "continuous_transformer_lm"
    cli.call(
        "train", folder / "data", "--task", "language_modeling", "--arch", arch,
        *SIZES[arch].split(), "--criterion", "cosine", "--target-table", table,
        "--input-words", "100", "--optimizer", "adam", "--lr", "0.01", "--batch-size", "20",
        "--tokens-per-sample", "40", "--sample-break-mode", "eos", "--max-update", "2",
        "--disable-validation", "--save-dir", folder, "--no-epoch-checkpoints",
    )  # fmt: skip
    return folder


def evaluate(folder, *options):
    """Return perplexity and peak memory in MB."""
    result = subprocess.run(
        [sys.executable, "-c", EVALUATE, folder / "data", "--user-dir", cli.USER_DIR, "--cpu",
         "--path", folder / "checkpoint_last.pt", "--gen-subset", "valid", "--batch-size", "40",
         "--sample-break-mode", "eos", "--tokens-per-sample", "40", *options],
        capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    output = result.stdout + result.stderr
    perplexity = float(re.search(r"Perplexity: ([\d.]+)", output)[1])
    return perplexity, int(re.search(r"^peak (\d+)", output, re.MULTILINE)[1]) / 1000


def test_tokens_in_parts(model):
    perplexity, memory = evaluate(model, "--softmax-batch", "32")
    # a matrix of 32 tokens and all words is 32 MB; that of the whole batch would be 600
    same, more = evaluate(model)
    assert same == pytest.approx(perplexity, rel=1e-4)
    assert memory < 1000 and more > memory + 500
