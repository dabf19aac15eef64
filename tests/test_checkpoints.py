"""Checkpoints: safe to load, complete without the table's file, tied to their dictionary."""

import os
import shutil

import cli
import pytest
import torch
from decoding import Decoder, assert_same_hypotheses
from factory import make_criterion, make_dictionary
from fairseq.data import Dictionary

from fairseq_contout.models.transformer import ContinuousTransformerModel
from fairseq_contout.target_table import dictionary_signature

TABLE = "decoder.continuous_output.table."


def read(path):
    return torch.load(path, weights_only=True)


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_a_pickled_call_is_refused_and_does_not_run(corpus, trained, train, tmp_path):
    marker, bad = tmp_path / "it ran", tmp_path / "checkpoint_last.pt"

    def poison(place):
        state = read(trained("cosine"))
        if place == "cfg":
            state["cfg"]["model"].payload = Payload(marker)
        else:
            state[place]["payload"] = Payload(marker)
        torch.save(state, bad)

    refused = pytest.raises(Exception, match="Weights only load failed.*")
    for place in ("cfg", "model", "extra_state"):
        poison(place)
        with refused:
            cli.call("generate", corpus.data, "--path", bad)
        assert not marker.exists()
    for load in (
        lambda: cli.call("interactive", corpus.data, "--path", bad, stdin="x ba .\n"),
        lambda: ContinuousTransformerModel.from_pretrained(
            str(tmp_path), bad.name, str(corpus.data)
        ),
        lambda: train(tmp_path, "--criterion", "cosine", updates=300),  # resumes
    ):
        with refused:
            load()
        assert not marker.exists()
    # the payload is a live one: only weights_only holds it back
    torch.load(bad, weights_only=False)
    assert marker.exists()


def test_decoding_needs_no_table_file_and_no_folder(corpus, train, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy(corpus.table, "table.safetensors")
    options = ["--criterion", "cosine", "--decoder-input", "table"]
    train("model", *options, "--target-table", "table.safetensors", updates=2)
    rows = read("model/checkpoint_last.pt")["model"][TABLE + "weight"]
    before = cli.call("generate", corpus.data, "--path", "model/checkpoint_last.pt")

    shutil.copytree("model", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    after = cli.call("generate", corpus.data, "--path", "checkpoint_last.pt")
    assert len(cli.translations(after)) == 60
    assert cli.translations(after) == cli.translations(before)
    table = Decoder(corpus.data, "checkpoint_last.pt").table
    assert torch.equal(table.weight, rows) and rows.norm(dim=1).min() > 0.99


LSTM = ["--arch", "continuous_lstm", "--encoder-embed-dim", "64", "--decoder-embed-dim", "64"]
LSTM += ["--encoder-hidden-size", "32", "--decoder-hidden-size", "32"]


@pytest.mark.parametrize("options", [[], LSTM])
def test_decoding_needs_no_file_of_input_vectors(options, corpus, train, tmp_path):
    vectors = tmp_path / "words.vec"
    word = Dictionary.load(str(corpus.data / "dict.src.txt"))[4]
    vectors.write_text(f"1 64\n{word} " + " ".join(["0.5"] * 64) + "\n")
    given = [*options, "--criterion", "cosine", "--encoder-embed-path", vectors, "--lr", "1e-9"]
    train(tmp_path / "model", *given, updates=1)
    path = tmp_path / "model" / "checkpoint_last.pt"
    found = read(path)["model"]["encoder.embed_tokens.weight"][4]
    torch.testing.assert_close(found, torch.full((64,), 0.5))  # it did begin with the vector
    vectors.unlink()
    assert len(cli.translations(cli.call("generate", corpus.data, "--path", path))) == 60


def test_another_dictionary_of_the_same_size_is_refused(corpus, trained, tmp_path):
    data = shutil.copytree(corpus.data, tmp_path / "data")
    lines = (data / "dict.tgt.txt").read_text().splitlines()
    (data / "dict.tgt.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match="give the data folder whose dictionary") as error:
        cli.call("generate", data, "--path", trained("cosine"))
    for folder in (corpus.data, data):
        signature = dictionary_signature(Dictionary.load(str(folder / "dict.tgt.txt")))
        assert signature[:12] in str(error.value)


def negative_log_likelihood(output):
    bits = [bit for best in cli.translations(output).values() for bit in best[0].positional]
    return -sum(bits) / len(bits)


def test_the_scale_is_calibrated_and_kept(corpus, train, tmp_path):
    # validation batches of fewer than 256 tokens: all of them take part
    train(tmp_path, "--criterion", "cosine", "--batch-size-valid", 30, updates=40)
    checkpoint = tmp_path / "checkpoint_last.pt"
    assert read(checkpoint)["model"][TABLE + "_extra_state"].dtype == torch.float64
    scale = Decoder(corpus.data, checkpoint).table.scale
    assert scale != 16  # the default of the score

    def score(**overrides):
        options = ["--gen-subset", "valid", "--score-reference", "--model-overrides", overrides]
        return negative_log_likelihood(
            cli.call("generate", corpus.data, "--path", checkpoint, *options)
        )

    # decoding uses it, and no other explains the validation data better
    assert score() == pytest.approx(score(scale=scale), abs=1e-6)
    assert score() < min(score(scale=scale * 1.15), score(scale=scale / 1.15))


def average(paths):
    """fairseq's scripts/average_checkpoints.py in short: sums, divided by their number."""
    states = [read(path) for path in paths]
    averaged = {}
    for name in states[0]["model"]:
        total = sum(state["model"][name] for state in states)
        averaged[name] = total / len(states) if total.is_floating_point() else total // len(states)
    return {**states[0], "model": averaged}


def test_averaged_checkpoints_load(corpus, train, tmp_path):
    options = ["--criterion", "cosine", "--save-interval-updates", 4, "--lr", 0.003]
    train(tmp_path, *options, updates=12)
    paths = [tmp_path / f"checkpoint_1_{updates}.pt" for updates in (4, 8, 12)]
    torch.save(average(paths), tmp_path / "averaged.pt")
    averaged = Decoder(corpus.data, tmp_path / "averaged.pt")
    single = [Decoder(corpus.data, path) for path in paths]
    assert torch.equal(averaged.table.signature, single[0].table.signature)
    torch.testing.assert_close(averaged.table.weight, single[0].table.weight)
    assert averaged.table.calibration.tokens == single[0].table.calibration.tokens
    scales = [one.table.scale for one in single]
    assert min(scales) <= averaged.table.scale <= max(scales)
    output = cli.call("generate", corpus.data, "--path", tmp_path / "averaged.pt")
    assert len(cli.translations(output)) == 60


@pytest.mark.parametrize("precision", [(), ("--ema-fp32",)])
def test_an_average_over_updates_loads(precision, corpus, train, tmp_path):
    train(tmp_path, "--criterion", "cosine", "--store-ema", *precision, updates=5)
    state = read(tmp_path / "checkpoint_last.pt")
    ema = state["extra_state"]["ema_fp32_params" if precision else "ema"]
    model = Decoder(corpus.data, tmp_path / "checkpoint_last.pt").model
    weight = model.decoder.continuous_output.table.weight.clone()
    model.load_state_dict(ema, strict=True)
    torch.testing.assert_close(model.decoder.continuous_output.table.weight, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["cosine", "vmf", "l2", "power_spherical"])
def test_half_precision_decodes_as_full(name, dtype, corpus, trained):
    full, half = (Decoder(corpus.data, trained(name)) for _ in range(2))
    half.model.to(dtype)
    assert half.table.weight.dtype == dtype
    # what must not be rounded: the calibration and the signature
    assert half.table.scale == full.table.scale != 1
    assert torch.equal(half.table.signature, full.table.signature)
    expected = full.generate(beam=2)
    dense = half.generate(beam=2)
    same = [a[0]["tokens"].tolist() == b[0]["tokens"].tolist() for a, b in zip(expected, dense)]
    assert sum(same) >= 11  # of 12
    assert all(h["score"].isfinite() and h["score"].dtype == torch.float32 for h, *_ in dense)
    assert_same_hypotheses(dense, half.generate(5, beam=2))

    again = Decoder(corpus.data, trained(name))
    again.table.calibration.reset()
    again.model.load_state_dict(half.model.state_dict())
    assert again.table.scale == full.table.scale


def test_half_precision_from_the_command_line(corpus, trained):
    output = cli.call("generate", corpus.data, "--path", trained("vmf"), "--fp16")
    assert cli.token_accuracy(output) >= 0.95


@pytest.mark.parametrize("first, then", [("cosine", "contrastive"), ("contrastive", "hybrid")])
def test_a_model_goes_on_with_another_loss(first, then, trained, train, tmp_path):
    begin = ["--finetune-from-model", trained(first), "--criterion", then]
    output = train(tmp_path, *begin, updates=2)
    assert "has another criterion's state than" in output and "begins anew, " in output
    assert "scale.log_scale" in " ".join(read(tmp_path / "checkpoint_last.pt")["criterion"])


def test_a_state_that_lacks_something_is_refused(caplog):
    criterion = make_criterion("contrastive", make_dictionary(), sampled_negatives=8)
    state = criterion.state_dict()
    criterion.load_state_dict(state)
    assert "another criterion" not in caplog.text
    del state["term.observed"]
    with pytest.raises(RuntimeError, match="Missing key.*term.observed"):
        criterion.load_state_dict(state)


def test_parts_of_a_state_that_are_there_are_taken(caplog):
    dictionary = make_dictionary()
    hybrid = make_criterion("hybrid", dictionary)
    with torch.no_grad():
        hybrid.scale.log_scale.fill_(0.5)
    both = make_criterion("hybrid", dictionary, contrastive_weight=1.0, sampled_negatives=8)
    both.load_state_dict(hybrid.state_dict())
    assert both.scale.log_scale == 0.5 and both.contrastive.scale.log_scale == 0
    assert "contrastive begins anew, nothing is left out" in caplog.text
    term = make_criterion("contrastive", dictionary, sampled_negatives=8)
    term.load_state_dict(both.state_dict())
    assert "term begins anew, contrastive, observed, scale is left out" in caplog.text
