"""The shortcut from source words to predictions: its formula, and in a model."""

import pytest
import torch
from factory import make_batch, make_dictionary, make_model
from test_new_table import assert_same

from fairseq_contout.models.lexical import LexicalShortcut


@pytest.fixture
def dictionary():
    return make_dictionary()


def test_it_is_the_formula():
    torch.manual_seed(1)
    shortcut = LexicalShortcut(6, 4).double()
    assert torch.equal(shortcut.projection.weight, 2.0 * torch.eye(4, 6).double())  # √4
    torch.nn.init.normal_(shortcut.projection.weight)
    hidden, source = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 6).double()
    attention = torch.rand(2, 3, 5).double().softmax(dim=-1)
    found = shortcut(hidden, attention, source)
    for b in range(2):
        for t in range(3):
            mixed = sum(attention[b, t, j] * source[b, j] / source[b, j].norm() for j in range(5))
            expected = hidden[b, t] + shortcut.projection.weight @ mixed
            # unit vectors are made in float32
            torch.testing.assert_close(found[b, t], expected, atol=1e-6, rtol=1e-6)
    # neither the scale of the embeddings nor padding, which has no attention, counts
    torch.testing.assert_close(shortcut(hidden, attention, 7 * source), found)
    wider = torch.cat((source, torch.zeros(2, 1, 6).double()), dim=1)
    padded = torch.cat((attention, torch.zeros(2, 3, 1).double()), dim=2)
    torch.testing.assert_close(shortcut(hidden, padded, wider), found)


def test_some_tokens_are_predicted_by_it_alone_in_training():
    torch.manual_seed(1)
    shortcut = LexicalShortcut(4, 4, alone=0.25)
    hidden, source = torch.ones(1, 4000, 4), torch.zeros(1, 2, 4)
    attention = torch.full((1, 4000, 2), 0.5)
    found = shortcut.train()(hidden, attention, source)
    whole = found.eq(1).all(dim=-1)
    assert (found.eq(0).all(dim=-1) ^ whole).all()  # all coordinates of a token, or none
    assert 0.22 < 1 - whole.float().mean() < 0.28
    assert torch.equal(shortcut.eval()(hidden, attention, source), hidden)


def test_a_word_is_found_by_its_source_vector(tmp_path, dictionary):
    """With nothing but the shortcut, the attended word's row is the nearest: one space."""
    model = make_model(tmp_path, dictionary, encoder_embed_dim=8, lexical_shortcut=True)
    table = model.decoder.continuous_output.table
    with torch.no_grad():
        model.encoder.embed_tokens.weight.copy_(3 * table.weight)
        for parameter in model.decoder.continuous_output.parameters():
            parameter.zero_()
    sample = make_batch(dictionary)["net_input"]
    hidden, extra = model.eval()(**sample)
    weights, source = extra["attn"][0], sample["src_tokens"]
    expected = 8**0.5 * weights @ table.weight[source]
    torch.testing.assert_close(hidden, expected)
    features = model(**sample, features_only=True)[0]
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
    assert more == {"decoder.lexical.projection.weight"}
    frozen = make_model(tmp_path, dictionary, lexical_shortcut=True, freeze="decoder.lexical")
    assert not frozen.decoder.lexical.projection.weight.requires_grad
    with pytest.raises(ValueError, match="'decoder.lexical' has no parameters"):
        make_model(tmp_path, dictionary, freeze="decoder.lexical")
    with pytest.raises(ValueError, match="--lexical-alone 0.5 is of the shortcut .*there is none"):
        make_model(tmp_path, dictionary, lexical_alone=0.5)
    with pytest.raises(ValueError, match="--lexical-alone must be 0 or more and less than 1"):
        make_model(tmp_path, dictionary, lexical_shortcut=True, lexical_alone=1.0)
    with pytest.raises(ValueError, match="attends to none; leave one of them out"):
        make_model(tmp_path, dictionary, lexical_shortcut=True, no_cross_attention=True)


def test_training_and_decoding(corpus, train, tmp_path):
    import cli

    printed = train(
        tmp_path, "--criterion", "contrastive", "--lexical-shortcut", "--lexical-alone", "0.1"
    )
    assert "loss" in printed
    options = ["--path", tmp_path / "checkpoint_last.pt", "--beam", 5]
    dense = cli.call("generate", corpus.data, *options)
    assert cli.token_accuracy(dense) > 0.9
    sparse = ["--task", "continuous_translation", "--knn", 10]
    assert_same(dense, cli.call("generate", corpus.data, *options, *sparse))
