"""extend_table.py: rows of new words, what stays as it was, and bad input."""

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from preprocess_tools import (
    WORDS,
    build,
    call,
    fails,
    make_files,
    snapshot,
    unit,
    vec_options,
    write_dictionary,
)

from fairseq_contout.table_file import load_table, read_table, save_table


@pytest.fixture
def files(tmp_path):
    """A dictionary of words 0 to 70 and a file with vectors of those and of others."""
    folder, _, vectors = make_files(tmp_path)
    rng = np.random.default_rng(3)
    vectors.update({f"new{i}": rng.standard_normal(12) + 2 for i in range(5)})
    lines = [f"{w} {' '.join(f'{x:.6f}' for x in v)}\n" for w, v in vectors.items()]
    (folder / "v.vec").write_text("".join(lines))
    (folder / "words").write_text("".join(f"new{i}\n" for i in range(5)))
    return folder, vectors


def arguments(folder, *options, table="table", output="more"):
    return [
        "--table", folder / f"{table}.safetensors", "--dictionary", folder / "dict.txt",
        "--output", folder / f"{output}.safetensors", *options,
    ]  # fmt: skip


def load(folder, name="more"):
    dictionary = Dictionary.load(str(folder / f"{name}.dict.txt"))
    return dictionary, load_table(folder / f"{name}.safetensors", dictionary)


def original(folder, words="words"):
    return ["--source", "original", "--vectors", folder / "v.vec", "--words", folder / words]


TREATMENTS = [
    [], ["--center"], ["--remove-components", 2], ["--mix-random", 0.7, "--center", "--seed", 4]
]  # fmt: skip


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_new_rows_are_treated_as_the_tables_were(treatment, files):
    folder, vectors = files
    table = build(folder, *vec_options(folder, *treatment))
    assert call("extend_table", *arguments(folder, *original(folder))) == 0
    dictionary, rows = load(folder)
    old = read_table(table)[0]
    assert torch.equal(rows[: len(old)], old)
    before = Dictionary.load(str(folder / "dict.txt"))
    assert dictionary.symbols == before.symbols + [f"new{i}" for i in range(5)]
    assert dictionary.count[: len(before)] == before.count
    if treatment == ["--center"]:
        mean = np.mean([unit(vectors[w]) for w in WORDS if w in vectors], axis=0)
        expected = [unit(unit(vectors[f"new{i}"]) - mean) for i in range(5)]
        np.testing.assert_allclose(rows[len(old) :], expected, atol=1e-5)
    if not treatment:
        expected = [unit(vectors[f"new{i}"]) for i in range(5)]
        np.testing.assert_allclose(rows[len(old) :], expected, atol=1e-5)
    if treatment[:1] == ["--mix-random"]:
        mean = np.mean([unit(vectors[w]) for w in WORDS if w in vectors], axis=0)
        plain = [unit(unit(vectors[f"new{i}"]) - mean) for i in range(5)]
        cosines = (rows[len(old) :].numpy() * plain).sum(axis=1)
        assert (cosines > 0.5).all() and (cosines < 0.999).all()


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_two_extensions_are_one_of_all_words(treatment, files):
    folder, _ = files
    build(folder, *vec_options(folder, *treatment))
    assert call("extend_table", *arguments(folder, *original(folder), output="whole")) == 0
    (folder / "first").write_text("new0\nnew1\n")
    (folder / "second").write_text("new2\nnew3\nnew4\n")
    assert call("extend_table", *arguments(folder, *original(folder, "first"))) == 0
    dictionary = ["--dictionary", folder / "more.dict.txt"]
    given = arguments(folder, *original(folder, "second"), table="more", output="most")
    assert call("extend_table", *given, *dictionary) == 0
    (dictionary, rows), (other, expected) = load(folder, "most"), load(folder, "whole")
    assert dictionary == other
    torch.testing.assert_close(rows, expected)


def test_words_of_the_build_have_the_rows_of_a_larger_build(files):
    folder, _ = files
    build(folder, *vec_options(folder))  # nothing that depends on the other words
    call("extend_table", *arguments(folder, *original(folder)))
    write_dictionary(
        folder / "dict.txt", {**WORDS, "madeupword0000": 0, "end": 3, "new0": 1, "new3": 1}
    )
    whole = build(folder, *vec_options(folder), name="whole")
    dictionary, rows = load(folder)
    other = Dictionary.load(str(folder / "dict.txt"))
    expected = load_table(whole, other)
    for word in ("word5", "new0", "new3"):
        torch.testing.assert_close(rows[dictionary.index(word)], expected[other.index(word)])


def test_fasttext_composes_words_that_it_never_saw(tmp_path, capsys):
    rng = np.random.default_rng(0)
    text = "\n".join(
        " ".join(rng.choice(["walking", "talking", "dogs", "cats"], 6)) for _ in "x" * 80
    )
    (tmp_path / "text").write_text(text + "\n")
    made = ["--input", tmp_path / "text", "--output", tmp_path / "m.bin", "--dim", 8]
    assert call("train_fasttext", *made, "--epoch", 2) == 0
    write_dictionary(tmp_path / "dict.txt", ["walking", "dogs"])
    build(tmp_path, "--source", "fasttext", "--vectors", tmp_path / "m.bin")
    (tmp_path / "words").write_text("talking\nbalking\n")
    given = ["--source", "original", "--vectors", tmp_path / "m.bin", "--words", tmp_path / "words"]
    assert call("extend_table", *arguments(tmp_path, *given)) == 0
    from preprocess.fasttext_file import FastTextModel

    model, (dictionary, rows) = FastTextModel(tmp_path / "m.bin"), load(tmp_path)
    for word in ("talking", "balking"):
        expected = torch.from_numpy(unit(model.vector(word)))
        torch.testing.assert_close(rows[dictionary.index(word)], expected, atol=1e-5, rtol=0)
    # once more, from the table that was extended
    (tmp_path / "words").write_text("cats\nwalking\n")
    (tmp_path / "dict.txt").write_text((tmp_path / "more.dict.txt").read_text())
    given = arguments(tmp_path, *given, "--known", "skip", table="more", output="most")
    assert call("extend_table", *given) == 0
    dictionary, more = load(tmp_path, "most")
    assert dictionary.symbols[-1] == "cats" and torch.equal(more[: len(rows)], rows)
    assert "1 words added" in capsys.readouterr().out


def test_vectors_of_the_tables_space(files):
    folder, vectors = files
    build(folder, *vec_options(folder, "--center"))
    given = ["--source", "vectors", "--vectors", folder / "v.vec", "--known", "skip"]
    assert call("extend_table", *arguments(folder, *given)) == 0
    dictionary, rows = load(folder)
    assert dictionary.symbols[-5:] == [f"new{i}" for i in range(5)]
    for i in range(5):
        row = rows[dictionary.index(f"new{i}")]
        np.testing.assert_allclose(row, unit(vectors[f"new{i}"]), atol=1e-5)
    (folder / "words").write_text("new4\n")
    assert call("extend_table", *arguments(folder, *given, "--words", folder / "words")) == 0
    assert load(folder)[0].symbols[-2:] == ["end", "new4"]


def test_composed_words(files, capsys):
    folder, _ = files
    build(folder, "--source", "random", "--dim", 6)
    (folder / "words").write_text("both word1 word2\n\nagain word3\n")
    given = ["--source", "compose", "--words", folder / "words"]
    assert call("extend_table", *arguments(folder, *given)) == 0
    dictionary, rows = load(folder)
    total = rows[dictionary.index("word1")] + rows[dictionary.index("word2")]
    torch.testing.assert_close(rows[dictionary.index("both")], total / total.norm())
    # no two rows are the same
    cosine = float(rows[dictionary.index("again")] @ rows[dictionary.index("word3")])
    assert 0.99 < cosine < 0.9999
    out = capsys.readouterr().out
    assert "turned away from an equal row: again" in out and "near both: " in out


def test_rows_of_the_table_that_are_equal_stay_so(files, capsys):
    folder, _ = files
    weight, _ = read_table(build(folder, *vec_options(folder)))
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    one, other = dictionary.index("word1"), dictionary.index("word2")
    weight[other] = weight[one]
    path = folder / "equal.safetensors"
    save_table(path, weight, dictionary, source="test", origins={})
    capsys.readouterr()
    given = ["--source", "compose", "--words", folder / "list"]
    (folder / "list").write_text("both word3 word4\n")
    options = arguments(folder, *given, "--duplicates", "error", table="equal")
    assert call("extend_table", *options) == 0
    assert "turned" not in capsys.readouterr().out
    (folder / "list").write_text("both word3 word4\nagain word2\n")
    assert call("extend_table", *arguments(folder, *given, table="equal")) == 0
    assert "from an equal row: again\n" in capsys.readouterr().out
    rows = load(folder)[1]
    assert torch.equal(rows[: len(weight)], weight)
    assert 0.99 < float(rows[-1] @ rows[one]) < 0.9999


def test_what_cannot_be_added_up_or_read_again_is_refused(tmp_path, capsys):
    def message(*options):
        return fails(capsys, tmp_path, "extend_table", *arguments(tmp_path, *options))

    write_dictionary(tmp_path / "dict.txt", ["up", "down"])
    (tmp_path / "v.vec").write_text("up 1 2\ndown -1 -2\n")
    build(tmp_path, *vec_options(tmp_path))
    (tmp_path / "words").write_text("nowhere up down\n")
    compose = ["--source", "compose", "--words", tmp_path / "words"]
    assert "has none for 1 (nowhere)" in message(*compose)
    (tmp_path / "words").write_text("higher up up\n")
    (tmp_path / "dict.txt").write_text("up 3\n<s> 2 #fairseq:overwrite\ndown 1\n")
    build(tmp_path, *vec_options(tmp_path))
    assert "must have every symbol once, but that of the table" in message(*compose)


def test_bad_input_is_one_line_and_leaves_no_file(files, capsys):
    folder, _ = files
    build(folder, *vec_options(folder))
    build(folder, "--source", "random", "--dim", 12, name="random")
    build(folder, "--source", "hypercube", "--dim", 12, name="corners")
    build(folder, *vec_options(folder, "--mix-random", 1), name="mixed")

    def message(*options, **more):
        return fails(capsys, folder, "extend_table", *arguments(folder, *options, **more))

    def listed(text, *options):
        (folder / "list").write_text(text)
        return message(*(options or original(folder, "list")))

    compose = ["--source", "compose", "--words", folder / "list"]
    assert "none.safetensors: no such file" in message(*original(folder), table="none")
    assert "needs --words FILE" in message(*original(folder)[:4])
    assert "needs --vectors FILE" in message("--source", "original", "--words", folder / "words")
    assert "adds up rows of the table" in message(*original(folder), "--source", "compose")
    assert "the folder" in message(*original(folder), output="no/more")
    same = ["--output-dictionary", folder / "dict.txt"]
    assert "must be another file than --dictionary" in message(*original(folder), *same)
    read = "must not be overwritten while it is read; change --output"
    assert f"table.safetensors: {read}" in message(*original(folder), output="table")
    for name in ("words", "v.vec"):
        beside = ["--output-dictionary", folder / name]
        assert f"{name}: {read}-dictionary" in message(*original(folder), *beside)
    same = ["--output-dictionary", folder / "more.safetensors"]
    assert "--output and --output-dictionary must be two" in message(*original(folder), *same)
    for name in ("random", "corners"):
        assert "record is 'build_table.py" in message(*original(folder), table=name)
    assert "none: cannot be opened" in message(*original(folder, "none"))
    assert "1 are there (word1); give --known skip" in listed("new1\nword1\n")
    assert "line 3: 'new1' must not be there twice" in listed("new1\n\nnew1\n")
    assert "line 1: '<unk>' is a special symbol" in listed("<unk>\n")
    assert "line 2: must be one word" in listed("new1\nnew2 new3\n")
    assert "must be a word and the symbols" in listed("new1\n", *compose)
    assert "'new1' must be composed of words of" in listed("new1 word1 other\n", *compose)
    assert "has none for 1 (other); give --missing skip" in listed("new1\nother\n")
    (folder / "list").write_text("new1\nother\n")
    assert "has none for 1 (other)" in message(*original(folder, "list"), table="mixed")
    assert "has none with a vector" in listed(
        "other\n", *original(folder, "list"), "--missing", "skip"
    )
    assert "has none with a vector" in listed("")
    assert "'new1' must be composed of words of" in listed("new1 word1 madeupword0000\n", *compose)
    (folder / "odd.vec").write_text("new1 1 2\na\u00a0b 1 2\n 1 2\na\rb 1 2\n", newline="\n")
    odd = message("--source", "vectors", "--vectors", folder / "odd.vec")
    assert r"3 do ('a\xa0b', '', 'a\rb'); delete their lines, or list" in odd
    (folder / "short.vec").write_text("new1 1 2 3\n")
    short = ["--source", "vectors", "--vectors", folder / "short.vec"]
    assert "must have the dimension of" in message(*short)
    assert "71 are there" not in message(*short)
    assert " are there (word69, " in message("--source", "vectors", "--vectors", folder / "v.vec")
    assert "--duplicates turn" in listed("new1 word1\n", *compose, "--duplicates", "error")
    (folder / "other.vec").write_text((folder / "v.vec").read_text().replace("word5 ", "word5 9"))
    given = ["--source", "original", "--vectors", folder / "other.vec", "--words", folder / "words"]
    assert "the rows of 1 words are others (word5)" in message(*given)
    before = snapshot(folder)
    assert call("extend_table", *arguments(folder, *original(folder))) == 0
    assert snapshot(folder).keys() - before.keys() == {
        folder / "more.safetensors", folder / "more.dict.txt"
    }  # fmt: skip
