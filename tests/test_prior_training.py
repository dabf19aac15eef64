"""``--unigram-prior`` through fairseq's commands: counted, calibrated, kept, decoded with."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cli
import pytest
import torch
from decoding import Decoder, assert_same_hypotheses
from fairseq.data import Dictionary
from language_data import load, perplexity
from language_data import train as train_language_model
from preprocess_tools import call
from test_language_models import evaluate
from test_new_table import assert_same, decode, other_vocabulary, rows_of, write

TABLE = "decoder.continuous_output.table."
COUNTS = TABLE + "prior._extra_state"
#: two passes over the text; few enough updates that words are still mixed up; validation batches of
#: fewer than 256 tokens, so that all of them take part in the calibration
UPDATES = 64
OPTIONS = ["--criterion", "cosine", "--decoder-input", "table", "--lr", "0.002"]
OPTIONS += ["--batch-size-valid", "30"]


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """Return the checkpoints and what was printed of one training without a prior and one with."""
    folder, found = tmp_path_factory.mktemp("prior"), {}
    for name, more in (("plain", []), ("prior", ["--unigram-prior"])):
        output = train(folder / name, *OPTIONS, *more, updates=UPDATES)
        found[name] = folder / name / "checkpoint_last.pt", output
    return found


def logged(output, name):
    return float(re.findall(rf"valid on 'valid' subset .*\| {name} (\S+)", output)[-1])


def test_training_is_the_same_and_validation_likelier(runs):
    (plain, before), (prior, after) = runs["plain"], runs["prior"]
    states = read(plain)["model"], read(prior)["model"]
    assert {*states[1]} - {*states[0]} == {COUNTS} and not any("prior" in key for key in states[0])
    assert states[0][TABLE + "_extra_state"].shape == (16 + 1 + 37,)
    for name, value in states[0].items():
        assert name == TABLE + "_extra_state" or torch.equal(value, states[1][name]), name
    for name in ("loss", "accuracy", "cosine"):
        assert logged(before, name) == logged(after, name)
    assert logged(after, "nll_loss") < logged(before, "nll_loss") - 0.05
    assert 0 < logged(after, "prior_weight") <= 1 and "prior_weight" not in before


def test_counts_are_those_of_the_text(corpus, runs):
    state = read(runs["prior"][0])["model"][COUNTS]
    assert state.dtype == torch.float64
    dictionary = Dictionary.load(str(corpus.data / "dict.tgt.txt"))
    lines = (corpus.raw / "train.tgt").read_text().splitlines()
    words = Counter(word for line in lines for word in line.split())
    words["</s>"] = len(lines)
    counts = {dictionary[i]: int(count) for i, count in enumerate(state) if count}
    assert counts == {word: 2 * count for word, count in words.items()}


def score(corpus, checkpoint, **overrides):
    output = cli.call(
        "generate", corpus.data, "--path", checkpoint, "--gen-subset", "valid",
        "--score-reference", "--model-overrides", overrides,
    )  # fmt: skip
    bits = [bit for best in cli.translations(output).values() for bit in best[0].positional]
    return -sum(bits) / len(bits)


def test_decoding_has_the_probabilities_of_validation(corpus, runs):
    (plain, before), (prior, after) = runs["plain"], runs["prior"]
    # what is logged is of the grid's best point, what decoding takes lies between its points
    assert -0.05 < score(corpus, prior) - logged(after, "nll_loss") < 0.002
    # without: those of the training without
    without = score(corpus, prior, unigram_prior=False)
    assert without == pytest.approx(score(corpus, plain), abs=1e-3)
    assert -0.05 < without - logged(before, "nll_loss") < 0.002
    # a weight belongs to a scale
    scale = Decoder(corpus.data, prior).table.scale
    table = Decoder(corpus.data, prior, scale=scale / 2).table
    assert table.scale == scale / 2 and 0 < table.prior_weight < 1
    assert table.prior_weight != Decoder(corpus.data, prior).table.prior_weight


def test_one_share_for_all_words_that_were_seen(corpus, runs, train, tmp_path):
    options = [*OPTIONS, "--unigram-prior", "seen"]
    output = train(tmp_path / "seen", *options, updates=UPDATES)
    checkpoint, (prior, after) = tmp_path / "seen" / "checkpoint_last.pt", runs["prior"]
    assert logged(output, "loss") == logged(after, "loss")
    table = Decoder(corpus.data, checkpoint).table
    assert table.prior.kind == "seen" and table.prior.counts.equal(
        Decoder(corpus.data, prior).table.prior.counts
    )
    words = table.log_prior()[table.emittable & table.prior.counts.bool()]
    assert words.unique().numel() == 1
    assert -0.05 < score(corpus, checkpoint) - logged(output, "nll_loss") < 0.002
    with pytest.raises(ValueError, match="--unigram-prior must be counts"):
        Decoder(corpus.data, prior, unigram_prior="seen")


def test_all_ways_of_decoding_agree(corpus, runs):
    decoder = Decoder(corpus.data, runs["prior"][0])
    dense = decoder.generate(beam=5)
    assert_same_hypotheses(dense, decoder.generate(10, beam=5))
    path = ["--path", runs["prior"][0], "--beam", 5]
    expected = cli.call("generate", corpus.data, *path)
    sparse = ["--task", "continuous_translation", "--knn", 10]
    faiss = ["--knn-search", "ivf", "--ivf-lists", 4, "--ivf-probes", 4]
    for options in (sparse, [*sparse, *faiss], [*sparse, "--knn-rows", "int8"]):
        loose = 2e-2 if "int8" in options else 1e-3
        found = cli.translations(cli.call("generate", corpus.data, *path, *options))
        for sentence, best in cli.translations(expected).items():
            assert [t.text for t in best] == [t.text for t in found[sentence]]
            for a, b in zip(best, found[sentence]):
                assert a.positional == pytest.approx(b.positional, abs=loose)
    plain = cli.translations(cli.call("generate", corpus.data, "--path", runs["plain"][0]))
    assert any(best[0] != plain[s][0] for s, best in cli.translations(expected).items())


def test_a_table_of_other_words(corpus, runs, tmp_path):
    checkpoint = runs["prior"][0]
    # the same words in another order, with the counts that they had
    table = other_vocabulary(corpus, checkpoint, tmp_path / "same.safetensors")
    assert_same(decode(corpus, checkpoint), decode(corpus, checkpoint, "--new-table", table))
    # further words at the rows of frequent ones: never seen, so never before those
    dictionary, rows = Dictionary.load(str(corpus.data / "dict.tgt.txt")), rows_of(checkpoint)
    words = [i for i in range(4, len(dictionary)) if "madeup" not in dictionary[i]]
    twins = [f"{dictionary[i]}2" for i in words[:5]]
    symbols = [*twins, *[dictionary[i] for i in words]]
    table = write(tmp_path / "more.safetensors", symbols, rows[[*words[:5], *words]])
    found = cli.translations(decode(corpus, checkpoint, "--new-table", table))
    texts = {t.text for best in found.values() for t in best[:1]}
    assert not any(twin in text.split() for text in texts for twin in twins)
    twin = ["--model-overrides", {"unigram_prior": False}]
    without = decode(corpus, checkpoint, "--new-table", table, *twin)
    assert any(t in without.split() for t in twins)
    # a checkpoint with that table
    start = tmp_path / "start.pt"
    given = ["--checkpoint", checkpoint, "--data", corpus.data, "--new-table", table]
    assert call("exchange_table", *given, "--output", start) == 0
    new = Dictionary.load(str(tmp_path / "more.dict.txt"))
    before, after = read(checkpoint)["model"][COUNTS], read(start)["model"][COUNTS]
    assert len(after) == len(new)
    for i, count in enumerate(after):
        known = new[i] in dictionary
        assert count == (before[dictionary.index(new[i])] if known else 0)
    prefixes = [f"--{part}pref={corpus.raw / part}" for part in ("train", "valid", "test")]
    data = tmp_path / "data"
    cli.call(
        "preprocess", "-s", "src", "-t", "tgt", *prefixes, "--destdir", data, "--srcdict",
        corpus.data / "dict.src.txt", "--tgtdict", tmp_path / "more.dict.txt",
    )  # fmt: skip
    again = cli.call("generate", data, "--path", start, "--beam", 5)
    assert_same(decode(corpus, checkpoint, "--new-table", table), again)


def test_a_training_goes_on_counting_and_another_begins_anew(train, corpus, tmp_path):
    options = [*OPTIONS, "--unigram-prior", "--validate-interval", 1]

    def counts(folder):
        return read(tmp_path / folder / "checkpoint_last.pt")["model"][COUNTS]

    train(tmp_path / "parts", *options, updates=5, total=9)
    assert counts("parts").sum() > 0
    train(tmp_path / "parts", *options, updates=9)
    train(tmp_path / "whole", *options, updates=9)
    assert counts("parts").equal(counts("whole"))
    first = tmp_path / "whole" / "checkpoint_last.pt"
    tune = [*options, "--finetune-from-model", first]
    train(tmp_path / "tuned", *tune, updates=5, total=9)
    train(tmp_path / "five", *options, updates=5, total=9)
    assert counts("tuned").sum() == counts("five").sum() < counts("whole").sum()
    # what was trained without has nothing to begin with
    train(tmp_path / "plain", *OPTIONS, updates=2)
    plain = tmp_path / "plain" / "checkpoint_last.pt"
    with pytest.raises(ValueError, match="--unigram-prior needs the counts .* has none"):
        Decoder(corpus.data, plain, unigram_prior=True)


def test_averages_keep_counts_and_calibration(train, corpus, tmp_path):
    options = [*OPTIONS, "--unigram-prior", "--save-interval-updates", 20, "--store-ema"]
    train(tmp_path, *options, updates=40)
    paths = [tmp_path / "checkpoint_1_20.pt", tmp_path / "checkpoint_2_40.pt"]
    script = Path(__file__).resolve().parent.parent / "examples" / "lib" / "average.py"
    command = [sys.executable, script, "--output", tmp_path / "mean.pt", *paths]
    subprocess.run([str(word) for word in command], check=True)
    mean = Decoder(corpus.data, tmp_path / "mean.pt").table
    single = [Decoder(corpus.data, path).table for path in paths]
    both = single[0].prior.counts + single[1].prior.counts
    assert (2 * mean.prior.counts - both).abs().max() <= 1 and both.sum() > 0
    weights = [table.prior_weight for table in single]
    assert min(weights) - 0.1 <= mean.prior_weight <= max(weights) + 0.1
    model = Decoder(corpus.data, paths[1]).model
    model.load_state_dict(read(paths[1])["extra_state"]["ema"], strict=True)
    assert model.decoder.continuous_output.table.prior.counts.sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decodes_as_full(dtype, corpus, runs):
    full, half = (Decoder(corpus.data, runs["prior"][0]) for _ in range(2))
    half.model.to(dtype)
    assert half.table.prior.counts.equal(full.table.prior.counts)
    assert half.table.prior_weight == full.table.prior_weight
    assert_same_hypotheses(half.generate(beam=2), half.generate(5, beam=2))


@pytest.mark.parametrize("criterion", ["contrastive", "hybrid"])
def test_losses_are_those_without(criterion, train, tmp_path):
    options = ["--criterion", criterion, "--target-table", "learned", "--batch-size-valid", 30]
    options += ["--share-decoder-input-output-embed", "--lr", 0.003]
    outputs = [
        train(tmp_path / "plain", *options, updates=10),
        train(tmp_path / "prior", *options, "--unigram-prior", updates=10),
    ]
    states = [read(tmp_path / n / "checkpoint_last.pt")["model"] for n in ("plain", "prior")]
    for name, value in states[0].items():
        assert name == TABLE + "_extra_state" or torch.equal(value, states[1][name]), name
    assert logged(outputs[0], "loss") == logged(outputs[1], "loss")
    assert logged(outputs[1], "nll_loss") <= logged(outputs[0], "nll_loss") + 0.001


@pytest.mark.parametrize("name", ["transformer-untied", "lstm-l2", "transformer-vmf"])
def test_perplexity_of_a_language_model_is_that_of_every_token(name, english, language_model):
    checkpoint = language_model(name, "--unigram-prior")
    model, task = load(checkpoint, english)
    assert model.decoder.continuous_output.table.prior_weight > 0
    found = evaluate(english, checkpoint)
    assert found == pytest.approx(perplexity(model, task, english), rel=1e-3)
    assert found < 0.9 * evaluate(english, language_model(name))


def test_a_masked_language_model(english, tmp_path):
    output = train_language_model(english, tmp_path, "masked", "--unigram-prior")
    state = read(tmp_path / "checkpoint_last.pt")["model"]
    assert state["encoder.continuous_output.table.prior._extra_state"].sum() > 100
    assert 0 <= logged(output, "prior_weight") <= 1
