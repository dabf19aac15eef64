"""Language models with continuous outputs: perplexity, causality, generation, wrong options."""

import re

import cli
import pytest
import torch
from fairseq.data import Dictionary
from language_data import MODELS, load, perplexity, sentences, train

CAUSAL = sorted(name for name in MODELS if not name.startswith("masked"))


def evaluate(english, path, *options):
    output = cli.call(
        "eval_lm", english, "--path", path, "--gen-subset", "valid", "--sample-break-mode", "eos",
        "--batch-size", 7, "--tokens-per-sample", 40, *options,
    )  # fmt: skip
    return float(re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", output)[2])


@pytest.mark.parametrize("name", CAUSAL)
def test_perplexity_is_that_of_every_token_by_itself(english, language_model, name):
    model, task = load(language_model(name), english)
    expected = perplexity(model, task, english, backward="backward" in name)
    options = []
    if "backward" in name:
        options = ["--task", "continuous_language_modeling", "--backward"]
    found = evaluate(english, language_model(name), *options)
    assert found == pytest.approx(expected, rel=1e-3)
    assert 20 < found < 2000  # neither certain nor beyond the number of words
    # the table in one piece, or some tokens at a time
    assert evaluate(english, language_model(name), "--softmax-batch", 11, *options) == found


@pytest.mark.parametrize("name", CAUSAL)
def test_no_prediction_reads_what_it_predicts(english, language_model, name):
    """The gradient of a prediction reaches what was read before it, and nothing else."""
    model, task = load(language_model(name), english)
    task.load_dataset("valid")
    embedded = []
    model.decoder.embed_tokens.register_forward_hook(
        lambda module, given, found: (
            embedded.append(found.detach().requires_grad_()) or embedded[-1]
        )
    )
    item = max((task.dataset("valid")[i] for i in range(20)), key=lambda item: len(item["source"]))
    original = max(sentences(english)[:20], key=len)
    order = original.flip(0) if "backward" in name else original
    assert torch.equal(item["target"][:-1], order)
    hidden = model(item["source"].unsqueeze(0))[0][0]
    place = len(hidden) // 2
    hidden[place].sum().backward()
    reached = embedded[0].grad[0].abs().sum(dim=1).gt(0)
    assert reached[: place + 1].all() and not reached[place + 1 :].any()
    # what was read is what comes before the target, or after it where text is read backward
    assert torch.equal(item["source"][1 : place + 1], order[:place])
    assert item["target"][place] == order[place]


@pytest.mark.parametrize("name", ["transformer", "transformer-vmf", "lstm"])
def test_generation_over_nearest_rows_is_that_over_all(english, language_model, name):
    beginning = "and the\nthe\n"
    options = ["--path", language_model(name), "--beam", 4, "--max-len-b", 12, "--nbest", 2]
    dense, sparse = [
        cli.call("interactive", english, *task, *options, stdin=beginning)
        for task in (
            ("--task", "language_modeling"),
            ("--task", "continuous_language_modeling", "--knn", "8"),
        )
    ]
    found, expected = cli.translations(sparse), cli.translations(dense)
    assert len(expected) == 2 and found.keys() == expected.keys()
    for sentence, hypotheses in expected.items():
        assert hypotheses[0].text.startswith(beginning.splitlines()[sentence])
        for ours, theirs in zip(found[sentence], hypotheses):
            assert ours.text == theirs.text
            assert ours.score == pytest.approx(theirs.score, abs=1e-3)


def test_sampling_from_the_nearest_rows(english, language_model):
    output = cli.call(
        "interactive", english, "--task", "continuous_language_modeling", "--path",
        language_model("transformer"), "--sampling", "--sampling-topk", 5, "--beam", 1,
        "--max-len-b", 9, "--seed", 3, stdin="and the\n",
    )  # fmt: skip
    (hypothesis,) = cli.translations(output)[0]
    assert hypothesis.text.startswith("and the ")


def test_rare_words_are_predicted_though_not_read(english, language_model):
    model, task = load(language_model("transformer-few-words"), english)
    embedding, dictionary = model.decoder.embed_tokens, task.dictionary
    assert len(embedding.weight) == 50 < len(dictionary)
    vectors = embedding(torch.tensor([3, 49, 50, len(dictionary) - 1]))
    assert torch.equal(vectors[2], vectors[0]) and torch.equal(vectors[3], vectors[0])
    assert not torch.equal(vectors[1], vectors[0])
    scored = model.get_normalized_probs(model(torch.tensor([[2, 60]])), log_probs=True)
    assert scored.shape[-1] == len(dictionary) and scored[..., 60:].isfinite().any()


ERRORS = {
    "masked": ("transformer", "--task masked_lm", "give --task language_modeling, or --arch"),
    "encoder": ("transformer-vmf", "--decoder-input encoder", "a language model has none"),
    "softmax": ("transformer", "--criterion cross_entropy", "needs one of the criterions"),
    "cutoff": ("transformer", "--adaptive-softmax-cutoff 10,20", "shapes a softmax"),
    "lstm-cutoff": ("lstm", "--adaptive-softmax-cutoff 10,20", "shapes a softmax"),
    "few-words": ("transformer", "--input-words 4", "5 (the special symbols and a word) or more"),
    "tied": ("transformer", "--input-words 50", "so the two cannot be tied"),
    "table": ("transformer-vmf", "--input-words 50", "reads rows of the target table"),
    "output": ("transformer", "--output-dictionary-size 50", "cuts the target dictionary"),
    "characters": ("transformer", "--character-embeddings", "need one vector for each word"),
    "adaptive": ("transformer-vmf", "--adaptive-input", "need one vector for each word"),
    "vectors": ("lstm-l2", "--decoder-input table --decoder-embed-path x", "replaces them; leave"),
    "bos": ("transformer-backward", "--add-bos-token", "puts a symbol before each block"),
}


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_wrong_options(english, tmp_path, case):
    name, options, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        train(english, tmp_path, name, *options.split())
    assert message in str(caught.value)


def test_what_a_backward_model_cannot_do(english, language_model):
    options = ["--task", "continuous_language_modeling", "--backward"]
    path = language_model("transformer-backward")
    with pytest.raises(ValueError, match="predicts what comes before"):
        cli.call("interactive", english, *options, "--path", path, stdin="and the\n")
    with pytest.raises(ValueError, match="reads blocks from their ends"):
        evaluate(english, path, *options, "--context-window", 5)


def test_the_symbol_before_a_block_is_read_and_not_predicted(english, language_model, tmp_path):
    output = train(english, tmp_path, "transformer", "--add-bos-token")
    path = tmp_path / "checkpoint_last.pt"
    assert "inf" not in output.rpartition("valid on")[2].replace("info", "").replace("INFO", "")
    model, task = load(path, english)
    assert model.decoder.continuous_output.table.scale > 0.1
    expected = perplexity(model, task, english, before=[task.dictionary.bos()])
    assert evaluate(english, path, "--add-bos-token") == pytest.approx(expected, rel=1e-3)


def test_direction_of_a_checkpoint(english, language_model):
    with pytest.raises(ValueError, match="reads text backward, but the task gives it forward"):
        evaluate(english, language_model("transformer-backward"))
    options = ["--task", "continuous_language_modeling", "--backward"]
    with pytest.raises(ValueError, match="reads text forward, but the task gives it backward"):
        evaluate(english, language_model("transformer"), *options)


def test_characters_in_place_of_words(english, tmp_path):
    options = ["--character-embeddings", "--character-filters", "[(1, 4), (2, 4)]"]
    train(english, tmp_path, "transformer-untied", *options, updates=1)
    embedding = load(tmp_path / "checkpoint_last.pt", english)[0].decoder.embed_tokens
    assert type(embedding).__name__ == "CharacterTokenEmbedder"


def test_vectors_of_a_file_are_kept_for_the_words_that_are_read(english, tmp_path):
    dictionary = Dictionary.load(str(english / "dict.txt"))
    lines = [f"{word} " + " ".join(["0.25"] * 16) for word in dictionary.symbols[4:60]]
    (tmp_path / "vectors").write_text("56 16\n" + "\n".join(lines) + "\n")
    options = ["--decoder-embed-path", tmp_path / "vectors", "--input-words", 50, "--lr", 0]
    train(english, tmp_path, "lstm-l2", *options, updates=1)
    rows = load(tmp_path / "checkpoint_last.pt", english)[0].decoder.embed_tokens.weight
    assert rows.shape == (50, 16) and rows[4:].eq(0.25).all()


def test_a_softmax_model_is_refused(english, tmp_path):
    with pytest.raises(ValueError, match="ends in a softmax"):
        cli.call(
            "train", english, "--task", "language_modeling", "--arch", "transformer_lm",
            "--criterion", "cosine", "--batch-size", 20, "--save-dir", tmp_path,
            "--tokens-per-sample", 40, "--decoder-layers", 1, "--decoder-embed-dim", 16,
            "--decoder-attention-heads", 2,
        )  # fmt: skip
