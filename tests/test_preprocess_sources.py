"""Spellings of pieces, vectors in text files, and the rows that are made from them."""

import gzip
import random

import numpy as np
import pytest
from preprocess_tools import options

from preprocess import sources
from preprocess.pieces import Spelling, find_spelling, is_open, knows_pieces, split_words
from preprocess.vector_text import read_vectors

# ---- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, spelling, words",
    [
        ("walk@@ ing dogs", Spelling.AT, ["walking", "dogs"]),
        ("▁walk ing ▁dogs", Spelling.BAR, ["walking", "dogs"]),
        ("▁ walk ▁dogs", Spelling.BAR, ["walk", "dogs"]),
        ("walk ▁dogs", Spelling.BAR, ["walk", "dogs"]),  # a line that begins inside a word
        ("a@@ b@@", Spelling.AT, ["ab"]),  # a line that ends inside a word
        ("walking dogs", Spelling.WORDS, ["walking", "dogs"]),
        ("", Spelling.AT, []),
    ],
)
def test_pieces_are_joined_to_words(text, spelling, words):
    groups = split_words(text.split(), spelling)
    assert [word for word, _ in groups] == words
    assert [piece for _, pieces in groups for piece in pieces] == text.split()
    assert find_spelling(text.split()) is (spelling if words else Spelling.WORDS)


def test_open_pieces_and_vocabularies_of_pieces():
    assert is_open("walk@@", Spelling.AT) and not is_open("walk", Spelling.AT)
    assert is_open("ing", Spelling.BAR) and not is_open("▁walk", Spelling.BAR)
    assert not is_open("walk@@", Spelling.WORDS)
    words = [f"w{i}" for i in range(1000)]
    assert knows_pieces(["walk@@", "ing"]) and knows_pieces(["▁walk", "ing"])
    assert not knows_pieces(words) and not knows_pieces([*words, "▁", "@@"])


# ---- text files ----------------------------------------------------------------------------------


def vec(tmp_path, text, name="v.vec"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("header", ["", "3 2\n"])
@pytest.mark.parametrize("name", ["v.vec", "v.txt.gz"])
def test_vectors_are_read_with_and_without_header(tmp_path, header, name):
    path = vec(tmp_path, header + "a 1 2 \nb\u00a0c 3.5 -4e-1\nd 5 6\n", name)
    vectors, seen = read_vectors(path, {"a", "b\u00a0c"})
    assert {word: v.tolist() for word, v in vectors.items()} == {
        "a": [1, 2],
        "b\u00a0c": [3.5, pytest.approx(-0.4)],
    }
    assert list(seen) == ["a", "b\u00a0c", "d"]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", ["must hold vectors", "empty"]),
        ("2 2\n", ["promises 2 words, but 0", "empty"]),
        ("a 1 2\nb 1 2\na 3 4\n", ["line 3", "'a'", "line 1"]),
        ("a 1 2\nx 1 2 3\n", ["line 2", "must have 2 numbers, but has 3"]),
        ("2 2\na 1 2\nb 1\n", ["line 3", "must have 2 numbers, but has 1"]),
        ("a\n", ["line 1", "has 0"]),
        ("a 1 2\n\nb 1 2\n", ["line 2", "has 0"]),
        ("a 1 2\nb nan 2\n", ["line 2", "'b'", "NaN"]),
        ("a 1 2\nunwanted 1 NaN\n", ["line 2", "'unwanted'", "NaN"]),
        ("a 1 inf\n", ["line 1", "infinity"]),
        ("a 1 1e60\n", ["line 1", "infinity"]),
        ("a 1 two\n", ["line 1", "two"]),
        ("3 2\na 1 2\nb 1 2\n", ["promises 3 words, but 2"]),
    ],
)
def test_bad_vector_files_are_named_with_their_line(tmp_path, text, parts):
    path = vec(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_vectors(path, {"a", "b"})
    for part in [str(path), *parts]:
        if text == "2 2\n" and part == "promises 2 words, but 0":
            continue  # emptiness is told first
        assert part in str(error.value)


# ---- sources -------------------------------------------------------------------------------------


def test_plain_words_give_vectors_to_pieces_that_are_words(tmp_path):
    path = vec(tmp_path, "walk 1 2\ning 3 4\n")
    rows = sources.from_vectors(["walk", "walk@@", "ing"], options(vectors=path))
    assert rows.origin == ["pretrained", None, "pretrained"]
    assert rows.weight.tolist() == [[1, 2], [0, 0], [3, 4]]
    rows = sources.from_vectors(["▁walk", "walk", "ing", "▁x"], options(vectors=path))
    assert rows.origin == ["pretrained", None, None, None]
    assert rows.weight[0].tolist() == [1, 2]


def test_vectors_of_pieces_are_taken_as_they_are_spelled(tmp_path):
    path = vec(tmp_path, "walk 1 2\nwalk@@ 3 4\n")
    rows = sources.from_vectors(["walk@@", "walk", "ing"], options(vectors=path))
    assert rows.weight.tolist() == [[3, 4], [1, 2], [0, 0]]
    assert rows.origin == ["pretrained", "pretrained", None]
    path = vec(tmp_path, "▁walk 1 2\nwalk 3 4\n")
    rows = sources.from_vectors(["▁walk", "walk", "▁ing"], options(vectors=path))
    assert rows.weight.tolist() == [[1, 2], [3, 4], [0, 0]]


@pytest.mark.parametrize("mark", ["@@", "▁"])
def test_composition_against_brute_force(tmp_path, mark):
    rng = np.random.default_rng(3)
    stems, ends = ["walk", "talk", "w"], ["ing", "ed", "s"]
    drawn = random.Random(4)
    text = tmp_path / "text"
    lines, occurrences = [], []  # of (piece, word)
    for _ in range(60):
        line = []
        for _ in range(6):
            stem, end = drawn.choice(stems), drawn.choice([*ends, "", ""])
            if mark == "@@":
                pieces = [f"{stem}@@", end] if end else [stem]
            else:
                pieces = [f"▁{stem}", end] if end else [f"▁{stem}"]
            line += pieces
            occurrences += [(piece, stem + end) for piece in pieces]
        lines.append(" ".join(line))
    text.write_text("\n".join(lines), encoding="utf-8")
    words = sorted({word for _, word in occurrences} - {"ws"})  # one word is unknown
    vectors = {word: rng.standard_normal(4) * rng.uniform(1, 9) for word in words}
    path = vec(tmp_path, "".join(f"{w} {' '.join(map(str, v))}\n" for w, v in vectors.items()))

    symbols = sorted({piece for piece, _ in occurrences}) + ["never"]
    rows = sources.from_composition(symbols, options(vectors=path, text=str(text)))
    for symbol, row, origin in zip(symbols, rows.weight, rows.origin):
        contained = [w for p, w in occurrences if p == symbol and w in vectors]
        if not contained:
            assert origin is None and not row.any()
            continue
        expected = sum(vectors[w] / np.linalg.norm(vectors[w]) for w in contained)
        np.testing.assert_allclose(row, expected, rtol=1e-5)
        whole = {symbol.strip("▁")} == set(contained)
        assert origin == ("pretrained" if whole else "composed")
    assert {"pretrained" if mark == "@@" else "composed", None} <= set(rows.origin)


def test_composition_counts_a_piece_as_often_as_it_occurs_in_a_word(tmp_path):
    (tmp_path / "text").write_text("a@@ a@@ b\na@@ c\n")
    path = vec(tmp_path, "aab 1 0\nac 0 1\n")
    rows = sources.from_composition(["a@@", "b"], options(vectors=path, text=tmp_path / "text"))
    assert rows.weight.tolist() == [[2, 1], [1, 0]]
