"""Contextual vectors of two language models: what they know of, and how layers are mixed."""

import language_data
import pytest
import torch
from language_data import train

from fairseq_contout.contextual import ContextualVectors, ScalarMix

PAIRS = {
    "transformer": ("transformer-vmf", "transformer-backward"),
    "lstm": ("lstm-forward", "lstm-backward"),
}


@pytest.fixture(scope="module")
def paths(language_model):
    return lambda kind: [language_model(name) for name in PAIRS[kind]]


@pytest.fixture(scope="module", params=sorted(PAIRS))
def vectors(request, paths, english):
    return ContextualVectors.from_checkpoints(*paths(request.param), english)


WORDS = ["and", "the", "lord", "said", "unto", "him"]


def test_shapes_and_the_layer_of_embeddings(vectors):
    (found,) = vectors([WORDS])
    assert found.shape == (len(vectors), len(WORDS), 2 * language_data.DIM)
    assert len(vectors) == len(vectors.models[0].decoder.layers) + 1
    again = vectors([["said", "and"]])[0]
    if not hasattr(vectors.models[0].decoder, "embed_scale"):  # no positions in the embeddings
        torch.testing.assert_close(again[0, 1], found[0, 0])
    assert not torch.allclose(again[1, 1], found[1, 0])  # but above them the context counts


def test_a_sentence_has_the_same_vectors_in_any_batch(vectors):
    other = ["a", "much", "longer", "sentence", "of", "words", "than", "the", "first", "one"]
    alone = vectors([WORDS])[0]
    together = vectors([other, WORDS, ["the"]])
    torch.testing.assert_close(together[1], alone)
    assert [len(found[0]) for found in together] == [len(other), len(WORDS), 1]
    torch.testing.assert_close(vectors(iter([WORDS]))[0], alone)


def test_each_half_reads_one_side(vectors):
    changed = [*WORDS[:3], "king", *WORDS[4:]]
    before, after = vectors([WORDS, changed])
    differs = (before - after)[1:].abs().sum(dim=0).gt(1e-6)  # T x 2 d
    ahead, back = differs.view(len(WORDS), 2, -1).any(dim=-1).t()
    assert ahead.tolist() == [False, False, False, True, True, True]
    assert back.tolist() == [True, True, True, True, False, False]


def test_the_last_layer_is_what_the_model_predicts_from(vectors):
    model, dictionary = vectors.models[0], vectors.dictionary
    decoder = model.decoder
    tokens = torch.tensor([[dictionary.eos(), *map(dictionary.index, WORDS)]])
    top = vectors([WORDS])[0][-1][:, : language_data.DIM]
    if getattr(decoder, "layer_norm", None) is not None:
        top = decoder.layer_norm(top)
    predicted = decoder.continuous_output(top)
    torch.testing.assert_close(predicted, model(tokens)[0][0, 1:])


def test_training_a_task_does_not_train_the_models(vectors):
    outer = torch.nn.ModuleDict({"vectors": vectors, "mix": ScalarMix(len(vectors))}).train()
    assert outer["mix"].training and not any(model.training for model in vectors.models)
    assert not any(part.training for part in vectors.models.modules())
    torch.testing.assert_close(vectors([WORDS])[0], vectors([WORDS])[0], rtol=0, atol=0)
    outer.eval()


def test_mix(vectors):
    (layers,) = vectors([WORDS])
    mix = ScalarMix(len(vectors))
    torch.testing.assert_close(mix(layers), layers.mean(dim=0))
    with torch.no_grad():
        mix.weights.copy_(torch.arange(len(vectors)))
        mix.gamma.fill_(3.0)
    shares = torch.arange(len(vectors)).double().exp()
    shares = shares / shares.sum()
    expected = 3 * sum(share * layer.double() for share, layer in zip(shares, layers))
    torch.testing.assert_close(mix(layers).double(), expected, rtol=1e-5, atol=1e-6)
    mix(layers).sum().backward()
    assert mix.weights.grad is not None and mix.gamma.grad is not None
    mean = ScalarMix(len(vectors), normalize=True)(layers).mean(dim=-1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="this mix is of 7 layers, but"):
        ScalarMix(7)(layers)


def test_wrong_models(paths, english, tmp_path):
    ahead, back = paths("transformer")
    with pytest.raises(ValueError, match="must be a backward model, but was trained without"):
        ContextualVectors.from_checkpoints(ahead, ahead, english)
    with pytest.raises(ValueError, match="must be a forward model, but was trained with"):
        ContextualVectors.from_checkpoints(back, back, english)
    vectors = ContextualVectors.from_checkpoints(ahead, back, english)
    with pytest.raises(ValueError, match="but is the string 'and the'; split it"):
        vectors(["and the"])
    with pytest.raises(ValueError, match="lists of words, but are the string 'and the'; give"):
        vectors("and the")
    assert vectors([]) == []
    with pytest.raises(ValueError, match="as many layers, but they have 1 and 2"):
        ContextualVectors.from_checkpoints(ahead, paths("lstm")[1], english)
    wide = ["--decoder-hidden-size", "24", "--decoder-out-embed-dim", "16"]
    train(english, tmp_path, "lstm-forward", *wide, updates=1)
    odd = ContextualVectors.from_checkpoints(
        tmp_path / "checkpoint_last.pt", paths("lstm")[1], english
    )
    with pytest.raises(ValueError, match=r"hidden states have \[16, 24\]; train with"):
        odd([WORDS])


def test_a_masked_model_has_no_direction(paths, language_model, english):
    masked = language_model("masked-learned")
    with pytest.raises(ValueError, match="reads in one direction, but is a ContinuousMasked"):
        ContextualVectors.from_checkpoints(masked, paths("transformer")[1], english)


def test_learned_positions_end(english, paths, tmp_path):
    train(english, tmp_path, "transformer-vmf", "--decoder-learned-pos", updates=1)
    vectors = ContextualVectors.from_checkpoints(
        tmp_path / "checkpoint_last.pt", paths("transformer")[1], english
    )
    limit = vectors.models[0].decoder.embed_positions.max_positions
    assert len(vectors([["the"] * (limit - 1)])[0][0]) == limit - 1
    with pytest.raises(ValueError, match=rf"positions \({limit}\), but has {limit}; split it"):
        vectors([["the"] * limit])
