"""The shortcut from source words to predictions: its formula, and in a model."""

import math

import pytest
import torch
from factory import make_batch, make_dictionary, make_model
from test_new_table import assert_same

from fairseq_contout.models.lexical import LexicalShortcut

LAYERS = ("query", "key", "projection")


@pytest.fixture
def dictionary():
    return make_dictionary()


def test_it_is_the_formula():
    torch.manual_seed(1)
    shortcut = LexicalShortcut(3, 5, 6, 4).double()
    assert torch.equal(shortcut.projection.weight, 2.0 * torch.eye(4, 6).double())  # √4
    short = LexicalShortcut(3, 5, 6, 4, length=0.5)
    assert torch.equal(short.projection.weight, 0.5 * torch.eye(4, 6))
    for parameter in shortcut.parameters():
        torch.nn.init.normal_(parameter)
    hidden, features = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 3).double()
    encoded, source = torch.randn(2, 5, 5).double(), torch.randn(2, 5, 6).double()
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    found = shortcut(hidden, features, encoded, source, padding)
    for b, words in enumerate((5, 3)):
        for t in range(3):
            query = shortcut.query.weight @ features[b, t] + shortcut.query.bias
            keys = [shortcut.key.weight @ z + shortcut.key.bias for z in encoded[b, :words]]
            weights = [math.exp(query @ key / math.sqrt(3)) for key in keys]
            mixed = sum(a * e / e.norm() for a, e in zip(weights, source[b])) / sum(weights)
            mapped = shortcut.projection.weight @ mixed + shortcut.projection.bias
            # unit vectors and weights are made in float32
            torch.testing.assert_close(found[b, t], hidden[b, t] + mapped, atol=1e-5, rtol=1e-5)
    # neither the scale of the embeddings counts, nor what stands where padding is
    torch.testing.assert_close(shortcut(hidden, features, encoded, 7 * source, padding), found)
    encoded[1, 3:], source[1, 3:] = 9, 9
    torch.testing.assert_close(shortcut(hidden, features, encoded, source, padding), found)
    whole = torch.zeros(1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        shortcut(hidden[:1], features[:1], encoded[:1], source[:1]),
        shortcut(hidden[:1], features[:1], encoded[:1], source[:1], whole),
    )


def test_some_tokens_are_predicted_by_it_alone_in_training():
    torch.manual_seed(1)
    shortcut = LexicalShortcut(4, 4, 4, 4, alone=0.25)
    rest = torch.ones(1, 4000, 4), torch.ones(1, 2, 4), torch.zeros(1, 2, 4)
    hidden = torch.ones(1, 4000, 4)
    found = shortcut.train()(hidden, *rest)
    whole = found.eq(1).all(dim=-1)
    assert (found.eq(0).all(dim=-1) ^ whole).all()  # all coordinates of a token, or none
    assert 0.22 < 1 - whole.float().mean() < 0.28
    assert torch.equal(shortcut.eval()(hidden, *rest), hidden)


def test_a_word_is_found_by_its_source_vector(tmp_path, dictionary):
    """With the shortcut alone, the row of the word that it picks is the nearest: one space."""
    model = make_model(tmp_path, dictionary, encoder_embed_dim=8, lexical_shortcut=True).eval()
    table, lexical = model.decoder.continuous_output.table, model.decoder.lexical
    with torch.no_grad():
        model.encoder.embed_tokens.weight.copy_(3 * table.weight)
        for parameter in model.decoder.continuous_output.parameters():
            parameter.zero_()
    batch = make_batch(dictionary)["net_input"]
    picked = torch.tensor([[2, 0, 4], [3, 5, 6], [5, 6, 5]])  # left padding is not picked
    weights = torch.nn.functional.one_hot(picked, batch["src_tokens"].size(1)).float()
    lexical.attention = lambda features, *_: weights
    batch["prev_output_tokens"] = batch["prev_output_tokens"][:, :3]
    hidden, _ = model(**batch)
    scores = hidden @ table.weight.t()
    assert torch.equal(scores.argmax(dim=-1), batch["src_tokens"].gather(1, picked))
    features = model(**batch, features_only=True)[0]
    assert features.shape[-1] == model.decoder.output_embed_dim  # as without a shortcut


def test_one_word_after_the_other_predicts_as_all_at_once(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, lexical_shortcut=True, lexical_alone=0.5).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.decoder.lexical.projection.weight)
    sample = make_batch(dictionary, lengths=(6, 6, 6))["net_input"]
    encoded = model.encoder(sample["src_tokens"], sample["src_lengths"])
    previous = sample["prev_output_tokens"]
    whole = model.decoder(previous, encoded)[0]
    state = {}
    for step in range(previous.size(1)):
        found = model.decoder(previous[:, : step + 1], encoded, incremental_state=state)[0]
        assert found.size(-1) == whole.size(-1) + 1  # generation's temperature
        torch.testing.assert_close(found[:, 0, :-1], whole[:, step], atol=1e-5, rtol=1e-5)


def test_it_belongs_to_the_decoder(tmp_path, dictionary):
    plain = make_model(tmp_path, dictionary)
    model = make_model(tmp_path, dictionary, lexical_shortcut=True)
    more = model.state_dict().keys() - plain.state_dict().keys()
    parts = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    assert more == {f"decoder.lexical.{part}" for part in parts}
    frozen = make_model(tmp_path, dictionary, lexical_shortcut=True, freeze="decoder.lexical")
    assert not frozen.decoder.lexical.projection.weight.requires_grad
    with pytest.raises(ValueError, match="'decoder.lexical' has no parameters"):
        make_model(tmp_path, dictionary, freeze="decoder.lexical")
    with pytest.raises(ValueError, match="--lexical-alone 0.5 is of the shortcut .*there is none"):
        make_model(tmp_path, dictionary, lexical_alone=0.5)
    with pytest.raises(ValueError, match="--lexical-alone must be 0 or more and less than 1"):
        make_model(tmp_path, dictionary, lexical_shortcut=True, lexical_alone=1.0)
    with pytest.raises(ValueError, match="with --no-cross-attention it does not"):
        make_model(tmp_path, dictionary, lexical_shortcut=True, no_cross_attention=True)


def test_training_and_decoding(corpus, train, tmp_path):
    import cli

    train(tmp_path, "--criterion", "contrastive", "--lexical-shortcut", "--lexical-alone", "0.1")
    options = ["--path", tmp_path / "checkpoint_last.pt", "--beam", 5]
    dense = cli.call("generate", corpus.data, *options)
    assert cli.token_accuracy(dense) > 0.9
    sparse = ["--task", "continuous_translation", "--knn", 10]
    assert_same(dense, cli.call("generate", corpus.data, *options, *sparse))
