"""continuous_lstm on a CPU: as without the gathering of its gradients, whatever is asked of it."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from factory import make_batch, make_dictionary, make_model
from fairseq.modules import FairseqDropout

from fairseq_contout.models import recurrent

SIZES = {
    "plain": {},
    "bidirectional": {"encoder_bidirectional": True, "encoder_layers": 2, "decoder_layers": 2},
    "residuals": {"decoder_layers": 3, "encoder_layers": 3, "residuals": True},
    "without attention": {"decoder_attention": "False"},
    "projected": {"encoder_hidden_size": 10, "decoder_out_embed_dim": 6},
}


@pytest.fixture
def counted(monkeypatch):
    """Count the gradients of weights that are computed."""
    calls, backward = [], recurrent._Gather.backward

    def count(ctx, *gradients):
        calls.append(len(ctx.steps))
        return backward(ctx, *gradients)

    monkeypatch.setattr(recurrent._Gather, "backward", staticmethod(count))
    return calls


@pytest.mark.parametrize("size", SIZES)
def test_a_model_is_as_without(size, tmp_path, counted, monkeypatch):
    options = {
        "encoder_embed_dim": 8,
        "decoder_embed_dim": 8,
        "encoder_hidden_size": 12,
        "decoder_hidden_size": 12,
        "decoder_out_embed_dim": 12,
        "encoder_bidirectional": False,
        **SIZES[size],
    }
    dictionary = make_dictionary()
    model = make_model(tmp_path, dictionary, arch="continuous_lstm", **options)
    model.double().train()
    for module in model.modules():
        if isinstance(module, FairseqDropout):
            module.p = 0.3
    sample = make_batch(dictionary)

    def gradients():
        model.zero_grad()
        torch.manual_seed(3)  # of the dropout
        hidden = model(**sample["net_input"])[0]
        hidden[sample["target"] != dictionary.pad()].pow(2).sum().backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return hidden.detach(), found

    hidden, ours = gradients()
    layers = options.get("decoder_layers", 1)
    steps = sample["net_input"]["prev_output_tokens"].size(1)
    attention = 0 if size == "without attention" else 4
    assert counted == [steps] * (layers + attention)
    monkeypatch.setattr("fairseq_contout.models.lstm.gathering", lambda *_: nullcontext())
    expected, theirs = gradients()
    assert len(counted) == layers + attention and len(ours) > 8
    torch.testing.assert_close(hidden, expected)
    torch.testing.assert_close(ours, theirs)


def small_model(folder):
    options = dict.fromkeys(("encoder_hidden_size", "decoder_hidden_size"), 12)
    options.update(dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 8))
    dictionary = make_dictionary()
    model = make_model(
        folder, dictionary, arch="continuous_lstm", decoder_out_embed_dim=12, **options
    )
    return model.eval(), make_batch(dictionary)


def gradients_of(model, sample):
    model.zero_grad()
    loss = model(**sample["net_input"])[0].float().square().sum()
    (64 * loss).backward()  # as fairseq scales it, so that half precision has digits left
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision(dtype, tmp_path, counted):
    model, sample = small_model(tmp_path)
    expected = gradients_of(model, sample)
    ours = gradients_of(model.to(dtype), sample)
    assert len(counted) == 2 * 5 and {x.dtype for x in ours.values()} == {dtype}
    for name, value in ours.items():
        error = (value.float() - expected[name]).norm() / expected[name].norm()
        assert error < 0.05, name


FROZEN = ("decoder.layers", "decoder.layers.0.weight_ih", "decoder.attention", "encoder")


@pytest.mark.parametrize("part", FROZEN)
def test_frozen_parts(part, tmp_path):
    model, sample = small_model(tmp_path)
    expected = gradients_of(model.double(), sample)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(part))
    ours = gradients_of(model, sample)
    assert ours.keys() == {name for name in expected if not name.startswith(part)} < {*expected}
    torch.testing.assert_close(ours, {name: expected[name] for name in ours})


def test_what_is_gathered_is_gone_with_the_forward(tmp_path):
    model, sample = small_model(tmp_path)
    expected = gradients_of(model, sample)
    wrong = {**sample["net_input"], "prev_output_tokens": torch.full((3, 2), 10**6)}
    with pytest.raises(IndexError):
        model(**wrong)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(gradients_of(copied, sample), expected)
    model(**sample["net_input"])  # whose gradients nobody asks for
    torch.testing.assert_close(gradients_of(model, sample), expected)


def encoder_input(dictionary):
    given = make_batch(dictionary)["net_input"]
    return {name: given[name] for name in ("src_tokens", "src_lengths")}


def test_nothing_is_gathered_where_there_is_no_gradient(tmp_path, monkeypatch):
    dictionary = make_dictionary()
    model = make_model(tmp_path, dictionary, arch="continuous_lstm", decoder_out_embed_dim=512)
    monkeypatch.setattr(recurrent, "GatheredWeight", lambda _: pytest.fail("gathered"))
    with torch.no_grad():
        model.eval()(**make_batch(dictionary)["net_input"])
    with pytest.raises(pytest.fail.Exception):
        model(**make_batch(dictionary)["net_input"])
    # nor on another device
    encoded = [x.to("meta") for x in model.encoder(**encoder_input(dictionary))]
    tokens = make_batch(dictionary)["net_input"]["prev_output_tokens"].to("meta")
    assert model.decoder.to("meta")(tokens, encoder_out=encoded)[0].shape == (3, 8, 8)
