"""Parallel text whose sides are interleaved."""

import re
from fractions import Fraction

import numpy as np
import pytest
from preprocess_tools import ROOT, call

from preprocess.common import read_lines
from preprocess.drawing import unit
from preprocess.fasttext_file import FastTextModel
from preprocess.mix_parallel import interleave

CORPUS = ROOT / "examples" / "demo" / "data"


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("a b", "A B", "a A b B"),
        ("a b c d", "A B", "a A b c B d"),
        ("a", "A B C", "A a B C"),
        ("", "A B", "A B"),
        ("a b", "", "a b"),
    ],
)
def test_words_by_their_relative_positions(one, other, expected):
    assert interleave(one.split(), other.split()) == expected.split()


def test_order_is_that_of_fractions():
    for n in range(1, 9):
        for m in range(1, 9):
            places = {f"a{i}": (Fraction(2 * i + 1, 2 * n), 0) for i in range(n)}
            places.update({f"b{i}": (Fraction(2 * i + 1, 2 * m), 1) for i in range(m)})
            found = interleave([f"a{i}" for i in range(n)], [f"b{i}" for i in range(m)])
            assert found == sorted(places, key=places.get)


def test_vectors_of_translations_are_near(tmp_path):
    for language in ("es", "en"):
        verses = list(read_lines(CORPUS / f"train.{language}.xz"))[:4000]
        text = (" ".join(re.findall(r"\w+", verse.lower())) for verse in verses)
        (tmp_path / language).write_text("\n".join(text) + "\n")
    mixed, path = tmp_path / "mixed", tmp_path / "mixed.bin"
    given = ["--input", tmp_path / "es", tmp_path / "en", "--output", mixed]
    assert call("mix_parallel", *given) == 0
    options = ["--dim", 32, "--epoch", 8, "--minn", 0, "--maxn", 0, "--min-count", 20]
    assert call("train_fasttext", "--input", mixed, "--output", path, *options) == 0
    model = FastTextModel(path)
    words = list(model.words)
    rows = unit(np.array([model.vector(word) for word in words]))
    pairs = "dios god, tierra land, casa house, rey king, pueblo people, agua water, padre father"
    for pair in pairs.split(", "):
        word, translation = pair.split()
        nearest = np.argsort(-rows @ rows[words.index(word)])[1:6]
        assert translation in [words[i] for i in nearest]


def test_sides_that_do_not_match_are_refused(tmp_path, capsys):
    (tmp_path / "de").write_text("a\nb\n")
    (tmp_path / "en").write_text("A\n")
    output = tmp_path / "mixed"
    for given, counts in ((("de", "en"), "2 and 1"), (("en", "de"), "1 and 2")):
        files = [tmp_path / name for name in given]
        assert call("mix_parallel", "--input", *files, "--output", output) == 1
        message = capsys.readouterr().err
        assert f"{files[0]} and {files[1]} must have the same number of lines, but" in message
        assert f"have {counts}; align" in message and not output.exists()
