"""FixNorm: embeddings that share a learned table's parameter are read as rows of norm 1."""

import pytest
import torch
from factory import make_batch, make_criterion, make_dictionary, make_learned_model, make_model
from torch import nn

from fairseq_contout.models.fix_norm import UnitEmbedding

ALL = {"share_all_embeddings": True}
DECODER = {"share_decoder_input_output_embed": True}


@pytest.fixture
def dictionary():
    return make_dictionary()


def fixed(dictionary, arch="continuous_transformer_tiny", **options):
    return make_learned_model(dictionary, arch, fix_norm=True, **options)[0].eval()


def lengthen(model, lengths):
    with torch.no_grad():
        model.decoder.continuous_output.table.weight.mul_(lengths.unsqueeze(1))
    model.decoder.continuous_output.table.forget()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_unit_embedding_by_hand(dtype):
    torch.manual_seed(0)
    embedding = UnitEmbedding(7, 5, padding_idx=1).to(dtype)
    tokens = torch.tensor([[4, 1, 6], [0, 4, 1]])
    found = embedding(tokens)
    assert found.dtype == dtype and found[tokens == 1].eq(0).all()
    weight = embedding.weight.double()
    expected = weight[tokens] / (weight[tokens] ** 2).sum(-1, keepdim=True).sqrt()
    found, expected = found.double()[tokens != 1], expected[tokens != 1]
    torch.testing.assert_close(found, expected, atol=torch.finfo(dtype).eps, rtol=0)


def test_a_unit_embedding_has_the_gradient_of_a_direction():
    torch.manual_seed(0)
    embedding = UnitEmbedding(6, 4).double()
    tokens = torch.tensor([2, 5, 2])

    def read(weight):
        return torch.func.functional_call(embedding, {"weight": weight}, (tokens,))

    assert torch.autograd.gradcheck(read, (embedding.weight.detach().requires_grad_(),))


@pytest.mark.parametrize("tie, fixes", [(ALL, True), (DECODER, False)])
def test_who_shares_the_parameter_reads_directions(tie, fixes, dictionary):
    """The lengths of its rows change nothing; without the option, or untied, they do."""
    net_input = make_batch(dictionary)["net_input"]
    lengths = torch.linspace(0.5, 3.0, len(dictionary))
    model = fixed(dictionary, **tie)
    before = model(**net_input)[0].clone()
    lengthen(model, lengths)
    torch.testing.assert_close(model(**net_input)[0], before, atol=1e-5, rtol=1e-5)
    assert isinstance(model.encoder.embed_tokens, UnitEmbedding) == fixes
    plain = make_learned_model(dictionary, **tie)[0].eval()
    before = plain(**net_input)[0].clone()
    lengthen(plain, lengths)
    assert (plain(**net_input)[0] - before).abs().max() > 0.01


def test_rows_of_norm_1_are_read_alike(dictionary):
    """A model whose rows have norm 1 computes with the option what it does without."""
    net_input = make_batch(dictionary)["net_input"]
    outputs = []
    for fix_norm in (False, True):
        model = make_learned_model(dictionary, fix_norm=fix_norm, **ALL)[0].eval()
        weight = model.decoder.continuous_output.table.weight
        lengthen(model, 1 / weight.detach().norm(dim=1).clamp(min=1e-9))
        outputs.append(model(**net_input)[0])
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_the_length_of_a_row_has_no_gradient(dictionary):
    """So that a step moves a row across its direction; without the option, along it, too."""
    sample, along = make_batch(dictionary), {}
    for fix_norm in (False, True):
        model = make_learned_model(dictionary, fix_norm=fix_norm, **ALL)[0]
        criterion = make_criterion("contrastive", dictionary, sampled_negatives=0)
        criterion(model, sample)[0].backward()
        weight = model.decoder.continuous_output.table.weight
        cosine = torch.cosine_similarity(weight.grad.double(), weight.detach().double(), dim=1)
        along[fix_norm] = cosine[sample["target"].unique()[2:]].abs().max()
    assert along[True] < 1e-4 and along[False] > 1e-2


def test_another_learning_rate_of_the_table_reads_the_same_rows(dictionary):
    net_input = make_batch(dictionary)["net_input"]
    plain, scaled = fixed(dictionary, **ALL), fixed(dictionary, table_lr_scale=4.0, **ALL)
    torch.testing.assert_close(plain(**net_input)[0], scaled(**net_input)[0], atol=1e-5, rtol=1e-5)
    assert plain.encoder.embed_scale == scaled.encoder.embed_scale


def test_gradients_of_the_rows_that_are_read_stay_sparse(dictionary):
    options = {"sparse_gradients": True, "optimizer": "row_adam", **ALL}
    model = fixed(dictionary, **options).train()
    criterion = make_criterion("contrastive", dictionary, sampled_negatives=0)
    criterion(model, make_batch(dictionary))[0].backward()
    assert model.encoder.embed_tokens.weight.grad.is_sparse


def test_an_lstm_reads_directions(dictionary):
    sizes = {"decoder_embed_dim": 64, "decoder_out_embed_dim": 64}
    model = fixed(dictionary, "continuous_lstm", **DECODER, **sizes)
    assert isinstance(model.decoder.embed_tokens, UnitEmbedding)
    assert type(model.encoder.embed_tokens) is nn.Embedding


def test_what_is_refused(dictionary, tmp_path):
    with pytest.raises(ValueError, match="--fix-norm says how .* none are; give --share-decoder"):
        fixed(dictionary)
    with pytest.raises(ValueError, match="embeddings in place of --decoder-input table, or leave"):
        fixed(dictionary, decoder_input="table")
    with pytest.raises(ValueError, match="--fix-norm True shapes a learned table"):
        make_model(tmp_path, dictionary, fix_norm=True)
