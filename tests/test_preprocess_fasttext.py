"""Training fastText, reading its models with care, and the rows that pieces get from them."""

import gzip
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from preprocess_tools import call, fails, options, snapshot

from preprocess import sources
from preprocess.drawing import unit
from preprocess.fasttext_file import FastTextModel, check_file
from preprocess.train_fasttext import position_in


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
