"""Cleaning parallel text; learning and applying subwords."""

import gzip
import lzma
import random

import pytest
from preprocess_tools import call, fails

LINES = [
    f"the {a} {b} is {c}" for a in ("lower", "lowest") for b in ("wider", "newest") for c in "xy"
]


def write(folder, name, lines):
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


# ---- clean_parallel ----------------------------------------------------------------------------


def clean(tmp_path, source, target, *options):
    write(tmp_path, "in.de", source)
    write(tmp_path, "in.en", target)
    assert (
        call("clean_parallel", "-s", "de", "-t", "en", *options, tmp_path / "in", tmp_path / "out")
        == 0
    )
    return lines_of(tmp_path / "out.de"), lines_of(tmp_path / "out.en")


def test_clean_tokenises_and_lowercases_by_language(tmp_path):
    german, english = clean(
        tmp_path,
        ["Das ist „gut“, z.B. hier."],
        ["It's a well-known “dog”, Mr. Dupont."],
        "--lowercase",
    )
    assert german == ["das ist &quot; gut &quot; , z.b. hier ."]
    assert english == ["it &apos;s a well @-@ known &quot; dog , &quot; mr. dupont ."]


def test_clean_gives_the_tokens_of_fairseqs_moses_tokenizer(tmp_path):
    from fairseq.data.encoders.moses_tokenizer import MosesTokenizer, MosesTokenizerConfig

    text = "The cat's well-known 3.5 & <b>, isn't it?"
    _, english = clean(tmp_path, ["x"], [text], "--no-normalize-punctuation")
    moses = MosesTokenizer(MosesTokenizerConfig(source_lang="de", target_lang="en"))
    moses.tok = type(moses.tok)("en")  # fairseq tokenises the source; compare in the target's rules
    assert english == [moses.encode(text)]


def test_clean_options_leave_text_alone(tmp_path):
    _, english = clean(tmp_path, ["a"], ["A  b,\tc’s "], "--no-tokenize")
    assert english == ["A b, c’s"]
    _, english = clean(tmp_path, ["a"], ["a & b"], "--no-escape")
    assert english == ["a & b"]


def test_clean_makes_every_blank_a_plain_one_so_that_lines_stay_aligned(tmp_path):
    german, english = clean(
        tmp_path, ["a\u2028b\rc\x85d", "e"], ["\u00a0f\u3000 g\x0bh\0i", "j"], "--no-tokenize"
    )
    assert german == ["a b c d", "e"]
    assert english == ["f g h i", "j"]


def test_clean_filters_by_length_and_ratio_and_tells_how_many(tmp_path, capsys):
    source = ["a b", "", "a b c d", "a b c", "a"]
    target = ["c", "x", "a b c d", "d e f", "a b c"]
    options = ["--min-length", 1, "--max-length", 3, "--ratio", 2]
    german, english = clean(tmp_path, source, target, *options)
    assert german == ["a b", "a b c"]
    assert english == ["c", "d e f"]
    printed = capsys.readouterr().out
    assert "2 pairs kept, 3 left out (ratio 1, too long 1, too short 1)" in printed


def test_clean_keeps_every_pair_of_test_data(tmp_path):
    german, english = clean(tmp_path, ["", "a " * 500], ["b", ""])
    assert len(german) == len(english) == 2
    assert german[0] == "" and len(german[1].split()) == 500


def test_clean_reads_gz_and_xz_and_drops_a_byte_order_mark(tmp_path):
    (tmp_path / "in.de.gz").write_bytes(gzip.compress("\ufeffeins zwei\n".encode()))
    (tmp_path / "in.en.xz").write_bytes(lzma.compress(b"one two\n"))
    assert call("clean_parallel", "-s", "de", "-t", "en", tmp_path / "in", tmp_path / "out") == 0
    assert lines_of(tmp_path / "out.de") == ["eins zwei"]
    assert lines_of(tmp_path / "out.en") == ["one two"]


def test_clean_with_workers_writes_the_same(tmp_path):
    rng = random.Random(1)
    source = [" ".join(rng.choices("ab,.'-", k=4)) for _ in range(4100)]
    alone = clean(tmp_path, source, source[::-1])
    assert clean(tmp_path, source, source[::-1], "--workers", 2) == alone


def test_clean_bad_input(tmp_path, capsys):
    def message(*options):
        arguments = ["-s", "de", "-t", "en", *options, tmp_path / "in", tmp_path / "out"]
        return fails(capsys, tmp_path, "clean_parallel", *arguments)

    assert "in.de" in message()  # no such file
    write(tmp_path, "in.de", ["a", "b", "c"])
    write(tmp_path, "in.en", [])
    assert "in.en: must hold text, but is empty" in message()
    write(tmp_path, "in.en", ["a", "b"])
    text = message()
    assert "in.de and " in text and "in.en" in text and "3 and 2" in text and "align" in text
    (tmp_path / "in.en").write_bytes(b"a\nb\xff\nc\n")
    text = message()
    assert "in.en, line 2" in text and "UTF-8" in text and "0xff" in text
    write(tmp_path, "in.en", ["a", "b", "c"])
    assert "all 3 were left out" in message("--min-length", "2")
    assert "must be at least 1, but is 0.5" in message("--ratio", "0.5")
    assert "must differ" in message("-t", "de")
    (tmp_path / "in.en.gz").write_bytes(gzip.compress(b"a\nb\nc\n"))
    assert "exactly one of" in message()
    (tmp_path / "in.en").unlink()
    (tmp_path / "in.en.gz").write_bytes(gzip.compress(b"a\nb\nc\n" * 999)[:-9])
    assert "whole .gz archive" in message()
    assert call("clean_parallel", "-s", "x", "-t", "y", tmp_path / "none", tmp_path / "no/out") == 1
    assert "none.x" in capsys.readouterr().err


def test_clean_leaves_the_old_output_when_it_fails(tmp_path, capsys):
    write(tmp_path, "in.de", ["a", "b"])
    write(tmp_path, "in.en", ["a"])
    write(tmp_path, "out.de", ["old"])
    fails(
        capsys,
        tmp_path,
        "clean_parallel",
        "-s",
        "de",
        "-t",
        "en",
        tmp_path / "in",
        tmp_path / "out",
    )
    assert lines_of(tmp_path / "out.de") == ["old"]


# ---- learn_subwords, apply_subwords --------------------------------------------------------------


def learn(tmp_path, *options):
    assert call("learn_subwords", *options, "--output", tmp_path / "sub") == 0


def apply(tmp_path, text, *options):
    path = write(tmp_path, "text", text)
    out = tmp_path / "segmented"
    assert call("apply_subwords", *options, "--input", path, "--output", out) == 0
    return lines_of(out)


def test_bpe_is_learned_jointly_and_is_that_of_subword_nmt(tmp_path):
    import io

    from subword_nmt import apply_bpe, learn_bpe

    first, second = write(tmp_path, "a", LINES[:4]), write(tmp_path, "b", LINES[4:])
    learn(tmp_path, "--size", 12, first, second)
    expected = io.StringIO()
    learn_bpe.learn_bpe(io.StringIO("\n".join(LINES)), expected, 12)
    assert (tmp_path / "sub.codes").read_text() == expected.getvalue()

    text = ["the slowest widest", "", "  newer  low "]
    bpe = apply_bpe.BPE(io.StringIO(expected.getvalue()))
    segmented = apply(tmp_path, text, "--model", tmp_path / "sub.codes")
    assert segmented == [bpe.process_line(" ".join(line.split())) for line in text]
    assert [" ".join(line.split()) for line in text] == [s.replace("@@ ", "") for s in segmented]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_round_trip_and_vocabulary_file(tmp_path, model_type):
    path = write(tmp_path, "a", LINES)
    learn(tmp_path, "--method", "sentencepiece", "--size", 20, "--model-type", model_type, path)
    segmented = apply(
        tmp_path, [*LINES, ""], "--method", "sentencepiece", "--model", tmp_path / "sub.model"
    )
    assert [s.replace(" ", "").replace("\u2581", " ").strip() for s in segmented] == [*LINES, ""]
    vocabulary = {line.split("\t")[0] for line in lines_of(tmp_path / "sub.vocab")}
    assert len(vocabulary) == 20
    assert {piece for line in segmented for piece in line.split()} <= vocabulary


@pytest.mark.parametrize("method", ["bpe", "sentencepiece"])
def test_learning_twice_gives_identical_files(tmp_path, method):
    path = write(tmp_path, "a", LINES)
    files = []
    for _ in range(2):
        learn(tmp_path, "--method", method, "--size", 20, path)
        files.append([p.read_bytes() for p in sorted(tmp_path.glob("sub.*"))])
    assert files[0] == files[1] and files[0]


def test_dropout_follows_the_seed(tmp_path):
    learn(tmp_path, "--size", 30, write(tmp_path, "a", LINES))
    options = ["--model", tmp_path / "sub.codes"]
    plain = apply(tmp_path, LINES, *options)
    first, again, other = (
        apply(tmp_path, LINES, *options, "--dropout", "0.4", "--seed", seed) for seed in (1, 1, 2)
    )
    assert first == again and first != other and first != plain
    assert [s.replace("@@ ", "") for s in first] == LINES


def test_a_line_is_one_line_whatever_blanks_are_in_it(tmp_path):
    learn(tmp_path, "--size", 12, write(tmp_path, "a", LINES))
    path = tmp_path / "odd"
    path.write_bytes("lower\u2028newest\rwider\x85x\nlow\n".encode())
    out = tmp_path / "out"
    assert (
        call("apply_subwords", "--model", tmp_path / "sub.codes", "--input", path, "--output", out)
        == 0
    )
    joined = out.read_text().replace("@@ ", "")
    assert joined == "lower newest wider x\nlow\n"


def test_subwords_bad_input(tmp_path, capsys):
    good = write(tmp_path, "good", LINES)
    empty = write(tmp_path, "empty", ["", " "])
    latin = tmp_path / "latin"
    latin.write_bytes("gut\nschön\n".encode("latin-1"))
    out = ["--output", tmp_path / "new"]

    def message(script, *arguments):
        return fails(capsys, tmp_path, script, *arguments)

    assert "empty: must hold text" in message("learn_subwords", "--size", 5, *out, good, empty)
    assert "latin, line 2" in message("learn_subwords", "--size", 5, *out, latin)
    assert "must be at least 1, but is 0" in message("learn_subwords", "--size", 0, *out, good)
    assert "No such file" in message("learn_subwords", "--size", 5, *out, tmp_path / "none")
    short = write(tmp_path, "short", ["a b c"])
    assert "two or more characters" in message("learn_subwords", "--size", 5, *out, short)
    sentencepiece = ["--method", "sentencepiece", "--size", 5000]
    text = message("learn_subwords", *sentencepiece, *out, good)
    assert "--size 5000" in text and "too high" in text
    missing = ["--output", tmp_path / "no" / "x"]
    assert "does not exist; create it" in message("learn_subwords", "--size", 5, *missing, good)

    learn(tmp_path, "--size", 5, good)
    model = ["--model", tmp_path / "sub.codes"]
    assert "empty" in message("apply_subwords", *model, "--input", write(tmp_path, "e", []), *out)
    assert "latin, line 2" in message("apply_subwords", *model, "--input", latin, *out)
    text = message("apply_subwords", "--model", good, "--input", good, *out)
    assert "good, line 1" in text and "#version" in text
    text = message(
        "apply_subwords", "--method", "sentencepiece", "--model", good, "--input", good, *out
    )
    assert "must be a SentencePiece model" in text
    options = ["--method", "sentencepiece", "--dropout", "0.1", "--model", good, "--input", good]
    assert "--dropout 0.1" in message("apply_subwords", *options, *out)
    assert "at most 1" in message("apply_subwords", "--dropout", 2, *model, "--input", good, *out)


# ---- clean_monolingual ---------------------------------------------------------------------------


def test_monolingual_text_is_cleaned_as_parallel_text_is(tmp_path, capsys):
    lines = ["Ein  Haus & ein „Garten“.", "", "Zwei-drei Wörter", "eins zwei drei vier fünf sechs"]
    (tmp_path / "in.de").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "in.en").write_text("a\n\nb\nc\n")
    pair = ("-s", "de", "-t", "en", "--lowercase", tmp_path / "in", tmp_path / "pair")
    assert call("clean_parallel", *pair) == 0
    options = ["--language", "de", "--lowercase", "--output", tmp_path / "out"]
    assert call("clean_monolingual", *options, tmp_path / "in.de", tmp_path / "in.de") == 0
    expected = [line for line in (tmp_path / "pair.de").read_text().splitlines() if line]
    assert (tmp_path / "out").read_text().splitlines() == 2 * expected and len(expected) == 3
    assert "6 lines kept, 2 left out" in capsys.readouterr().out
    assert call("clean_monolingual", *options, "--max-length", "5", tmp_path / "in.de") == 0
    assert (tmp_path / "out").read_text().splitlines() == [expected[1]]


def test_clean_monolingual_errors(tmp_path, capsys):
    def refusal(*arguments):
        return fails(capsys, tmp_path, "clean_monolingual", "-l", "de", *arguments)

    path = tmp_path / "in.de"
    path.write_text("\n\n")
    assert "at least one line must be left" in refusal("--output", tmp_path / "out", path)
    assert "must not be overwritten" in refusal("--output", path, path)
    assert "does not exist" in refusal("--output", tmp_path / "no" / "out", path)
