"""Rows of trained models as text files of vectors, and tables made of them."""

import argparse

import pytest
import torch
from preprocess_tools import call

from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.table_file import load_table

WORDS = ["the", "walk@@", "ing", "dogs", "madeupword0000"]


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("".join(f"{w} {0 if w.startswith('madeup') else 3}\n" for w in WORDS))
    return path


def checkpoint(tmp_path, rows, name="decoder.continuous_output.table.weight"):
    # what fairseq-train writes has a namespace beside the weights
    args = argparse.Namespace(arch="transformer")
    torch.save({"args": args, "model": {name: rows}}, tmp_path / "c.pt")
    return tmp_path / "c.pt"


@pytest.mark.parametrize(
    "kind", ["continuous_output.table", "output_projection", "fc_out", "embed_tokens"]
)
def test_a_trained_models_rows_become_a_table(tmp_path, dictionary, kind):
    torch.manual_seed(1)
    rows = torch.randn(9, 6)
    path = checkpoint(tmp_path, rows, f"decoder.{kind}.weight")
    vectors, table = tmp_path / "rows.vec", tmp_path / "table.safetensors"
    given = ["--checkpoint", path, "--dictionary", dictionary, "--output", vectors]
    assert call("export_rows", *given) == 0
    lines = vectors.read_text().splitlines()
    assert lines[0] == "4 6" and [line.split()[0] for line in lines[1:]] == WORDS[:4]
    given = ["--dictionary", dictionary, "--source", "vectors", "--vectors", vectors]
    assert call("build_table", *given, "--output", table) == 0
    from fairseq.data import Dictionary

    found = load_table(table, Dictionary.load(str(dictionary)))
    # the words' rows in their directions; special symbols and padding have others
    torch.testing.assert_close(found[4:8], torch.nn.functional.normalize(rows[4:8]))


def test_rows_that_are_in_their_file_alone_are_refused(tmp_path, dictionary, capsys):
    path = checkpoint(tmp_path, torch.randn(9, 6), "decoder.embed_tokens.weight")
    state = torch.load(path, weights_only=False)
    state["model"]["decoder.continuous_output.projection.weight"] = torch.randn(6, 6)
    torch.save(state, path)
    given = ["--checkpoint", path, "--dictionary", dictionary, "--output", tmp_path / "rows.vec"]
    assert call("export_rows", *given) == 1 and not (tmp_path / "rows.vec").exists()
    assert "trained with --table-storage file" in capsys.readouterr().err


def test_rows_of_a_learned_table_are_what_it_decodes_with(tmp_path, dictionary):
    from fairseq.data import Dictionary

    symbols = Dictionary.load(str(dictionary))
    table = LearnedTable(torch.nn.Parameter(3 * torch.randn(9, 6)), symbols, "cosine", ema=0.5)
    with torch.no_grad():
        table.weight.add_(torch.randn(9, 6))  # the mean stays behind
    state = {f"decoder.continuous_output.table.{k}": v for k, v in table.state_dict().items()}
    state["decoder.embed_tokens.weight"] = table.weight.detach()
    torch.save({"model": state}, tmp_path / "c.pt")
    given = ["--checkpoint", tmp_path / "c.pt", "--dictionary", dictionary]
    assert call("export_rows", *given, "--output", tmp_path / "rows.vec") == 0
    lines = (tmp_path / "rows.vec").read_text().splitlines()[1:]
    found = torch.tensor([[float(x) for x in line.split()[1:]] for line in lines])
    torch.testing.assert_close(found, table.rows(torch.arange(4, 8)).detach())


def test_a_tables_rows_are_written(tmp_path, dictionary):
    table, vectors = tmp_path / "table.safetensors", tmp_path / "rows.vec"
    given = ["--dictionary", dictionary, "--output", table, "--source", "random", "--dim", 5]
    assert call("build_table", *given) == 0
    given = ["--table", table, "--dictionary", dictionary, "--output", vectors]
    assert call("export_rows", *given) == 0
    from fairseq.data import Dictionary

    rows = load_table(table, Dictionary.load(str(dictionary)))
    lines = [line.split() for line in vectors.read_text().splitlines()]
    assert lines[0] == ["4", "5"] and [line[0] for line in lines[1:]] == WORDS[:4]
    found = torch.tensor([[float(x) for x in line[1:]] for line in lines[1:]])
    assert torch.equal(found, rows[4:8])  # digits enough to be the same numbers


def test_bad_checkpoints_are_refused(tmp_path, dictionary, capsys):
    def message(path):
        output = tmp_path / "out.vec"
        given = ["--checkpoint", path, "--dictionary", dictionary, "--output", output]
        assert call("export_rows", *given) == 1 and not output.exists()
        return capsys.readouterr().err

    assert "no such file; train with" in message(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("x")
    assert "must be a checkpoint of fairseq, but " in message(tmp_path / "text.pt")
    path = checkpoint(tmp_path, torch.randn(8, 6))
    assert "must have a row for each of the 9 symbols" in message(path)
    path = checkpoint(tmp_path, torch.full((9, 6), float("nan")))
    assert "rows must be finite" in message(path)
    path = checkpoint(tmp_path, torch.randn(9, 6), "decoder.adaptive_softmax.head.weight")
    assert "must hold a target table or the layer of a softmax, but has neither" in message(path)
