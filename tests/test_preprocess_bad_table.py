"""build_table.py: bad input is one line that says what to do, and no file is written."""

import resource

import numpy as np
import pytest
from preprocess_tools import (
    build,
    call,
    fails,
    make_files,
    snapshot,
    vec_options,
)


@pytest.fixture
def files(tmp_path):
    return make_files(tmp_path)


def test_bad_input_is_one_line_and_leaves_no_file(files, capsys):
    folder, _, _ = files
    (folder / "table.safetensors").write_text("the table of an earlier run")

    def message(*options, dictionary="dict.txt", output="table.safetensors"):
        arguments = ["--dictionary", folder / dictionary, "--output", folder / output]
        return fails(capsys, folder, "build_table", *arguments, *options)

    random_ = ["--source", "random", "--dim", 8]
    vectors = ["--source", "vectors", "--vectors"]
    fasttext = ["--source", "fasttext", "--vectors"]

    assert "must be at least 2, but is 1" in message("--source", "random", "--dim", 1)
    assert "needs --dim" in message("--source", "random")
    assert "invalid choice: 'glove'" in message("--source", "glove")
    assert "needs --vectors FILE" in message("--source", "vectors")
    assert "needs --text FILE" in message("--source", "compose", *vec_options(folder)[2:])
    assert "at most 1, but is 1.5" in message(*vec_options(folder), "--mix-random", 1.5)
    assert "must be a number (float), but is x" in message(
        *vec_options(folder), "--mix-random", "x"
    )
    assert "must be at least 0, but is nan" in message(*vec_options(folder), "--mix-random", "nan")
    assert "--mix-random needs vectors" in message(*random_, "--mix-random", 0.0)
    assert "--text is for --source compose" in message(*vec_options(folder), "--text", "x")
    assert "--show-words nope" in message(*random_, "--show-words", "word1", "nope")
    assert "less than the dimension (12)" in message(
        *vec_options(folder), "--remove-components", 12
    )
    assert "has 12; --dim is 8" in message(*vec_options(folder), "--dim", 8)

    assert "does not exist; create it" in message(*random_, output="no/table")
    assert "is a folder" in message(*random_, output=".")
    assert "--report" in message(*random_, "--report", folder / "no" / "r.json")

    assert "none: no such file" in message(*random_, dictionary="none")
    (folder / "empty.txt").write_text("")
    assert "must hold symbols, but is empty" in message(*random_, dictionary="empty.txt")
    (folder / "twice.txt").write_text("a 1\na 2\n")
    assert "Duplicate word" in message(*random_, dictionary="twice.txt")
    (folder / "latin.txt").write_bytes("schön 1\n".encode("latin-1"))
    assert "latin.txt" in message(*random_, dictionary="latin.txt")
    (folder / "format.txt").write_text("a\n")
    assert "symbol count" in message(*random_, dictionary="format.txt")

    assert "none.vec: cannot be opened" in message(*vectors, folder / "none.vec")
    assert "is empty" in message(*vectors, folder / "empty.txt")
    (folder / "bad.vec").write_text("word1 1 2\nword2 1 2\nword1 3 4\n")
    text = message(*vectors, folder / "bad.vec")
    assert "bad.vec, line 3" in text and "'word1'" in text and "line 1" in text
    (folder / "bad.vec").write_text("word1 1 2\nword2 nan 2\n")
    assert "bad.vec, line 2" in message(*vectors, folder / "bad.vec")
    (folder / "bad.vec").write_text("other 1 2\n")
    assert "none of the 71" in message(*vectors, folder / "bad.vec")
    (folder / "bad.vec").write_bytes("wörd 1 2\n".encode("latin-1"))
    assert "line 1: text must be UTF-8" in message(*vectors, folder / "bad.vec")

    assert "v.vec: must be a fastText model" in message(*fasttext, folder / "v.vec")
    assert "none.bin: cannot be opened" in message(*fasttext, folder / "none.bin")
    assert "must be a fastText model" in message(*fasttext, folder / "empty.txt")
    compose = ["--source", "compose", "--vectors", folder / "v.vec", "--text"]
    assert "empty.txt: must hold text" in message(*compose, folder / "empty.txt")
    (folder / "text").write_text("quite other words\n")
    assert "none of the 3" in message(*compose, folder / "text")


def test_diverged_fasttext_models_are_refused(files, capsys, monkeypatch):
    folder, _, _ = files
    from preprocess import assemble, sources

    def diverged(symbols, args):
        return sources.Rows(
            np.full((len(symbols), 4), np.nan, np.float32), ["ngrams"] * len(symbols)
        )

    monkeypatch.setitem(assemble.SOURCES, "fasttext", diverged)
    arguments = ["--dictionary", folder / "dict.txt", "--output", folder / "t"]
    text = fails(
        capsys, folder, "build_table", *arguments, "--source", "fasttext", "--vectors", "m.bin"
    )
    assert "m.bin: vectors must be finite, but 71 hold NaN" in text


def test_an_error_while_writing_leaves_the_old_table(files, capsys):
    folder, _, _ = files
    build(folder, "--source", "random", "--dim", 8)
    before = snapshot(folder)
    arguments = ["--dictionary", folder / "dict.txt", "--output", folder / "table.safetensors"]
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a disk that is full
    try:
        status = call("build_table", *arguments, "--source", "random", "--dim", 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    message = capsys.readouterr().err
    expected = "table.safetensors: cannot be written: File too large; make room\n"
    assert message.endswith(expected) and message.count("\n") == 1
    assert snapshot(folder) == before
