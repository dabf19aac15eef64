"""Masked language models: what is predicted, tables of more words than are read, their options."""

import language_data
import pytest
import torch
import torch.nn.functional as F
from cli import write_table
from factory import make_criterion
from fairseq.data import Dictionary
from language_data import MODELS, load, train

from fairseq_contout.models import ContinuousMaskedLanguageModel
from fairseq_contout.symbols import dictionary_signature, emittable_rows
from fairseq_contout.table_file import load_table

MASKED = sorted(name for name in MODELS if name.startswith("masked"))


@pytest.fixture(scope="module")
def trained(language_model, english):
    """Return ``trained(name)``: model and task of one of MODELS, the dictionary with <mask>."""
    return lambda name: load(language_model(name), english)


def batch(task, split="valid", size=16):
    task.load_dataset(split)
    dataset = task.dataset(split)
    return dataset.collater([dataset[i] for i in range(size)])


@pytest.mark.parametrize("name", MASKED)
def test_the_masked_tokens_alone_are_predicted(trained, name):
    model, task = trained(name)
    sample = batch(task)
    assert sample["target"].eq(task.dictionary.bos()).any()  # fairseq asks for <s>, we do not
    masked = sample["target"].gt(task.dictionary.pad())
    assert 0 < masked.sum() < masked.numel() / 3
    task.has_continuous_output = "learned"
    criterion = make_criterion(MODELS[name][1].split()[1], task.dictionary).eval()
    loss, size, log = criterion(model, sample)
    assert size == log["ntokens"] == masked.sum()
    hidden = model(**sample["net_input"])[0]
    table = model.encoder.continuous_output.table
    alone = criterion.token_losses(hidden[masked].detach(), sample["target"][masked], table)
    assert loss.item() == pytest.approx(alone.sum().item(), rel=1e-5)
    # what is predicted elsewhere is all the same to the loss
    hidden.retain_grad()
    model.encoder.output_layer, kept = lambda features, **_: hidden, model.encoder.output_layer
    criterion(model, sample)[0].backward()
    model.encoder.output_layer = kept
    assert hidden.grad[masked].abs().sum(dim=-1).gt(0).all()
    assert not hidden.grad[~masked].any()


def test_what_comes_before_the_vocabulary_is_robertas(trained):
    """p = W LN(gelu(D f)), as in its head for masked tokens (Liu et al. 2019)."""
    model, task = trained("masked-learned")
    net_input = batch(task)["net_input"]
    features = model(**net_input, features_only=True)[0]
    dense, norm = model.encoder.lm_head["dense"], model.encoder.lm_head["layer_norm"]
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)  # one that was hardly trained does little
        expected = F.layer_norm(
            F.gelu(dense(features)), (dense.out_features,), norm.weight, norm.bias, norm.eps
        )
        expected = model.encoder.continuous_output(expected)
    torch.testing.assert_close(model(**net_input)[0], expected)


def test_a_batch_without_masked_tokens(trained):
    model, task = trained("masked-learned")
    sample = batch(task)
    sample["target"].fill_(task.dictionary.pad())
    for mode in (True, False):
        for name in ("contrastive", "cosine"):
            task.has_continuous_output = "learned"
            criterion = make_criterion(name, task.dictionary, dispersion_weight=1).train(mode)
            loss, size, log = criterion(model, sample)
            loss.backward()
            assert loss.item() == size == 0
            criterion.reduce_metrics([log])


@pytest.mark.parametrize("name", MASKED)
def test_probabilities_over_all_words(trained, name):
    model, task = trained(name)
    sample = batch(task)
    net_output = model(**sample["net_input"])
    scored = model.get_normalized_probs(net_output, log_probs=True)
    assert scored.shape == (*sample["target"].shape, len(task.dictionary))
    torch.testing.assert_close(scored.exp().sum(dim=-1), torch.ones(scored.shape[:-1]))
    assert scored[..., task.mask_idx].isneginf().all()  # <mask> is read, never predicted
    torch.testing.assert_close(model.get_normalized_probs(net_output, False), scored.exp())
    net_output[0][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite, but 1 of"):
        model.get_normalized_probs(net_output, log_probs=True)
    net_output = model(**sample["net_input"])
    masked = sample["target"].ne(task.dictionary.pad())
    some = model(**sample["net_input"], masked_tokens=masked)[0]
    torch.testing.assert_close(some, net_output[0][masked])


def test_words_that_are_not_read_are_targets(trained):
    model, task = trained("masked-few-words")
    embedding, dictionary = model.encoder.sentence_encoder.embed_tokens, task.dictionary
    assert len(embedding.weight) == 51  # and <mask>
    unknown, known, rare, mask = embedding(torch.tensor([3, 49, 60, task.mask_idx]))
    assert torch.equal(rare, unknown)
    assert not torch.equal(mask, unknown) and not torch.equal(known, unknown)
    sample = batch(task, size=40)
    assert sample["target"].ge(50).any()  # a target, though read as <unk>
    loss = make_criterion("l2", dictionary).eval()(model, sample)[0]
    assert loss.isfinite()


def test_a_learned_table_is_tied_unless_told(trained, english, tmp_path):
    model, _ = trained("masked-learned")
    table = model.encoder.continuous_output.table
    assert table.weight is model.encoder.sentence_encoder.embed_tokens.weight
    train(english, tmp_path, "masked-learned", "--untie-weights-roberta", updates=1)
    model, _ = load(tmp_path / "checkpoint_last.pt", english)
    table = model.encoder.continuous_output.table
    assert not torch.equal(table.weight, model.encoder.sentence_encoder.embed_tokens.weight)


def test_the_hub_gives_features_and_refuses_to_guess(language_model, english):
    path = language_model("masked")
    hub = ContinuousMaskedLanguageModel.from_pretrained(
        str(path.parent), path.name, str(english), bpe=None
    )
    features = hub.extract_features(torch.tensor([[0, 5, 6, 2]]))
    assert features.shape == (1, 4, language_data.DIM)
    with pytest.raises(ValueError, match="call model.get_normalized_probs"):
        hub.fill_mask("and <mask>")


def test_a_table_serves_a_dictionary_with_mask_and_without(english, tmp_path):
    dictionary = Dictionary.load(str(english / "dict.txt"))
    path = write_table(tmp_path / "table.safetensors", dictionary)
    rows, signature = load_table(path, dictionary), dictionary_signature(dictionary)
    dictionary.add_symbol("<mask>")
    assert dictionary_signature(dictionary) == signature
    more = load_table(path, dictionary)
    assert len(more) == len(rows) + 1 and torch.equal(more[:-1], rows)
    assert more[-1].norm() == 1 and not emittable_rows(dictionary)[-1]
    dictionary.add_symbol("word")
    with pytest.raises(ValueError, match="was built for another dictionary"):
        load_table(path, dictionary)


ERRORS = {
    "causal": ("masked", "--task language_modeling", "give --task masked_lm, or --arch"),
    "input": ("masked", "--decoder-input table", "a masked language model has none"),
    "tied": ("masked-learned", "--input-words 50", "give --untie-weights-roberta, or leave it out"),
    "dim": ("masked-learned", "--table-dim 8", "--table-dim 8 must be --encoder-embed-dim (16)"),
    "ema": (
        "masked-learned",
        "--untie-weights-roberta --table-ema 0.9",
        "and leave --untie-weights-roberta out",
    ),
    "fix": (
        "masked-learned",
        "--untie-weights-roberta --fix-norm",
        "give --target-table learned, and leave --untie-weights-roberta out",
    ),
    "softmax": ("masked", "--criterion masked_lm", "needs one of the criterions"),
}


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_wrong_options(english, tmp_path, case):
    name, options, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        train(english, tmp_path, name, *options.split())
    assert message in str(caught.value)
