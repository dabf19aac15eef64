"""benchmarks/word_similarity.py: what it reads and how it compares."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import output  # noqa: E402
import word_similarity  # noqa: E402


class Vectors(dict):
    """What gensim's vectors are asked for."""

    def similarity(self, first, second):
        return torch.cosine_similarity(self[first], self[second], dim=0).item()


def test_order_of_pairs_is_compared(tmp_path):
    angles = {"zero": 0.0, "ten": 10.0, "thirty": 30.0, "ninety": 90.0}
    vectors = Vectors(
        {
            word: torch.tensor([angle / 57.3])
            .double()
            .repeat(2)
            .sub(torch.tensor([0, 1.5708]))
            .cos()
            for word, angle in angles.items()
        }
    )
    path = tmp_path / "pairs"
    path.write_text(
        "# WordSim\n# word\tword\tmean\nZero\tTen\t9.1\nzero\tthirty\t4.5\tn\nzero\tninety\t0.2\n"
    )
    pairs = word_similarity.read_pairs(path)
    assert pairs == [("zero", "ten", 9.1), ("zero", "thirty", 4.5), ("zero", "ninety", 0.2)]
    assert word_similarity.similarity(vectors, pairs) == 100
    assert word_similarity.similarity(vectors, [(a, b, -s) for a, b, s in pairs]) == -100
    # ranks 1 2 3 against 2 1 3: ρ = 1 - 6 Σ d² / (n (n² - 1)) = 0.5
    mixed = [("zero", "ten", 5.0), ("zero", "thirty", 9.0), ("zero", "ninety", 0.0)]
    assert word_similarity.similarity(vectors, mixed) == pytest.approx(50)


def test_files_are_checked(tmp_path):
    import argparse

    (tmp_path / "a.vec").write_text("1 2\nx 0 1\n")
    parse = output.named("FILE.vec, and the file must exist", word_similarity.existing)
    assert parse(f"a={tmp_path / 'a.vec'}") == ("a", str(tmp_path / "a.vec"))
    for bad in ("a", "=x", f"a={tmp_path / 'none'}"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=FILE.vec, and .* but is " + bad):
            parse(bad)
