"""Decoding with another target table: other words, more of them, read back and scored."""

import shutil

import cli
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary

from fairseq_contout.kept_table import KeptTable
from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.models.exchange import exchange_table
from fairseq_contout.models.transformer import ContinuousTransformerModel
from fairseq_contout.table_file import dictionary_beside, load_table, normalize_rows, save_table

WEIGHT = "decoder.continuous_output.table.weight"


def decode(corpus, checkpoint, *options, command="generate", **more):
    return cli.call(
        command, corpus.data, "--path", checkpoint, "--task", "continuous_translation",
        "--knn", 10, "--beam", 5, *options, **more,
    )  # fmt: skip


def dictionary_of(corpus):
    return Dictionary.load(str(corpus.data / "dict.tgt.txt"))


def rows_of(checkpoint):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]
    return torch.nn.functional.normalize(state[WEIGHT].float())


def write(path, symbols, rows):
    """Write a table of words with their rows, and its dictionary beside it."""
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol, 0 if symbol.startswith("madeup") else 1)
    dictionary.save(str(dictionary_beside(path)))
    # special symbols' rows are the model's: those of the file must not matter
    weight = torch.cat((normalize_rows(torch.randn(4, rows.size(1))), rows))
    save_table(path, weight, dictionary, source="test", origins={"test": len(weight)})
    return path


def other_vocabulary(corpus, checkpoint, path, rename=lambda word: word):
    """Write the words of the training in reverse order, under other names."""
    dictionary = dictionary_of(corpus)
    order = [i for i in range(len(dictionary) - 1, 3, -1) if "madeup" not in dictionary[i]]
    return write(path, [rename(dictionary[i]) for i in order], rows_of(checkpoint)[order])


def texts(output):
    return {s: [t.text for t in best] for s, best in cli.translations(output).items()}


def assert_same(one, other, change=lambda text: text):
    one, other = cli.translations(one), cli.translations(other)
    assert one.keys() == other.keys()
    for sentence, best in one.items():
        assert [change(t.text) for t in best] == [t.text for t in other[sentence]]
        for a, b in zip(best, other[sentence]):
            assert a.positional == pytest.approx(b.positional, abs=1e-3)


@pytest.mark.parametrize("model", ["table-input", "cosine", "lstm", "contrastive-learned"])
def test_the_same_words_in_another_order_change_nothing(model, corpus, trained, tmp_path):
    table = other_vocabulary(corpus, trained(model), tmp_path / "other.safetensors")
    before = decode(corpus, trained(model))
    after = decode(corpus, trained(model), "--new-table", table)
    assert_same(before, after)
    # references were binarised with the dictionary of the training
    assert cli.references(before) == cli.references(after)
    assert before.splitlines()[-1].split("BLEU")[1] == after.splitlines()[-1].split("BLEU")[1]
    assert "0 words that training did not have, 0 of training's" in after  # but padding words
    assert "then and now: 1.0000" in after


def test_words_that_training_never_saw_are_produced_and_read_back(corpus, trained, tmp_path):
    def rename(text):
        return text.upper()

    table = other_vocabulary(corpus, trained("table-input"), tmp_path / "t.safetensors", rename)
    before = decode(corpus, trained("table-input"))
    after = decode(corpus, trained("table-input"), "--new-table", table)
    assert_same(before, after, rename)
    # a full stop has no capital
    assert "32 words that training did not have, 32 of training's 33 left out; cos" in after


def test_words_of_which_none_was_there_tell_nothing_of_the_space(corpus, trained, tmp_path):
    rows = rows_of(trained("table-input"))[4:24]
    table = write(tmp_path / "t.safetensors", [f"new{i}" for i in range(20)], rows)
    found = decode(corpus, trained("table-input"), "--new-table", table)
    assert "20 words that training did not have, 33 of training's 33 left out; none is" in found
    assert "then and now" not in found


def test_a_learned_table_is_replaced_by_its_own_rows(corpus, trained, tmp_path):
    model = trained("contrastive-learned")
    table = other_vocabulary(corpus, model, tmp_path / "t.safetensors", str.upper)
    before, after = decode(corpus, model), decode(corpus, model, "--new-table", table)
    renamed = {s: [text.upper() for text in best] for s, best in texts(before).items()}
    # what a new word is read as has the mean length of the others
    same = sum(renamed[s] == best for s, best in texts(after).items())
    assert same >= 0.9 * len(renamed)


def test_a_new_word_is_read_as_its_row_as_long_as_trained_words_are(corpus, trained, tmp_path):
    path = trained("contrastive-learned")
    symbols = [dictionary_of(corpus)[i] for i in (4, 5)]
    drawn = normalize_rows(torch.randn(2, 64))
    rows = torch.cat((rows_of(path)[4:6], drawn))
    table = write(tmp_path / "t.safetensors", [*symbols, "new1", "new2"], rows)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    model, old = models[0], task.target_dictionary
    before = model.decoder.embed_tokens.weight.detach()
    padding = [i for i, symbol in enumerate(old.symbols) if "madeup" in symbol]
    assert padding
    before[padding] *= 100  # no training saw them
    dictionary = Dictionary.load(str(dictionary_beside(table)))
    exchange_table(model, load_table(table, dictionary), old, dictionary)
    words = [i for i in range(4, len(old)) if i not in padding]
    after = model.decoder.embed_tokens.weight
    assert model.decoder.dictionary is dictionary
    torch.testing.assert_close(after[:6], before[:6])
    torch.testing.assert_close(after[6:], before[words].norm(dim=1).mean() * drawn)


def test_which_words_are_new_and_the_kind_of_a_prior(corpus, trained, tmp_path):
    path = trained("table-input")
    known, names = dictionary_of(corpus)[4], ["new1", "madeupword0099"]
    table = write(tmp_path / "t.safetensors", ["new0", known, *names], rows_of(path)[4:8])
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    output, old = models[0].decoder.continuous_output, task.target_dictionary
    assert output.table.new_words is None
    output.table.add_prior("seen")
    output.table.prior.counts[4] = 7
    dictionary = Dictionary.load(str(dictionary_beside(table)))
    exchange_table(models[0], load_table(table, dictionary), old, dictionary)
    new = [dictionary[i] for i in output.table.new_words.nonzero()]
    assert new == ["new0", "new1"]
    assert output.table.prior.kind == "seen"
    assert output.table.prior.counts.tolist() == [0] * 5 + [7, 0, 0]


def test_a_bonus_brings_new_words_into_translations(corpus, trained, tmp_path):
    path, old = trained("table-input"), dictionary_of(corpus)
    words = [i for i in range(4, len(old)) if "madeup" not in old[i]]
    rows = torch.cat((rows_of(path)[words], normalize_rows(torch.randn(1, 32))))
    table = write(tmp_path / "t.safetensors", [*(old[i] for i in words), "new1"], rows)
    dictionary = Dictionary.load(str(dictionary_beside(table)))
    source = Dictionary.load(str(corpus.data / "dict.src.txt"))
    best = torch.full((len(source), 1), dictionary.index("new1"))
    lexicon = Lexicon.alike(best, torch.arange(4, 4 + len(words)))
    save_lexicon(tmp_path / "lexicon", lexicon, source, dictionary)
    options = ["--new-table", table, "--knn-search", "shortlist"]
    options += ["--shortlist", tmp_path / "lexicon", "--new-word-bonus"]
    for bonus, times in ((-50, 0), (50, 1)):
        found = texts(decode(corpus, path, *options, bonus))
        assert {best[0].split().count("new1") for best in found.values()} == {times}


@pytest.mark.parametrize("model", ["table-input", "contrastive-learned"])
def test_far_words_leave_hypotheses_as_they_were(model, corpus, trained, tmp_path):
    dictionary, rows = dictionary_of(corpus), rows_of(trained(model))
    words = [i for i in range(4, len(dictionary)) if "madeup" not in dictionary[i]]
    drawn = normalize_rows(
        torch.randn(4000, rows.size(1), generator=torch.Generator().manual_seed(1))
    )
    far = (drawn @ rows.t()).amax(dim=1).argsort()[:20]
    symbols = [dictionary[i] for i in words] + [f"new{i}" for i in range(20)]
    table = write(tmp_path / "t.safetensors", symbols, torch.cat((rows[words], drawn[far])))
    found = decode(corpus, trained(model), "--new-table", table)
    assert texts(found) == texts(decode(corpus, trained(model)))
    assert "20 words that training did not have" in found


def test_a_decoder_with_embeddings_of_its_own(corpus, trained, tmp_path):
    table = other_vocabulary(corpus, trained("cosine"), tmp_path / "t.safetensors", str.upper)
    with pytest.raises(ValueError, match="has 32 words that the decoder's own .*--decoder-input"):
        decode(corpus, trained("cosine"), "--new-table", table)
    found = texts(decode(corpus, trained("cosine"), "--new-table", table, "--new-words-as-unk"))
    # padding words need no vector
    dictionary, rows = dictionary_of(corpus), rows_of(trained("cosine"))
    words = [i for i in range(4, len(dictionary)) if "madeup" not in dictionary[i]]
    symbols = [*(dictionary[i] for i in words), "madeupword0011"]
    padded = write(tmp_path / "p.safetensors", symbols, rows[[*words, 5]])
    same = decode(corpus, trained("cosine"), "--new-table", padded)
    assert_same(decode(corpus, trained("cosine")), same)
    assert "0 words that training did not have, 0 of training's 33 left out" in same
    # the first word depends on no word before it
    before = texts(decode(corpus, trained("cosine"), "--beam", 1))
    firsts = [best[0].split()[0] == before[s][0].split()[0].upper() for s, best in found.items()]
    assert sum(firsts) >= 0.8 * len(firsts)


def test_interactive_and_python(corpus, trained, tmp_path):
    model = trained("table-input")
    table = other_vocabulary(corpus, model, tmp_path / "t.safetensors", str.upper)
    dictionary_beside(table).rename(tmp_path / "elsewhere")
    options = ["--new-table", table, "--new-dictionary", tmp_path / "elsewhere"]
    output = decode(corpus, model, *options, command="interactive", stdin="x ki@@ lu me .\n")
    assert cli.translations(output)[0][0].text == "KI@@ LU ME ."
    task = {"_name": "continuous_translation", "knn": 10, "data": str(corpus.data)}
    task.update(new_table=str(table), new_dictionary=str(tmp_path / "elsewhere"))
    hub = ContinuousTransformerModel.from_pretrained(
        str(model.parent), "checkpoint_last.pt", str(corpus.data), bpe="subword_nmt",
        bpe_codes=str(corpus.codes), source_lang="src", target_lang="tgt", task=task,
    ).eval()  # fmt: skip
    assert hub.translate("x kilu me .") == "KILU ME ."


def test_raw_references_know_the_new_words(corpus, trained, tmp_path):
    model = trained("table-input")
    table = other_vocabulary(corpus, model, tmp_path / "t.safetensors", str.upper)
    data = tmp_path / "raw"
    data.mkdir()
    for language in ("src", "tgt"):
        shutil.copy(corpus.data / f"dict.{language}.txt", data)
        text = (corpus.raw / f"test.{language}").read_text()
        text = text.upper() if language == "tgt" else text
        (data / f"test.src-tgt.{language}").write_text(text)
    output = cli.call(
        "generate", data, "--path", model, "--task", "continuous_translation", "--knn", 10,
        "--source-lang", "src", "--target-lang", "tgt", "--dataset-impl", "raw", "--beam", 5,
        "--new-table", table, "--replace-unk", "--print-alignment", "hard",
    )  # fmt: skip
    assert cli.token_accuracy(output) >= 0.95
    bleu = float(output.splitlines()[-1].split("BLEU4 = ")[1].split(",")[0])
    assert bleu > 90


def test_a_scale_and_a_dtype_stay(corpus, trained, tmp_path):
    table = other_vocabulary(corpus, trained("table-input"), tmp_path / "t.safetensors")
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(trained("table-input"))])
    old = models[0].decoder.continuous_output.table
    old_dictionary = task.target_dictionary
    dictionary = Dictionary.load(str(dictionary_beside(table)))
    kept = KeptTable(old.weight.half(), old_dictionary, old.score, on_cpu=True)
    kept.calibration.load(old.calibration.state())
    models[0].decoder.continuous_output.table = kept
    rows = load_table(table, dictionary)
    exchange_table(models[0], rows, old_dictionary, dictionary)
    found = models[0].decoder.continuous_output.table
    assert isinstance(found, KeptTable) and found.on_cpu and found.weight.dtype == torch.float16
    assert found.scale == old.scale != 1 and found.score == old.score
    torch.testing.assert_close(found.weight[:4], old.weight[:4].half())


def test_what_does_not_fit_is_refused(corpus, trained, train, tmp_path):
    model = trained("table-input")
    table = other_vocabulary(corpus, model, tmp_path / "t.safetensors")

    def refused(message, *options):
        with pytest.raises(ValueError, match=message) as error:
            decode(corpus, model, *options)
        assert "\n" not in str(error.value)

    refused("--new-words-as-unk belongs to --new-table", "--new-words-as-unk")
    refused("--new-dictionary belongs to --new-table", "--new-dictionary", "x")
    refused("t.dict.txt: no such file, but .* give it", "--new-table", tmp_path / "none/t")
    (tmp_path / "bad.txt").write_text("one\n")
    given = "--new-table", table, "--new-dictionary"
    refused("bad.txt: must have lines 'symbol count'", *given, tmp_path / "bad.txt")
    refused("built for another dictionary", *given, corpus.data / "dict.tgt.txt")
    (tmp_path / "none.dict.txt").write_text("one 1\n")
    refused("none.safetensors: no such file", "--new-table", tmp_path / "none.safetensors")
    other = write(tmp_path / "d.safetensors", ["a", "b"], torch.eye(2, 8))
    refused("rows of the dimension that the model predicts, 32, but .* 8", "--new-table", other)
    with pytest.raises(ValueError, match="--new-table .* is for decoding .* --target-table"):
        train(tmp_path, "--task", "continuous_translation", "--new-table", table, updates=1)


def test_a_softmax_has_no_table(corpus, train, trained, tmp_path):
    dictionary = dictionary_of(corpus)
    with pytest.raises(ValueError, match="--new-table needs a model that predicts embeddings"):
        exchange_table(torch.nn.Linear(2, 2), rows_of(trained("cosine")), dictionary, dictionary)
