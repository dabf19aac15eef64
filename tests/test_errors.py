"""What does not fit together is refused at the start, in one clear line."""

import subprocess
import sys
from pathlib import Path

import cli
import pytest
import torch
from fairseq.data import Dictionary
from safetensors.torch import save_file

from fairseq_contout.messages import error_of_use
from fairseq_contout.scores import check_score
from fairseq_contout.symbols import dictionary_signature
from fairseq_contout.table_file import read_table

CONTINUOUS = "--arch continuous_transformer_tiny --criterion cosine"
REST = "--optimizer adam --lr 0.001 --max-tokens 500 --max-update 1"


@pytest.fixture
def start(corpus, tmp_path):
    """Return a function that starts a training which must be refused: ``start(options, table)``."""

    def run(options, table=None):
        table = table or corpus.table
        arguments = [*options.split(), *REST.split(), "--save-dir", tmp_path / "model"]
        if "--target-table" not in options:
            arguments += ["--target-table", table] if "continuous_" in options else []
        try:
            cli.call("train", corpus.data, *arguments)
        finally:
            assert not list(tmp_path.glob("model/checkpoint*.pt"))

    return run


def assert_refused(run, *fragments):
    """Hold a refusal to one line that has all of the fragments."""
    with pytest.raises(ValueError) as error:
        run()
    message = str(error.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    "options, fragments",
    [
        (
            "--arch transformer_tiny --criterion cosine",
            ["the model that was built", "ends in a softmax", "--arch continuous_transformer"],
        ),
        (
            "--arch continuous_transformer_tiny --criterion cross_entropy",
            ["--arch continuous_transformer_tiny predicts embeddings", "is cross_entropy",
             "cosine, hybrid, l2, margin", "softmax architecture"],
        ),
        (
            "--arch continuous_lstm --criterion label_smoothed_cross_entropy",
            ["--arch continuous_lstm predicts embeddings", "is label_smoothed_cross_entropy"],
        ),
        (f"{CONTINUOUS} --target-table=", ["--target-table must name", "build_table.py"]),
        (f"{CONTINUOUS} --target-table none.st", ["none.st: no such file", "build_table.py"]),
        (f"{CONTINUOUS} --scale 0", ["--scale must be a number greater than 0", "is 0.0"]),
        (f"{CONTINUOUS} --scale -2", ["--scale must be a number greater than 0", "is -2.0"]),
        (f"{CONTINUOUS} --scale nan", ["--scale must be a number greater than 0", "is nan"]),
        (f"{CONTINUOUS} --scale inf", ["--scale must be", "is inf"]),
        (f"{CONTINUOUS} --share-all-embeddings", ["--share-all-embeddings", "--decoder-input"]),
        (
            f"{CONTINUOUS} --share-decoder-input-output-embed",
            ["--share-decoder-input-output-embed", "--decoder-input"],
        ),
        (
            "--arch continuous_lstm --criterion cosine --share-all-embeddings",
            ["--share-all-embeddings", "--decoder-input"],
        ),
        (f"{CONTINUOUS} --adaptive-softmax-cutoff 8", ["--adaptive-softmax-cutoff"]),
        (f"{CONTINUOUS} --decoder-input encoder", ["--decoder-input encoder needs one dictionary",
                                                   "--joined-dictionary"]),
        (f"{CONTINUOUS} --criterion margin --margin 0", ["--margin must be", "is 0.0"]),
        (f"{CONTINUOUS} --criterion syn_margin --margin 2.5", ["--margin must be", "is 2.5"]),
        (f"{CONTINUOUS} --criterion margin --margin nan", ["--margin must be", "is nan"]),
        (f"{CONTINUOUS} --criterion vmf --vmf-lambda1 -1", ["--vmf-lambda1 must be", "is -1.0"]),
        (f"{CONTINUOUS} --criterion vmf --vmf-lambda2 0", ["--vmf-lambda2 must be", "is 0.0"]),
        (
            f"{CONTINUOUS} --criterion power_spherical --ps-lambda2 0",
            ["--ps-lambda2 must be", "is 0.0"],
        ),
    ],
)  # fmt: skip
def test_trainings_that_cannot_work(options, fragments, start):
    assert_refused(lambda: start(options), *fragments)


@pytest.mark.parametrize(
    "option, value, choices",
    [
        ("--score", "euclid", ["cosine", "dot", "l2", "power_spherical"]),
        ("--decoder-input", "tied", ["separate", "encoder", "table"]),
        ("--criterion margin --negatives", "all", ["table", "batch"]),
        ("--criterion vmf --vmf-form", "best", ["paper", "authors"]),
        ("--criterion syn_margin --synthetic-negative", "both", ["projection", "difference"]),
    ],
)
def test_unknown_choices(option, value, choices, start, capsys):
    with pytest.raises(SystemExit) as status:
        start(f"{CONTINUOUS} {option} {value}")
    assert status.value.code != 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert option.split()[-1] in last and value in last
    assert all(choice in last for choice in choices)


def damaged(kind, table, path):
    """Write a table file with one thing wrong."""
    rows, metadata = read_table(table)
    if kind == "truncated":
        data = Path(table).read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return
    if kind == "no table":
        path.write_text("word 0.1 0.2\n")
        return
    rows = rows.clone()
    if kind == "NaN":
        rows[7, 3] = float("nan")
    elif kind == "zero":
        rows[7] = 0
    elif kind == "not unit":
        rows[7] *= 2
    elif kind == "a vector":
        rows = rows[:, 0].contiguous()
    elif kind == "too few rows":
        rows = rows[:-1].contiguous()
    elif kind == "another dictionary":
        metadata["signature"] = "0" * 64
    elif kind == "another format":
        metadata["format_version"] = "99"
    save_file({"weight": rows}, str(path), metadata=metadata)


@pytest.mark.parametrize(
    "kind, fragments",
    [
        ("truncated", ["not a whole safetensors file"]),
        ("no table", ["not a whole safetensors file"]),
        ("NaN", ["every row must be finite", "rows 7"]),
        ("zero", ["no row may be zero", "rows 7"]),
        ("not unit", ["must have norm 1", "row 7"]),
        ("a vector", ["(40,)"]),
        ("too few rows", ["must have a row for each of the 40 symbols", "(39, 32)"]),
        ("another dictionary", ["for another dictionary", "000000000000…", "SIGNATURE"]),
        ("another format", ["format_version 1", "'99'"]),
    ],
)
def test_bad_tables(kind, fragments, start, corpus, tmp_path):
    table = tmp_path / "bad.safetensors"
    damaged(kind, corpus.table, table)
    dictionary = Dictionary.load(str(corpus.data / "dict.tgt.txt"))
    own = dictionary_signature(dictionary)[:12] + "…"
    fragments = [own if fragment == "SIGNATURE" else fragment for fragment in fragments]
    assert_refused(lambda: start(CONTINUOUS, table), str(table), *fragments)


def test_table_of_the_source_dictionary(start, corpus, tmp_path):
    table = cli.write_table(tmp_path / "src.safetensors", corpus.data / "dict.src.txt")
    assert_refused(lambda: start(CONTINUOUS, table), str(table), "for another dictionary")


@pytest.mark.parametrize(
    "overrides, fragments",
    [
        ({"scale": -3}, ["--scale must be a number greater than 0", "is -3"]),
        ({"score": "euclid"}, ["--score must be one of cosine, dot, l2", "'euclid'"]),
        ({"target_table": "other.st"}, ["other.st", "drop target_table"]),
    ],
)
def test_overrides_that_cannot_work(overrides, fragments, corpus, trained):
    def generate():
        cli.call(
            "generate", corpus.data, "--path", trained("cosine"), "--model-overrides", overrides
        )

    assert_refused(generate, *fragments)


def test_a_checkpoint_of_another_table(start, corpus, trained, tmp_path):
    table = cli.write_table(tmp_path / "t.safetensors", corpus.data / "dict.tgt.txt", seed=1)
    goes_on = f"--encoder-layers 1 --decoder-layers 1 --restore-file {trained('cosine')}"
    fresh = "--reset-optimizer --reset-meters --reset-dataloader --reset-lr-scheduler"
    with pytest.raises(Exception, match="Cannot load model parameters") as error:  # fairseq's
        start(f"{CONTINUOUS} {goes_on} {fresh}", table)
    message = str(error_of_use(error.value))  # what the command line shows
    assert "trained with other rows than those of --target-table; give the table" in message


def test_a_bug_keeps_its_traceback():
    def of(call):
        try:
            call()
        except Exception as error:
            return error_of_use(error) is not None

    assert of(lambda: check_score("none"))
    assert not of(lambda: int("none"))  # not raised by this package
    assert not of(lambda: torch.cat(()))


@pytest.mark.parametrize("kind", ["no table", "softmax", "score"])
def test_exit_status_and_last_line(kind, corpus, tmp_path):
    options, message = {
        "no table": (f"{CONTINUOUS} --target-table none.st", "target table none.st: no such file"),
        "softmax": ("--arch transformer_tiny --criterion vmf", "ends in a softmax"),
        "score": (f"{CONTINUOUS} --score euclid", "--score: invalid choice: 'euclid'"),
    }[kind]
    result = subprocess.run(
        [
            sys.executable, "-m", "fairseq_cli.train", corpus.data, *options.split(), *REST.split(),
            "--user-dir", cli.USER_DIR, "--cpu", "--save-dir", "model",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == (2 if kind == "score" else 1)
    last = result.stderr.strip().splitlines()[-1]
    assert message in last and ": error: " in last
    assert "Traceback" not in result.stderr and "Start iterating" not in result.stderr
    assert not list(tmp_path.rglob("checkpoint*.pt"))
