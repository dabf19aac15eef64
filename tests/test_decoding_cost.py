"""benchmarks/decoding_cost.py at small sizes: what it decodes and counts, not how fast it is."""

import json
import re
import shutil
import sys
from pathlib import Path

import faiss
import preprocess_tools
import pytest
import torch
from searching import TinyModel

from fairseq_contout.scores import make_query

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import decoders  # noqa: E402
import decoding_cost  # noqa: E402

SIZES = ["--vocab", "300", "--dim", "16", "--layers", "1", "--length", "3", "--sentences", "5"]
SIZES += ["--batch", "3", "--repeats", "2", "--beam", "2"]


def test_random_weights(tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    methods = ["softmax", "dense", "exact", "exact-int8", "hnsw", "ivf", "ivfpq", "shortlist"]
    looks = ["--probes", "1", "64", "--ef", "400", "--cache", str(tmp_path / "cache")]
    files = ["--json", str(tmp_path / "rows"), "--plot", str(tmp_path / "rows.png")]
    decoding_cost.main([*SIZES, "--methods", *methods, *looks, *files])
    rows = {row["method"]: row for row in json.loads((tmp_path / "rows").read_text())}
    looked = ["hnsw-400", "ivf-1", "ivf-64", "ivfpq-1", "ivfpq-64"]
    assert list(rows) == [*methods[:4], *looked, "shortlist"]
    assert rows["softmax"]["ratio"] == 1 and all(row["seconds"] > 0 for row in rows.values())
    assert {row["vocab"] for row in rows.values()} == {300}
    assert {row["weights"] for row in rows.values()} == {"random"}
    # nothing is missed by these; the shortlist of so few words holds all of them
    for name in ("dense", "exact", "hnsw-400", "ivf-64", "ivfpq-64", "shortlist"):
        assert rows[name]["agreement"] == 1, name
        assert name == "dense" or rows[name]["recall_at_10"] == 1, name
    # one list of 65 finds little
    assert rows["ivf-1"]["recall_at_10"] < rows["ivf-1"]["recall_at_1"] < 1
    assert rows["ivf-1"]["agreement"] < 1
    assert rows["softmax"]["agreement"] is rows["dense"]["recall_at_1"] is None
    # an index is built once for all of its rows, and kept
    assert len([*(tmp_path / "cache").iterdir()]) == 3
    assert rows["ivf-1"]["ready_seconds"] > 0 and rows["ivf-64"]["ready_seconds"] is None
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "hnsw-400              300" in capsys.readouterr().out


def test_frequent_words_are_looked_at_beside_an_index(tmp_path):
    found = {}
    for frequent in ([], ["--frequent", "0"], ["--frequent", "250"]):
        files = ["--methods", "exact", "ivf", "--probes", "1", "--json", str(tmp_path / "rows")]
        decoding_cost.main([*SIZES, *files, *frequent])
        exact, ivf = json.loads((tmp_path / "rows").read_text())
        assert exact["frequent"] is None
        found[ivf["frequent"]] = ivf["recall_at_10"]
    assert list(found) == [29, 0, 250] and found[0] < 0.5 < found[250] < 1


def test_a_trained_model(tmp_path, corpus, trained, capsys):
    text = [corpus.raw / f"train.{side}" for side in ("src", "tgt")]
    dictionaries = [corpus.data / f"dict.{side}.txt" for side in ("src", "tgt")]
    lexicon = ["--output", tmp_path / "lexicon", "--words", 2, "--frequent", 10]
    given = ["--input", *text, "--dictionary", *dictionaries, *lexicon]
    assert preprocess_tools.call("build_lexicon", *given) == 0
    options = ["--checkpoint", trained("cosine"), "--data", corpus.data, "--sentences", 20]
    options += ["--batch", 8, "--repeats", 1, "--lexicon", tmp_path / "lexicon"]
    methods = ["--methods", "softmax", "dense", "exact", "ivf", "shortlist"]
    published = tmp_path / "test.en"
    published.write_text((corpus.raw / "test.tgt").read_text().replace("@@ ", "").upper())
    found = []
    for more in ([], ["--reference", published, "--lowercase"]):
        files = ["--json", tmp_path / "rows"]
        decoding_cost.main([str(x) for x in (*options, *methods, *files, *more)])
        rows = {row["method"]: row for row in json.loads((tmp_path / "rows").read_text())}
        assert list(rows) == ["softmax", "dense", "exact", "ivf-32", "shortlist"]
        assert {row["sentences"] for row in rows.values()} == {20}
        assert [row["weights"] for row in rows.values()] == ["random", *["trained"] * 4]
        assert "bleu" not in rows["softmax"]
        for name in ("dense", "exact", "ivf-32"):
            assert rows[name]["agreement"] == 1 and rows[name]["bleu"] == rows["exact"]["bleu"]
        assert rows["exact"]["bleu"] > 80 and rows["shortlist"]["bleu"] > 60
        assert rows["shortlist"]["recall_at_10"] < rows["shortlist"]["recall_at_1"]
        found.append(rows)
    tokens, detokenised = (rows["exact"]["bleu_signature"] for rows in found)
    assert "tok:none" in tokens and "tok:13a" in detokenised and "case:lc" in detokenised
    published.write_text("one line\n")
    with pytest.raises(ValueError, match="must have a line for each of the 20 .* but has 1; give"):
        decoding_cost.main([str(x) for x in (*options, *methods, *more)])


def test_a_table_that_is_in_a_file_of_its_own(tmp_path, corpus, train):
    table, moved = tmp_path / "table.safetensors", tmp_path / "moved.safetensors"
    shutil.copyfile(corpus.table, table)
    kept = ["--target-table", table, "--table-storage", "file", "--criterion", "cosine"]
    train(tmp_path / "model", *kept, updates=1)
    table.rename(moved)
    options = ["--checkpoint", tmp_path / "model" / "checkpoint_last.pt", "--data", corpus.data]
    options += ["--table", moved, "--methods", "exact", "--sentences", "3", "--repeats", "1"]
    decoding_cost.main([*map(str, options), "--json", str(tmp_path / "rows")])
    (row,) = json.loads((tmp_path / "rows").read_text())
    assert row["agreement"] == row["recall_at_10"] == 1


def test_the_softmax_takes_as_many_steps_as_exact_search(tmp_path):
    tiny = TinyModel(tmp_path)
    arguments = decoding_cost.parse(["--beam", "4"])
    setting = decoders.Setting(
        tiny.model, None, tiny.dictionary, [tiny.batch], {"max_len_b": 9}, None, print
    )
    steps = []

    def count(generator):
        forward = generator.model.forward_decoder

        def counted(tokens, *rest):
            steps[-1].append(len(tokens))
            return forward(tokens, *rest)

        steps.append([])
        generator.model.forward_decoder = counted
        return decoders.decode(generator, setting.batches)[1]

    exact = count(decoders.make_generator("exact", setting, arguments))
    lengths = decoding_cost.lengths_of(exact)
    assert len(set(lengths.tolist())) > 2
    # any model with probabilities over all words stands for a softmax
    rival = setting._replace(softmax=tiny.model)
    forced = count(decoders.make_generator("softmax", rival, arguments, lengths))
    assert steps[0] == steps[1]
    for number, hypotheses in forced.items():
        assert {len(h["tokens"]) - 1 for h in hypotheses} == {int(lengths[number])}
        assert all(h["tokens"][-1] == 2 and (h["tokens"][:-1] != 2).all() for h in hypotheses)


def test_recall_counts_what_was_not_found_as_missed(tmp_path):
    tiny = TinyModel(tmp_path)
    searcher = tiny.build({"knn_search": "hnsw", "hnsw_ef": 400}, beam=4).slots.searcher
    hidden = torch.randn(30, tiny.table.dim, generator=torch.Generator().manual_seed(2))
    recall, query = decoders.Recall(), make_query(hidden, tiny.table.score, 5.0)
    with recall.listening(searcher):
        searcher.search(query, 12)
    assert recall.shares(tiny.table) == (1, 1)
    recall.found[0][:, 0] = -1
    assert recall.shares(tiny.table) == (0, pytest.approx(0.9))
    assert "search" not in vars(searcher)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--vocab", "5"], "--vocab: must be an integer of at least 100, but is '5'"),
        (["--repeats", "0"], "--repeats: must be an integer of at least 1, but is '0'"),
        (["--ef", "8", "0"], "--ef: must be an integer of at least 1, but is '0'"),
        (["--checkpoint", "x"], "--checkpoint needs --data"),
        (["--data", "x"], "--data belongs to a trained model, but there is no --checkpoint; leave"),
        (["--checkpoint", "x", "--dim", "8"], "--dim belongs to random weights, but"),
        (["--checkpoint", "x", "--data", "x"], "--methods shortlist needs --lexicon FILE"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    with pytest.raises(SystemExit):
        decoding_cost.parse(options)
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error)


def test_threads_are_those_of_torch_and_faiss():
    decoding_cost.main([*SIZES, "--methods", "ivf", "--threads", "1"])
    assert torch.get_num_threads() == faiss.omp_get_max_threads() == 1


def test_the_rival_of_an_architecture_that_fairseq_does_not_have():
    from argparse import Namespace

    from decoding_settings import _softmax_like
    from factory import FakeTask, make_dictionary
    from fairseq.models import ARCH_CONFIG_REGISTRY
    from fairseq.models.lstm import LSTMModel

    arch, dictionary = "continuous_lstm_kumar2019", make_dictionary()
    sizes = {"encoder_hidden_size": 6, "decoder_hidden_size": 12}
    args = Namespace(arch=arch, criterion="cosine", **sizes)
    ARCH_CONFIG_REGISTRY[arch](args)
    model = _softmax_like(args, FakeTask(dictionary), 1)
    assert type(model) is LSTMModel and not model.training
    assert model.decoder.fc_out.weight.shape == (len(dictionary), 1024)
    assert len(model.decoder.layers) == 2 and args.arch == arch
