"""align_tables.py: a table of other words in the space of a table, and how it translates."""

import json

import cli
import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from preprocess_tools import build, call, fails, snapshot, unit, write_dictionary
from test_alignment import rotation
from test_new_table import assert_same, decode, dictionary_of, rows_of

from fairseq_contout.table_file import load_table, read_table

COUNT, DIM = 150, 12


def write_vectors(path, vectors):
    lines = [f"{w} {' '.join(f'{x:.6f}' for x in v)}\n" for w, v in vectors.items()]
    path.write_text("".join(lines))


@pytest.fixture
def files(tmp_path):
    """Words old0 … and new0 …, whose vectors are one another's after a rotation, with noise.

    Each language has a direction that all of its vectors share. new7 is a word of both.
    """
    rng = np.random.default_rng(5)
    meaning = rng.standard_normal((COUNT, DIM))
    turned = rotation(DIM).numpy()
    old = {f"old{i}": 4 * np.ones(DIM) + v for i, v in enumerate(meaning)}
    noise = 0.3 * rng.standard_normal(meaning.shape)
    new = {f"new{i}": 13 * np.eye(DIM)[0] + (v + noise[i]) @ turned for i, v in enumerate(meaning)}
    old["both"], new["both"] = 4 * np.ones(DIM) + meaning[7], new["new7"] + 0.1
    write_vectors(tmp_path / "old.vec", old)
    write_vectors(tmp_path / "new.vec", new)
    write_dictionary(tmp_path / "dict.txt", {w: 1000 - i for i, w in enumerate(old)})
    counts = {w: 1000 - i for i, w in enumerate(new)}
    write_dictionary(tmp_path / "new.txt", {**counts, "unheard": 3, "madeupword0000": 0})
    pairs = [f"new{i} old{i}\n" for i in range(60)] + ["new61\told62\n", "new0 old0\n", "\n"]
    pairs += ["unheard old140\n", "new140 </s>\n"]  # a random row, and one that is no word's
    (tmp_path / "pairs").write_text("".join(pairs))
    (tmp_path / "test").write_text("".join(f"new{i} old{i}\n" for i in range(50, 130)))
    build(tmp_path, "--source", "vectors", "--vectors", tmp_path / "old.vec", "--center")
    return tmp_path


def arguments(folder, *options, words="--new-dictionary", lexicon=None, table="table", dim="new"):
    return [
        "--table", folder / f"{table}.safetensors", "--dictionary", folder / "dict.txt",
        "--vectors", folder / f"{dim}.vec", words, folder / "new.txt", "--output",
        folder / "out.safetensors", "--lexicon", lexicon or folder / "pairs", *options,
    ]  # fmt: skip


def load(folder):
    dictionary = Dictionary.load(str(folder / "out.dict.txt"))
    return dictionary, load_table(folder / "out.safetensors", dictionary)


def test_new_words_stand_where_their_translations_are(files, capsys):
    old, table = (
        Dictionary.load(str(files / "dict.txt")),
        read_table(files / "table.safetensors")[0],
    )
    options = ["--report", files / "report", "--held-out", files / "test", "--refinements", 2]
    assert call("align_tables", *arguments(files, *options)) == 0
    dictionary, rows = load(files)
    # as fairseq-preprocess wrote it: data of that dictionary fits the table
    assert dictionary == Dictionary.load(str(files / "new.txt"))
    assert dictionary.count == Dictionary.load(str(files / "new.txt")).count
    assert torch.equal(rows[:4], table[:4])  # the model learned to point at these
    cosines = [
        float(rows[dictionary.index(f"new{i}")] @ table[old.index(f"old{i}")]) for i in range(COUNT)
    ]
    assert min(cosines) > 0.5 and sum(cosines) / COUNT > 0.9
    report = json.loads((files / "report").read_text())
    # new50 to new59, and new61, are not fitted to
    assert report["given_pairs"] == 63 and report["pairs"] == 50
    assert report["held_out_words"] == report["held_out_pairs"] == 80
    assert len(report["refinements"]) == 2 and report["refinements"][0] > 80
    for when in ("before", "after"):
        for direction in ("new_to_old", "old_to_new"):
            for score in ("cosine", "csls"):
                found = report["precision"][when][direction][score]
                assert 90 <= found["1"] <= found["5"] <= found["10"] <= 100
    origins = report["origins"]
    assert origins == {"pretrained": COUNT + 1, "random": 1, "special": 5}
    assert json.loads(read_table(files / "out.safetensors")[1]["origins"]) == origins
    out = capsys.readouterr().out
    assert "50 of 63 pairs of" in out and "held out: 80 words" in out
    assert "after refinement, new → old, precision at 1 / 5 / 10: cosine 9" in out
    assert "mean cosine" not in out
    # the record makes the same file again
    content = (files / "out.safetensors").read_bytes()
    record = read_table(files / "out.safetensors")[1]["command"]
    assert "--center" in record and str(files) not in record
    assert call("align_tables", *arguments(files, *options)) == 0
    assert (files / "out.safetensors").read_bytes() == content


def test_words_of_the_lexicon_may_stand_at_their_translations(files, capsys):
    old, table = Dictionary.load(str(files / "dict.txt")), load_table_of(files)
    assert call("align_tables", *arguments(files)) == 0
    dictionary, mapped = load(files)
    held = ["--held-out", files / "test", "--refinements", 0]
    (files / "test").write_text("new50 old50\n")
    (files / "pairs").write_text((files / "pairs").read_text() + "new12 old11\n")
    capsys.readouterr()
    options = ["--lexicon-weight", 1, *held]
    assert call("align_tables", *arguments(files, *options)) == 0
    rows = load(files)[1]
    of = {word: rows[dictionary.index(word)] for word in dictionary.symbols}
    torch.testing.assert_close(of["new3"], table[old.index("old3")])
    middle = table[old.index("old12")] + table[old.index("old11")]
    torch.testing.assert_close(of["new12"], middle / middle.norm())
    # what is held out, and what no pair names, is mapped alone
    for word in ("new50", "new100"):
        assert 0.5 < float(of[word] @ table[old.index(f"old{word[3:]}")]) < 0.999
    assert call("align_tables", *arguments(files, "--lexicon-weight", 0.5, *held)) == 0
    between = load(files)[1][dictionary.index("new3")] @ table[old.index("old3")]
    assert float(mapped[dictionary.index("new3")] @ table[old.index("old3")]) < between < 0.9999
    # two words with one translation are told apart, or are an error
    (files / "pairs").write_text((files / "pairs").read_text() + "new70 old3\n")
    assert call("align_tables", *arguments(files, *options)) == 0
    rows = load(files)[1]
    angle = float(rows[dictionary.index("new3")] @ rows[dictionary.index("new70")])
    assert 0.998 < angle < 0.9999
    assert call("align_tables", *arguments(files, *options, "--duplicates", "error")) != 0
    assert "two words must not share one row" in capsys.readouterr().err


def load_table_of(folder):
    return load_table(folder / "table.safetensors", Dictionary.load(str(folder / "dict.txt")))


def test_angles_of_new_words_are_those_of_their_vectors(files):
    assert call("align_tables", *arguments(files, "--remove-components", 1)) == 0
    dictionary, rows = load(files)
    new = [line.split(" ") for line in (files / "new.vec").read_text().splitlines()]
    vectors = np.array([unit(np.array(numbers, dtype=float)) for _, *numbers in new])
    centred = vectors - vectors.mean(axis=0)
    main = np.linalg.svd(centred)[2][:1]
    centred -= centred @ main.T @ main
    expected = np.array([unit(vector) for vector in centred])
    own = rows[[dictionary.index(word) for word, *_ in new]].numpy()
    np.testing.assert_allclose(own @ own.T, expected @ expected.T, atol=1e-5)
    # mixed with random ones they are near that
    assert call("align_tables", *arguments(files, "--mix-random", 0.8)) == 0
    mixed = load(files)[1]
    assert call("align_tables", *arguments(files, "--mix-random", 0.8, "--seed", 2)) == 0
    assert not torch.allclose(mixed[4:-2], load(files)[1][4:-2], atol=0.1)
    assert call("align_tables", *arguments(files)) == 0
    cosines = (mixed * load(files)[1]).sum(dim=1)[4:-2]
    assert 0.9 < cosines.mean() < 0.99
    # a table whose main directions were removed asks for that in the new words' vectors
    source = ["--source", "vectors", "--vectors", files / "old.vec", "--remove-components", 1]
    build(files, *source, name="less")
    written = []
    for options in ([], ["--remove-components", 1], ["--remove-components", 2]):
        assert call("align_tables", *arguments(files, *options, table="less")) == 0
        written.append(load(files)[1])
    assert torch.equal(*written[:2]) and not torch.allclose(*written[1:], atol=0.1)


def test_words_spelled_the_same_and_a_list_of_words(files, capsys):
    (files / "new.txt").write_text("new7\nboth\n\nnew3\n")
    given = arguments(files, words="--words", lexicon="identical")
    assert call("align_tables", *given, "--refinements", 0, "--missing", "error") == 0
    dictionary, rows = load(files)
    assert dictionary.symbols[4:] == ["new7", "both", "new3"]
    out = capsys.readouterr().out
    assert "1 of 1 pairs of identical were used, fewer than the 12 dimensions" in out
    old = Dictionary.load(str(files / "dict.txt"))
    table = read_table(files / "table.safetensors")[0]
    torch.testing.assert_close(rows[5], table[old.index("both")], atol=1e-5, rtol=0)


def test_a_share_is_held_out_with_all_translations_of_a_word(files):
    from preprocess.seed_lexicon import divide

    pairs = [(f"n{i // 2}", f"o{i}") for i in range(40)]
    rest, apart = divide(pairs, 0.25, 1)
    assert len(apart) == 10 and len(rest) == 30 and sorted(rest + apart) == sorted(pairs)
    assert not {new for new, _ in rest} & {new for new, _ in apart}
    # a word of the table that two new words translate gives itself away, too
    pairs = [(f"n{i}", f"o{i // 2}") for i in range(41)]
    rest, apart = divide(pairs, 0.25, 1)
    old = {old for _, old in apart}
    assert len(apart) == 10 < len(pairs) - len(rest)
    assert rest == [(new, other) for new, other in pairs if other not in old]
    options = ["--held-out-share", 0.2, "--report", files / "report"]
    assert call("align_tables", *arguments(files, *options)) == 0
    report = json.loads((files / "report").read_text())
    assert report["pairs"] == 49 and report["held_out_words"] == 12


def test_options_of_the_refinement(files):
    def refined(*options):
        options = ["--refinements", 1, "--report", files / "report", *options]
        assert call("align_tables", *arguments(files, *options)) == 0
        return json.loads((files / "report").read_text())["refinements"]

    assert refined("--frequent", 20)[0] <= 20 < refined()[0]
    assert refined("--neighbours", 1) != refined() == refined("--neighbours", 10)


def test_other_treatment_than_the_tables_is_told(files, capsys):
    build(files, "--source", "vectors", "--vectors", files / "old.vec", name="plain")
    assert call("align_tables", *arguments(files, "--center", table="plain")) == 0
    out = capsys.readouterr().out
    assert "of new words: they should be alike, try --center" in out
    assert call("align_tables", *arguments(files, table="plain")) == 0
    assert "should be alike" not in capsys.readouterr().out


def test_a_model_decodes_with_an_aligned_table(corpus, trained, tmp_path):
    model = trained("table-input")
    dictionary, rows = dictionary_of(corpus), rows_of(model)
    words = [i for i in range(4, len(dictionary)) if "madeup" not in dictionary[i]]
    turned = rotation(rows.size(1)).float()
    vectors = {dictionary[i].upper(): (rows[i] @ turned).tolist() for i in words}
    write_vectors(tmp_path / "new.vec", vectors)
    (tmp_path / "pairs").write_text(
        "".join(f"{dictionary[i].upper()} {dictionary[i]}\n" for i in words)
    )
    (tmp_path / "words").write_text("".join(f"{word}\n" for word in reversed(vectors)))
    assert call(
        "align_tables", "--table", corpus.table, "--dictionary", corpus.data / "dict.tgt.txt",
        "--vectors", tmp_path / "new.vec", "--words", tmp_path / "words",
        "--lexicon", tmp_path / "pairs", "--output", tmp_path / "out.safetensors",
    ) == 0  # fmt: skip
    found = decode(corpus, model, "--new-table", tmp_path / "out.safetensors")
    assert_same(decode(corpus, model), found, str.upper)
    assert cli.translations(found)[0][0].text.isupper()


def test_bad_input_is_one_line_and_leaves_no_file(files, capsys):
    def message(*options, **more):
        return fails(capsys, files, "align_tables", *arguments(files, *options, **more))

    def listed(text, name="list", share=None, **more):
        (files / "list").write_text(text)
        options = [] if share is None else ["--held-out-share", share]
        return message(*options, **{"lexicon": files / name, **more})

    assert "not allowed with argument" in message("--words", files / "new.txt")
    assert "none.safetensors: no such file" in message(table="none")
    assert "the folder" in message("--report", files / "no" / "report")
    same = ["--output-dictionary", files / "dict.txt"]
    assert "must be another file than --dictionary" in message(*same)
    read = "must not be overwritten while it is read; change --"
    for name in ("table.safetensors", "new.vec", "new.txt", "pairs"):
        assert f"{name}: {read}report" in message("--report", files / name)
        assert f"{name}: {read}output;" in message("--output", files / name).replace("\n", ";")
    same = ["--output-dictionary", files / "out.safetensors"]
    assert "--output and --output-dictionary must be two files" in message(*same)
    same = ["--report", files / "out.dict.txt"]
    assert "--output-dictionary and --report must be two files" in message(*same)
    assert "none: cannot be opened" in message(lexicon=files / "none")
    assert "list, line 2: must be a new word and" in listed("new1 old1\nnew1 old1 old2\n")
    assert "list: must hold pairs of words, but is empty" in listed("\n")
    swapped = listed("old1 new1\nnew1 old1x\nboth old2x\n")
    assert "of its 3 pairs 2 have a known new word, 0 a known word of the table" in swapped
    assert "and none both" in swapped
    assert "must be at least 0" in message("--refinements", -1)
    assert "--held-out-share 0.001 of 61 words" in message("--held-out-share", 0.001)
    everything = "".join(f"new{i} old{i}\n" for i in range(COUNT))
    (files / "all").write_text(everything)
    assert "that --held-out" in message("--held-out", files / "all")
    hub = "".join(f"new{i} old1\n" for i in range(9))
    assert "pairs of words that --held-out-share 0.2 has not" in listed(hub, "list", share=0.2)
    assert "has none for 1 (unheard)" in message("--missing", "error")
    (files / "short.vec").write_text("new1 1 2 3\n")
    wrong = message(dim="short")
    assert "must have the dimension of" in wrong and "12, but has 3" in wrong
    assert "--dim 12" in wrong
    (files / "other.vec").write_text("x 1 2\n")
    assert "must hold vectors of the dictionary's symbols" in message(dim="other")
    build(files, "--source", "random", "--dim", DIM, name="random")
    assert "was made with --source random" in message(table="random")
    (files / "new.txt").write_text("new1\nnew1\n")
    assert "line 2: a new word must be there once" in message(words="--words")
    (files / "new.txt").write_text("new1 new2\n")
    assert "line 1: must be one word" in message(words="--words")
    (files / "new.txt").write_text("<pad>\n")
    assert "'<pad>' is a special symbol" in message(words="--words")
    (files / "new.txt").write_text("\n")
    assert "must hold words, one a line, but is empty" in message(words="--words")
    (files / "new.txt").write_text("madeupword0000 0\n")
    assert "has padding words alone" in message()
    (files / "new.txt").write_text("new1 1\nnew2 1\n")
    assert "must have words in common, but have none" in message(lexicon="identical")
    (files / "new.txt").unlink()
    assert "--new-dictionary" in (wrong := message()) and "new.txt: no such file" in wrong
    write_dictionary(files / "new.txt", ["new1", "new2"])
    before = snapshot(files)
    assert call("align_tables", *arguments(files)) == 0
    written = {files / "out.safetensors", files / "out.dict.txt"}
    assert snapshot(files).keys() - before.keys() == written
    # the dictionary of the new text may be where the table looks for it
    (files / "out.dict.txt").unlink()
    (files / "new.txt").rename(files / "out.dict.txt")
    before = (files / "out.dict.txt").read_bytes()
    given = arguments(files, "--new-dictionary", files / "out.dict.txt")
    assert call("align_tables", *given) == 0
    assert (files / "out.dict.txt").read_bytes() == before
