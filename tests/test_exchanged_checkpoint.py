"""A checkpoint whose table is another: decoded as it is, and trained on, in part or as a whole."""

from types import SimpleNamespace

import cli
import pytest
import torch
from conftest import QUICK
from fairseq.data import Dictionary
from preprocess_tools import call, fails
from test_new_table import WEIGHT, assert_same, decode, other_vocabulary, write

import fairseq_contout  # noqa: F401  (lets torch >= 2.6 load fairseq's checkpoints)
from fairseq_contout.models.freezing import freeze_parts

#: model → what fine-tuning needs beside the table
OPTIONS = {
    "table-input": "--criterion cosine --decoder-input table",
    "cosine": "--criterion cosine",
    "contrastive-learned": "--criterion contrastive",
}


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def variety(corpus, trained, tmp_path_factory):
    """The copy task in capitals, a word more in its dictionary: ``data`` and each model's table."""
    folder = tmp_path_factory.mktemp("variety")
    for part in ("train", "valid", "test"):
        text = (corpus.raw / f"{part}.tgt").read_text()
        (folder / f"{part}.tgt").write_text(text.upper())
        (folder / f"{part}.src").write_text((corpus.raw / f"{part}.src").read_text())
    tables = {}
    for model in OPTIONS:
        tables[model] = folder / f"{model}.safetensors"
        other_vocabulary(corpus, trained(model), tables[model], str.upper)
    prefixes = [f"--{part}pref={folder / part}" for part in ("train", "valid", "test")]
    cli.call(
        "preprocess", "-s", "src", "-t", "tgt", *prefixes, "--destdir", folder / "data",
        "--srcdict", corpus.data / "dict.src.txt", "--tgtdict", folder / "cosine.dict.txt",
    )  # fmt: skip
    return SimpleNamespace(data=folder / "data", tables=tables)


def arguments(corpus, checkpoint, table, output, *options):
    return [
        "--checkpoint", checkpoint, "--data", corpus.data, "--new-table", table,
        "--output", output, *options,
    ]  # fmt: skip


def exchanged(corpus, trained, variety, folder, model):
    output = folder / f"{model}.pt"
    given = arguments(corpus, trained(model), variety.tables[model], output)
    assert call("exchange_table", *given, "--new-words-as-unk") == 0
    return output


def tune(variety, model, start, folder, *options, updates=2, lr="0.01"):
    cli.call(
        "train", variety.data, *QUICK.split(), *OPTIONS[model].split(), "--save-dir", folder,
        "--max-update", updates, "--total-num-update", updates, "--warmup-updates", 0, "--lr", lr,
        "--target-table", variety.tables[model], "--finetune-from-model", start, *options,
    )  # fmt: skip
    return read(folder / "checkpoint_last.pt")["model"]


@pytest.mark.parametrize("model", list(OPTIONS))
def test_it_decodes_as_the_new_table_does(model, corpus, trained, variety, tmp_path):
    start = exchanged(corpus, trained, variety, tmp_path, model)
    options = ["--new-table", variety.tables[model], "--new-words-as-unk"]
    expected = decode(corpus, trained(model), *options)
    found = cli.call("generate", variety.data, "--path", start, "--beam", 5)
    assert_same(expected, found)
    if model != "cosine":
        assert cli.token_accuracy(found) > 0.9  # references are of the new dictionary
    # the criterion's counts are of the new words, its learned scale the trained one
    assert read(trained(model))["last_optimizer_state"] and not read(start)["last_optimizer_state"]
    before, after = read(trained(model))["criterion"], read(start)["criterion"]
    if model == "contrastive-learned":
        assert before.keys() == after.keys()
        size = len(Dictionary.load(str(variety.data / "dict.tgt.txt")))
        assert after["term.observed"].tolist() == [0] * size
        scale = "term.scale.log_scale"
        assert after[scale] == before[scale] != 0


#: options of trainings whose checkpoints say something that is true of the new table no more
OTHERS = {
    "shared": "--criterion contrastive --target-table learned --share-all-embeddings "
    "--share-decoder-input-output-embed --table-lr-scale 0.5 --table-ema 0.9",
    "directions": "--criterion contrastive --target-table learned --share-all-embeddings "
    "--share-decoder-input-output-embed --fix-norm --table-lr-scale 0.5",
    "encoder": "--criterion cosine --target-table {table} --decoder-input encoder",
    "file": "--criterion cosine --target-table {table} --decoder-input table --table-storage file",
    "part": "--criterion contrastive --target-table learned --decoder-input table "
    "--freeze decoder.continuous_output.table",
}


@pytest.fixture(scope="module")
def joined(corpus, tmp_path_factory):
    """The copy task with one dictionary of both sides, and a table of it: a folder."""
    folder = tmp_path_factory.mktemp("joined")
    prefixes = [f"--{part}pref={corpus.raw / part}" for part in ("train", "valid", "test")]
    data = ["--joined-dictionary", "--destdir", folder / "data"]
    cli.call("preprocess", "-s", "src", "-t", "tgt", *prefixes, *data)
    cli.write_table(folder / "table.safetensors", folder / "data" / "dict.tgt.txt", dim=64)
    return folder


@pytest.mark.parametrize("name", list(OTHERS))
def test_what_no_longer_holds_is_forgotten(name, joined, tmp_path):
    options = OTHERS[name].format(table=joined / "table.safetensors").split()
    start, output = tmp_path / "checkpoint_last.pt", tmp_path / "out.pt"
    cli.call(
        "train", joined / "data", *QUICK.split(), *options, "--save-dir", tmp_path,
        "--max-update", 30, "--total-num-update", 30,
    )  # fmt: skip
    dictionary = Dictionary.load(str(joined / "data" / "dict.tgt.txt"))
    order = [i for i in range(len(dictionary) - 1, 3, -1) if "madeup" not in dictionary[i]]
    rows = torch.nn.functional.normalize(torch.randn(len(order), 64))
    table = write(tmp_path / "new.safetensors", [dictionary[i] for i in order], rows)
    given = ["--checkpoint", start, "--data", joined / "data", "--new-table", table]
    assert call("exchange_table", *given, "--output", output) == 0
    # another folder, with the new dictionary of the targets
    data = tmp_path / "data"
    data.mkdir()
    for file in (joined / "data").glob("test.src-tgt.src.*"):
        (data / file.name).symlink_to(file)
    (data / "dict.src.txt").symlink_to(joined / "data" / "dict.src.txt")
    (data / "dict.tgt.txt").symlink_to(tmp_path / "new.dict.txt")
    task = ["--task", "continuous_translation", "--knn", 10, "--beam", 5]
    expected = cli.call("generate", joined / "data", "--path", start, *task, "--new-table", table)
    start.unlink()
    assert_same(expected, cli.call("generate", data, "--path", output, *task))


@pytest.mark.parametrize("model", list(OPTIONS))
def test_a_training_begins_with_it(model, corpus, trained, variety, tmp_path):
    start = exchanged(corpus, trained, variety, tmp_path, model)
    found = tune(variety, model, start, tmp_path / "still", lr="1e-9")
    expected, old = read(start)["model"], read(trained(model))["model"]
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if "_extra_state" not in name and "version" not in name:
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    # all but what is of the words
    of_words = "decoder.embed_tokens.weight", "decoder.continuous_output.table."
    body = {name for name in old if not name.startswith(of_words)}
    assert len(body) > 30 and body == {n for n in expected if not n.startswith(of_words)}
    assert all(torch.equal(expected[name], old[name]) for name in body)
    # at these the model learned to point, whatever the new file has
    trained_rows = torch.nn.functional.normalize(old[WEIGHT][:4].float())
    torch.testing.assert_close(found[WEIGHT][:4], trained_rows)


def test_rows_may_be_trained_on(corpus, trained, variety, tmp_path):
    start = exchanged(corpus, trained, variety, tmp_path, "contrastive-learned")
    table = variety.tables["contrastive-learned"]
    learned = ["--target-table", "learned", "--table-init", table]
    found = tune(variety, "contrastive-learned", start, tmp_path / "model", *learned)
    before, after = (
        torch.nn.functional.normalize(state[WEIGHT]) for state in (read(start)["model"], found)
    )
    cosines = (before * after).sum(dim=1)[2:]  # what is shared with embeddings has no <pad>
    assert cosines.min() > 0.8 and (cosines < 0.9999).any()


def test_parts_stay_as_they_are(corpus, trained, variety, tmp_path):
    start = exchanged(corpus, trained, variety, tmp_path, "table-input")
    parts = ["--freeze", "encoder,decoder.layers"]
    found = tune(variety, "table-input", start, tmp_path / "part", *parts)
    before = read(start)["model"]
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert "decoder.embed_tokens.projection.weight" in changed
    assert "decoder.continuous_output.projection.weight" in changed
    assert not any(name.startswith(("encoder.", "decoder.layers.")) for name in changed)
    whole = tune(variety, "table-input", start, tmp_path / "whole")
    assert not torch.equal(
        whole["encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"]
    )
    # further training, and decoding, of what was frozen
    again = tune(variety, "table-input", start, tmp_path / "part", *parts, updates=3)
    assert torch.equal(again["encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"])
    found = cli.call("generate", variety.data, "--path", tmp_path / "part" / "checkpoint_last.pt")
    assert len(cli.translations(found)) == 60


@pytest.mark.parametrize("part", ["one", "other", "other.inner"])
def test_what_parts_share_stays_as_it_is_in_all_of_them(part):
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(2, 2), "other": torch.nn.Module()})
    model["rest"], model["other"].inner = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    model["other"].inner.weight = model["one"].weight
    freeze_parts(SimpleNamespace(freeze=part), model)
    assert not model["one"].weight.requires_grad
    assert model["one"].bias.requires_grad == (part != "one")
    assert all(value.requires_grad for value in model["rest"].parameters())


def test_what_cannot_be_frozen_is_refused(train, tmp_path):
    cases = (
        ("encoder,deoder", "'deoder' has no parameters; its parts are encoder, decoder, encoder.e"),
        ("encoder,", "'' has no parameters"),
        ("encoder.lay", "'encoder.lay' has no parameters"),
        ("encoder,decoder", "must leave something to train"),
    )
    for parts, message in cases:
        with pytest.raises(ValueError, match=message):
            train(tmp_path, "--criterion", "cosine", "--freeze", parts, updates=1)


def test_bad_input_is_one_line_and_leaves_no_file(
    corpus, trained, variety, english, language_model, tmp_path, capsys
):
    model, table = trained("cosine"), variety.tables["cosine"]

    def message(checkpoint=model, new=table, output="out.pt", *options):
        given = arguments(corpus, checkpoint, new, tmp_path / output, *options)
        return fails(capsys, tmp_path, "exchange_table", *given)

    assert "none.pt: no such file" in message(tmp_path / "none.pt")
    assert "must be a checkpoint of fairseq" in message(table)
    assert "the folder" in message(output="no/out.pt")
    assert "none.dict.txt: no such file" in message(new=tmp_path / "none.safetensors")
    assert "that the decoder's own embeddings do not have" in message()
    other = write(tmp_path / "d.safetensors", ["a", "b"], torch.eye(2, 8))
    assert "rows of the dimension that the model predicts, 32" in message(new=other)
    data = ["--data", variety.data.parent]
    assert "has no dict.LANG.txt" in message(model, table, "out.pt", *data)
    language = language_model("transformer-untied")
    assert "must be of a translation model" in message(language)
    assert "must not be overwritten" in message(other, output="d.safetensors", new=other)
    assert "must not be overwritten" in message(other, output="d.dict.txt", new=other)


def test_rows_of_words_must_be_those_of_the_table(corpus, trained, variety, tmp_path):
    start = exchanged(corpus, trained, variety, tmp_path, "table-input")
    dictionary = Dictionary.load(str(variety.data / "dict.tgt.txt"))
    other = cli.write_table(tmp_path / "other.safetensors", dictionary, seed=5)
    with pytest.raises(Exception, match="Cannot load model parameters") as error:
        tune(variety, "table-input", start, tmp_path / "x", "--target-table", other)
    assert "other rows than those of --target-table" in str(error.value.__context__)
