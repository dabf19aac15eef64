"""build_lexicon.py: IBM model 1 against a plain computation, what a lexicon holds, refusals."""

import math
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from preprocess_tools import call, fails, write_dictionary
from safetensors import safe_open
from safetensors.torch import save_file

from fairseq_contout.lexicon_file import Lexicon, load_lexicon, save_lexicon
from fairseq_contout.symbols import dictionary_signature
from fairseq_contout.target_table import save_table
from preprocess import model1
from preprocess.model1 import Model1

SOURCES = [[0, 1], [0, 2], [1], [2, 2, 0], [1, 0, 2]]
TARGETS = [[3, 4], [3, 5, 3], [4], [5, 3], [4, 3, 5, 0]]


def plain_model1(sources, targets, empty, target_size, iterations):
    """Model 1, written down word by word."""
    table = defaultdict(lambda: 1 / target_size)
    for _ in range(iterations):
        expected, total = defaultdict(float), defaultdict(float)
        likelihood = tokens = 0
        for source, target in zip(sources, targets):
            words = [*source, empty]
            for t in target:
                whole = sum(table[s, t] for s in words)
                likelihood, tokens = likelihood + math.log(whole / len(words)), tokens + 1
                for s in words:
                    expected[s, t] += table[s, t] / whole
                    total[s] += table[s, t] / whole
        table = {(s, t): c / total[s] for (s, t), c in expected.items()}
    return table, likelihood / tokens


@pytest.mark.parametrize("chunk", [1, 8, 1 << 23])
def test_model_1_is_that_of_brown_et_al(chunk, monkeypatch):
    monkeypatch.setattr(model1, "_CHUNK_PAIRS", chunk)
    model = Model1(SOURCES, TARGETS, 3, 6)
    assert len(list(model1._groups(SOURCES, TARGETS))) == {1: 5, 8: 3, 1 << 23: 1}[chunk]
    for _ in range(4):
        likelihood = model.step()
    expected, expected_likelihood = plain_model1(SOURCES, TARGETS, 3, 6, 4)
    found = model.translations()
    got = dict(zip(zip(found.source.tolist(), found.target.tolist()), found.probability))
    assert got == pytest.approx(expected)
    assert likelihood == pytest.approx(expected_likelihood)


@pytest.fixture
def text(tmp_path):
    """Text whose source word s<i> is the target word t<i>, in another order, and one frequent."""
    draw = np.random.default_rng(0)
    words = [draw.permutation(8)[: draw.integers(2, 6)] for _ in range(300)]
    source = [" ".join(f"s{i}" for i in line) + " Xerxes" for line in words]
    target = ["the " + " ".join(f"t{i}" for i in line[::-1]) for line in words]
    target[-50:] = [line + " Xerxes" for line in target[-50:]]
    (tmp_path / "a").write_text("".join(line + "\n" for line in source))
    (tmp_path / "b").write_text("".join(line + "\n" for line in target))
    one = write_dictionary(tmp_path / "dict.a", [*(f"s{i}" for i in range(8)), "Xerxes", "never"])
    counts = {"madeupword0000": 0, **{f"t{i}": 5 for i in range(8)}, "Xerxes": 1, "the": 300}
    other = write_dictionary(tmp_path / "dict.b", counts)
    options = ["--input", tmp_path / "a", tmp_path / "b", "--dictionary", tmp_path / "dict.a"]
    return tmp_path, one, other, [*options, tmp_path / "dict.b", "--output", tmp_path / "lexicon"]


def load(folder, one, other):
    signatures = dictionary_signature(one), dictionary_signature(other)
    return load_lexicon(folder / "lexicon", *signatures, len(other))


def test_words_are_given_their_translations(text, capsys):
    folder, one, other, options = text
    assert call("build_lexicon", *options, "--words", 3, "--frequent", 1, "--iterations", 8) == 0
    lexicon = load(folder, one, other)
    assert lexicon.frequent.tolist() == [other.index("the")]
    for i in range(8):
        assert lexicon.best[one.index(f"s{i}"), 0] == other.index(f"t{i}")
    assert lexicon.best.shape == (len(one), 3)
    assert lexicon.best[one.index("Xerxes"), 0] == other.index("Xerxes")
    assert (lexicon.best[[*range(4), one.index("never")]] == -1).all()
    offered = set(lexicon.best.flatten().tolist())
    assert not offered & {0, 1, 2, 3, other.index("the"), other.index("madeupword0000")}
    for row in lexicon.best.tolist():  # no word twice, and -1 at the end alone
        words = [word for word in row if word >= 0]
        assert row[: len(words)] == words and len(set(words)) == len(words)
    assert "300 pairs" in capsys.readouterr().out


def test_probabilities_are_those_of_the_model(text):
    folder, one, other, options = text
    more = ["--words", 4, "--frequent", 1, "--iterations", 5, "--min-probability", 0.01]
    assert call("build_lexicon", *options, *more) == 0
    lexicon = load(folder, one, other)
    # EM word by word
    pairs = [
        ([one.index(w) for w in a.split()], [other.index(w) for w in b.split()])
        for a, b in zip(*((folder / n).read_text().splitlines() for n in "ab"))
    ]
    likely = {}
    for a, b in pairs:
        likely.update({(s, t): 1.0 for s in (*a, "") for t in b})
    for _ in range(5):
        counts, totals = dict.fromkeys(likely, 0.0), {}
        for a, b in pairs:
            for t in b:
                norm = sum(likely[s, t] for s in (*a, ""))
                for s in (*a, ""):
                    counts[s, t] += likely[s, t] / norm
                    totals[s] = totals.get(s, 0.0) + likely[s, t] / norm
        likely = {(s, t): count / totals[s] for (s, t), count in counts.items()}
    listed = 0
    for s, row in enumerate(lexicon.best.tolist()):
        for t, log in zip(row, lexicon.log_probability[s].tolist()):
            expected = likely.get((s, t), 1.0) if t >= 0 else 1.0
            assert log == pytest.approx(math.log(expected), abs=1e-4)
            assert t < 0 or expected >= 0.01
            listed += t >= 0
    assert listed > 10 and lexicon.log_probability.min() < -1


def test_a_spelling_that_the_text_speaks_against_is_left_out(tmp_path):
    (tmp_path / "a").write_text("die hand\n" * 5 + "die Anna\n" * 5)
    (tmp_path / "b").write_text("the hand\n" * 5 + "the Anna\n" * 5)
    one = write_dictionary(tmp_path / "dict.a", ["die", "hand", "Anna", "Otto"])
    other = write_dictionary(tmp_path / "dict.b", ["the", "die", "hand", "Anna", "Otto"])
    options = ["--input", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "lexicon"]
    options += ["--dictionary", tmp_path / "dict.a", tmp_path / "dict.b", "--frequent", 1]
    assert call("build_lexicon", *options, "--iterations", 20, "--min-probability", 0.2) == 0
    lexicon = load(tmp_path, one, other)
    found = {
        word: [(other[t], log) for t, log in zip(*lists) if t >= 0]
        for word, *lists in zip(
            one.symbols, lexicon.best.tolist(), lexicon.log_probability.tolist()
        )
    }
    assert found["die"] == []  # "the" is frequent
    assert [word for word, _ in found["hand"]] == ["hand"] and found["hand"][0][1] < 0
    assert found["Otto"] == [("Otto", 0.0)]  # no text has it


def test_words_that_the_text_does_not_have_take_their_neighbours(tmp_path, capsys):
    (tmp_path / "a").write_text("die hand\n" * 5)
    (tmp_path / "b").write_text("the hand\n" * 5)
    words = ["die", "hand", "Tor", "Otto", "Rad", "fern"]
    one = write_dictionary(tmp_path / "dict.a", words)
    other = write_dictionary(tmp_path / "dict.b", ["the", "hand", "gate", "Otto", "bike"])
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(9, 5, generator=draw), dim=1)
    own = torch.zeros(10, 5)
    own[:4] = rows[:4]
    # die: bike, which the text speaks against; Tor: gate; Otto: gate, beside its own spelling;
    # Rad: the frequent word; fern: opposite to all
    own[4:9] = rows[[8, 5, 6, 6, 4]]
    own[9] = torch.nn.functional.normalize(-rows[4:].sum(dim=0), dim=0)
    save_table(tmp_path / "one", own, one, source="random", origins={"random": 10})
    save_table(tmp_path / "other", rows, other, source="random", origins={"random": 9})
    options = ["--input", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "lexicon"]
    options += ["--dictionary", tmp_path / "dict.a", tmp_path / "dict.b", "--frequent", 1]
    near = ["--neighbours", tmp_path / "one", tmp_path / "other"]
    more = ["--neighbour-probability", 0.25, "--words", 2]

    def lists():
        lexicon = load(tmp_path, one, other)
        return [
            [(other[t], log) for t, log in zip(*row) if t >= 0]
            for row in zip(lexicon.best[4:].tolist(), lexicon.log_probability[4:].tolist())
        ]

    assert call("build_lexicon", *options, *near, *more) == 0
    found, quarter = lists(), pytest.approx(math.log(0.25))
    assert [word for word, _ in found[0]] == ["hand"] == [word for word, _ in found[1]]
    assert found[2:] == [[("gate", quarter)], [("Otto", 0.0), ("gate", quarter)], [], []]
    assert call("build_lexicon", *options) == 0
    assert lists()[2:] == [[], [("Otto", 0.0)], [], []]
    assert call("build_lexicon", *options, *near, "--words", 1) == 0
    assert lists()[3] == [("Otto", 0.0)]
    save_table(tmp_path / "wide", torch.eye(9), other, source="random", origins={"random": 9})
    near[-1] = tmp_path / "wide"
    assert "must be rows of one space, but have 5 and 9 numbers; make" in fails(
        capsys, tmp_path, "build_lexicon", *options, *near
    )


def test_the_same_text_is_the_same_file_and_names_no_folder(text):
    folder, _, _, options = text
    assert call("build_lexicon", *options) == 0
    before = (folder / "lexicon").read_bytes()
    assert call("build_lexicon", *options) == 0
    assert (folder / "lexicon").read_bytes() == before
    with safe_open(str(folder / "lexicon"), framework="pt") as file:
        command = file.metadata()["command"]
    assert command.startswith("build_lexicon.py --input a b --dictionary dict.a dict.b --words 50")
    assert str(folder) not in command


def test_options_leave_words_and_pairs_out(text):
    folder, one, other, options = text
    assert call("build_lexicon", *options, "--frequent", 1, "--min-probability", 1) == 0
    lexicon = load(folder, one, other)
    assert lexicon.best[one.index("s0")].eq(-1).all()
    assert lexicon.best[one.index("Xerxes")].eq(-1).all()  # not all of them are Xerxes
    assert call("build_lexicon", *options, "--frequent", 1, "--lines", 1) == 0
    few = load(folder, one, other)
    first = (folder / "b").read_text().split("\n")[0].split()
    offered = set(few.best.flatten().tolist()) - {-1, other.index("Xerxes")}
    assert offered == {other.index(word) for word in first if word != "the"}


def test_held_out_text_is_counted(text, capsys):
    folder, one, other, options = text
    (folder / "c").write_text("s0 s1\nnever\n")
    (folder / "d").write_text("the t0 nothing\nt1\n")
    held_out = ["--held-out", folder / "c", folder / "d"]
    assert call("build_lexicon", *options, "--words", 1, "--frequent", 1, *held_out) == 0
    # 3 of 4 tokens: the unknown word is a special symbol; 3 words and 1
    expected = "shortlists of 2 words on average hold 75.00 % of the target tokens"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil, more, message",
    [
        (
            lambda f: (f / "b").write_text("t0\n"),
            [],
            "a and .*b must have the same number of .* and 1;",
        ),
        (lambda f: [(f / n).write_text("\n") for n in "ab"], [], "a: must hold pairs of 1 to 100"),
        (lambda f: (f / "dict.a").unlink(), [], "dict.a: no such file; make it with fairseq"),
        (lambda f: None, ["--words", "0"], "--words: must be at least 1, but is 0"),
        (lambda f: None, ["--max-length", "1"], "must hold pairs of 1 to 1 tokens"),
    ],
)
def test_bad_input_is_one_line(spoil, more, message, text, capsys):
    folder, *_, options = text
    spoil(folder)
    assert re.search(message, fails(capsys, folder, "build_lexicon", *options, *more))


def test_lexicons_that_do_not_fit_are_refused(text):
    folder, one, other, options = text
    path = folder / "lexicon"
    with pytest.raises(ValueError, match="--shortlist .*lexicon: no such file; make it with"):
        load(folder, one, other)
    assert call("build_lexicon", *options) == 0
    for sides, name in (((other, other), "source"), ((one, one), "target")):
        with pytest.raises(ValueError, match=f"made for another {name} dictionary") as error:
            load(folder, *sides)
        for dictionary in (one, other):
            assert dictionary_signature(dictionary)[:12] in str(error.value)
        assert "build_lexicon.py" in str(error.value)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load(folder, one, other)
    save_file({"weight": torch.zeros(2, 2)}, path, metadata={"format_version": "2"})
    with pytest.raises(ValueError, match="must be a lexicon of format 2, but is 'something else'"):
        load(folder, one, other)
    wrong = Lexicon.alike(torch.tensor([[len(other)]]), torch.tensor([4]))
    save_lexicon(path, wrong, one, other)
    with pytest.raises(ValueError, match=rf"less than {len(other)}, but go from {len(other)} to"):
        load(folder, one, other)


def test_lexicons_that_lack_something_are_refused(text):
    folder, one, other, options = text
    path = folder / "lexicon"
    assert call("build_lexicon", *options) == 0
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        whole = {name: file.get_tensor(name) for name in Lexicon._fields}
    names = ("source_signature", "target_signature", *Lexicon._fields)
    expected = f"must have {', '.join(names)}, but has no "
    for name in names:
        parts = {key: part for key, part in whole.items() if key != name}
        save_file(parts, path, metadata={k: v for k, v in metadata.items() if k != name})
        has = ", ".join(sorted({*metadata, *whole} - {name}))
        with pytest.raises(ValueError) as error:
            load(folder, one, other)
        assert f"--shortlist {path}: {expected}{name} (there are {has}); " in str(error.value)
        assert "make it again with preprocess/build_lexicon.py" in str(error.value)
    wrong = (
        {"best": whole["best"].float()},
        {"best": whole["best"][0]},
        {"frequent": whole["best"] + 0},
        {"log_probability": whole["best"] + 0},
        {"log_probability": whole["log_probability"][:, :3].contiguous()},
        {"log_probability": whole["log_probability"] + 1e4},
        {"log_probability": whole["log_probability"] - torch.inf},
        {"log_probability": whole["log_probability"] * torch.nan},
    )
    messages = ["best must .* float32", "best must .* (50,)", "frequent must hold integers of 1"]
    messages += ["log_probability must hold floats of 2"]
    messages += ["log_probability must hold a finite number of 0 or less .* (14, 50)"]
    messages += [
        f"{messages[-1]}.* from {ends};" for ends in (".* to 10000.0", "-inf to -inf", "nan to nan")
    ]
    for parts, found in zip(wrong, messages):
        save_file({**whole, **parts}, path, metadata=metadata)
        with pytest.raises(ValueError, match=found.replace("(", r"\(").replace(")", r"\)")):
            load(folder, one, other)


def test_what_is_impossible_is_left_out(text, monkeypatch):
    folder, one, other, options = text
    translations = Model1.translations

    def some_are_zero(model):
        found = translations(model)
        return found._replace(probability=np.where(found.target % 2 == 0, found.probability, 0.0))

    monkeypatch.setattr(Model1, "translations", some_are_zero)
    assert call("build_lexicon", *options, "--min-probability", 0, "--frequent", 1) == 0
    lexicon = load(folder, one, other)  # which refuses the logarithm of 0
    assert lexicon.best.ge(0).any() and not (lexicon.best % 2 == 1)[lexicon.best.ge(0)].any()
