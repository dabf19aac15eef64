"""Spellings of pieces, vectors in text files, fastText models, and the sources of rows."""

import gzip
import os
import random
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from preprocess_tools import call, fails, snapshot

from preprocess import sources
from preprocess.drawing import unit
from preprocess.fasttext_file import FastTextModel, check_file
from preprocess.pieces import Spelling, find_spelling, is_open, knows_pieces, split_words
from preprocess.train_fasttext import position_in
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


def options(**given):
    defaults = {"vectors": None, "text": None, "dim": None, "seed": 1, "quiet": True, "source": "s"}
    return SimpleNamespace(**{**defaults, **given})


def test_plain_words_give_vectors_to_pieces_that_are_words(tmp_path):
    path = vec(tmp_path, "walk 1 2\ning 3 4\n")
    rows = sources.from_vectors(["walk", "walk@@", "ing"], options(vectors=path))
    assert rows.origin == ["pretrained", None, "pretrained"]
    assert rows.weight.tolist() == [[1, 2], [0, 0], [3, 4]]
    rows = sources.from_vectors(["▁walk", "walk", "ing", "▁x"], options(vectors=path))
    assert rows.origin == ["pretrained", None, None, None]
    assert rows.weight[0].tolist() == [1, 2]


def test_vectors_of_pieces_are_taken_as_they_are_spelled(tmp_path):
    path = vec(tmp_path, "walk 1 2\nwalk@@ 3 4\nnull 0 0\n")
    rows = sources.from_vectors(["walk@@", "walk", "ing", "null"], options(vectors=path))
    assert rows.weight.tolist() == [[3, 4], [1, 2], [0, 0], [0, 0]]
    assert rows.origin == ["pretrained", "pretrained", None, None]
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


# ---- fastText ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A few hundred lines about two topics, in pieces marked with @@."""
    folder = tmp_path_factory.mktemp("fasttext")
    animals = ["dog", "cat", "horse", "cow", "sheep@@ dog", "bird"]
    actions = ["eats", "sleeps", "runs", "jump@@ ing", "play@@ ing"]
    tools = ["hammer", "saw", "drill", "screw@@ driver", "wrench"]
    works = ["cuts", "breaks", "turns", "work@@ ing", "lying"]
    rng = random.Random(5)
    lines = []
    for _ in range(400):
        who, what = rng.choice([(animals, actions), (tools, works)])
        lines.append(f"the {rng.choice(who)} {rng.choice(what)} near the {rng.choice(who)} .")
    path = folder / "text"
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = ["--dim", 12, "--epoch", 10, "--minn", 2, "--maxn", 4, "--sample", 0.1]


@pytest.fixture(scope="module")
def model_path(segmented):
    path = segmented.with_name("model.bin")
    assert call("train_fasttext", "--input", segmented, "--output", path, *SMALL) == 0
    return path


def test_training_is_repeatable_and_follows_the_seed(segmented, model_path, tmp_path):
    again, other = tmp_path / "again.bin", tmp_path / "other.bin"
    assert call("train_fasttext", "--input", segmented, "--output", again, *SMALL) == 0
    assert again.read_bytes() == model_path.read_bytes()
    other_seed = ["--input", segmented, "--output", other, *SMALL, "--seed", 2]
    assert call("train_fasttext", *other_seed) == 0
    assert other.read_bytes() != again.read_bytes()


def test_training_on_several_and_compressed_files_is_that_on_one(segmented, model_path, tmp_path):
    lines = segmented.read_text().splitlines(keepends=True)
    (tmp_path / "a.gz").write_bytes(gzip.compress("".join(lines[:150]).encode()))
    (tmp_path / "b").write_text("".join(lines[150:]))
    out = tmp_path / "out.bin"
    inputs = [tmp_path / "a.gz", tmp_path / "b"]
    assert call("train_fasttext", "--input", *inputs, "--output", out, *SMALL) == 0
    assert out.read_bytes() == model_path.read_bytes()
    assert set(snapshot(tmp_path)) == {*inputs, out}  # the joined text is gone


def test_pieces_are_fasttext_words_and_alike_pieces_are_near(model_path):
    model = FastTextModel(model_path)
    assert {"sheep@@", "driver", "the"} <= model.words
    dog, horse, hammer = unit(np.stack([model.vector(w) for w in ("dog", "horse", "hammer")]))
    assert dog @ horse > 0.1 + dog @ hammer


def test_fasttext_source_spells_pieces_as_the_model(model_path):
    model = FastTextModel(model_path)
    symbols = ["jump@@", "dog", "jumpdog@@", "q"]
    rows = sources.from_fasttext(symbols, options(vectors=model_path))
    assert rows.origin == ["pretrained", "pretrained", "ngrams", "ngrams"]
    for symbol, row in zip(symbols, rows.weight):
        np.testing.assert_array_equal(row, model.model.get_word_vector(symbol))


@pytest.fixture(scope="module")
def plain_model(segmented):
    text = segmented.with_name("plain")
    text.write_text(segmented.read_text().replace("@@ ", ""))
    path = segmented.with_name("plain.bin")
    small = ["--dim", 8, "--epoch", 1, "--minn", 3, "--maxn", 4]
    assert call("train_fasttext", "--input", text, "--output", path, *small) == 0
    return path


def test_fasttext_of_plain_words_gives_pieces_the_ngrams_inside_the_word(plain_model):
    model = FastTextModel(plain_model)

    def mean(*ngrams):
        ids = [model.model.get_subword_id(ngram) for ngram in ngrams]
        return np.mean([model.model.get_input_vector(i) for i in ids], axis=0)

    symbols = ["dog", "walk@@", "a@@", "walk", "x"]
    rows = sources.from_fasttext(symbols, options(vectors=plain_model))
    assert rows.origin == ["pretrained", "ngrams", None, "ngrams", "ngrams"]
    np.testing.assert_allclose(rows.weight[0], model.model.get_word_vector("dog"))
    expected = mean("<wa", "<wal", "wal", "walk", "alk")
    np.testing.assert_allclose(rows.weight[1], expected, rtol=1e-5, atol=1e-7)
    assert not rows.weight[2].any()  # "<a" has no n-gram of three: the caller draws a row
    np.testing.assert_allclose(rows.weight[3], model.model.get_word_vector("walk"))

    rows = sources.from_fasttext(["▁dog", "dog", "▁walk"], options(vectors=plain_model))
    np.testing.assert_allclose(rows.weight[0], model.model.get_word_vector("dog"))
    np.testing.assert_allclose(rows.weight[1], mean("dog", "dog>", "og>"), rtol=1e-5, atol=1e-7)
    assert rows.origin == ["pretrained", "ngrams", "ngrams"]
    # a whole word in this way is what fastText itself makes of a word it has not seen
    unseen = model.part_vector("walking")
    np.testing.assert_allclose(unseen, model.model.get_word_vector("walking"), rtol=1e-5, atol=1e-7)


def test_composition_from_a_fasttext_model(plain_model, segmented):
    model = FastTextModel(plain_model)
    given = options(vectors=plain_model, text=segmented)
    rows = sources.from_composition(["sheep@@", "cat"], given)
    assert rows.origin == ["composed", "pretrained"]
    for row, word in zip(unit(rows.weight), ["sheepdog", "cat"]):
        np.testing.assert_allclose(row, unit(model.vector(word)[None])[0], rtol=1e-5)


def test_a_file_that_is_no_whole_fasttext_model_is_refused(model_path, tmp_path):
    data = model_path.read_bytes()
    check_file(model_path)
    path = tmp_path / "bad.bin"
    for size in (0, 3, 4, 50, 100, 200, 400, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="bad.bin"):
            check_file(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=f"{len(data)} bytes, but the file has {len(data) + 1}"):
        check_file(path)
    path.write_bytes(b"hello world\n" * 99)
    with pytest.raises(ValueError, match="must be a fastText model"):
        check_file(path)
    path.write_bytes(struct.pack("<ii", 793712314, 12) + b"\xff" * 500)
    with pytest.raises(ValueError, match="bad.bin"):
        check_file(path)


QUANTISE = """
import fasttext
model = fasttext.train_supervised("text", dim=4, minn=2, maxn=3, bucket=500, verbose=0, thread=1)
model.save_model("full.bin")
model.quantize()
model.save_model("small.ftz")
"""


def test_supervised_and_quantised_models_are_read(tmp_path):
    (tmp_path / "text").write_text("__label__a one two\n__label__b three four\n" * 200)
    # its own process: fastText trains with whatever is in used memory
    environment = {**os.environ, "MALLOC_PERTURB_": "255"}
    command = [sys.executable, "-c", QUANTISE]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stderr=subprocess.DEVNULL)
    check_file(tmp_path / "full.bin")
    assert FastTextModel(tmp_path / "small.ftz").vector("one").shape == (4,)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="only Linux tells positions")
def test_progress_knows_how_far_a_process_has_read(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"x" * 1000)
    assert position_in(os.getpid(), path) == 0
    with open(path, "rb", buffering=0) as file:
        file.read(321)
        assert position_in(os.getpid(), path) == 321
    assert position_in(2**22 + 1, path) == 0  # no such process


@pytest.mark.parametrize("tokens_wanted, passes", [(1, 5), (7.2, 7), (1000, 50)])
def test_small_texts_are_read_more_often(tmp_path, capsys, monkeypatch, tokens_wanted, passes):
    (tmp_path / "text").write_text("a b c d\n" * 25)
    monkeypatch.setattr("preprocess.train_fasttext.SEEN_PIECES", tokens_wanted * 100)
    options = ["--input", tmp_path / "text", "--output", tmp_path / "m.bin", "--dim", 2]
    assert call("train_fasttext", *options) == 0
    assert f"{passes} passes over 100 pieces, 4 distinct" in capsys.readouterr().out


def test_training_bad_input(segmented, tmp_path, capsys):
    def message(*arguments):
        out = ["--output", tmp_path / "m.bin"]
        return fails(capsys, tmp_path, "train_fasttext", *out, *arguments)

    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin").write_bytes(b"a b\nsch\xf6n\n")
    assert "empty: must hold text" in message("--input", segmented, tmp_path / "empty")
    assert "latin, line 2" in message("--input", tmp_path / "latin")
    assert "none: cannot be opened" in message("--input", tmp_path / "none")
    assert "--minn must be at most --maxn (2), but is 3" in message(
        "--input", segmented, "--maxn", 2
    )
    text = message("--input", segmented, "--min-count", 10**6, "--dim", 4)
    assert "text: fastText cannot train" in text and "minCount" in text
    text = message("--input", segmented, "--lr", "1e30", "--dim", 4)
    assert "NaN" in text and "lower --lr" in text
