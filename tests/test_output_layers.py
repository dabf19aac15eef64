"""Layers between features and predictions, and the learning rate of a learned table."""

import pytest
import torch
from factory import make_batch, make_criterion, make_dictionary, make_learned_model, make_table

from fairseq_contout.models.continuous_output import ContinuousOutput


@pytest.fixture
def dictionary():
    return make_dictionary()


def learned_model(*arguments, **options):
    return make_learned_model(*arguments, **options)[0]


def test_a_linear_map_is_all_there_is_by_default(dictionary):
    output = learned_model(dictionary).decoder.continuous_output
    names = sorted(name for name, _ in output.named_parameters())
    assert names == ["projection.bias", "projection.weight", "table.weight"]


def test_layers_by_hand():
    table, _ = make_table(dim=6)
    torch.manual_seed(0)
    output = ContinuousOutput(5, table, mlp_dim=9, layer_norm=True, dropout=0.5).eval()
    features = torch.randn(3, 5)
    hidden = (features @ output.hidden.weight.t() + output.hidden.bias).clamp(min=0)
    expected = hidden @ output.projection.weight.t() + output.projection.bias
    expected = (expected - expected.mean(1, keepdim=True)) / (
        expected.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(output(features), expected)
    dropped = output.train()(features.repeat(500, 1))
    assert dropped.eq(0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(dropped[0][dropped[0] != 0], 2 * expected[0][dropped[0] != 0])


@pytest.mark.parametrize("mlp_dim", [0, 96])
@pytest.mark.parametrize("length", [0.5, 1.0, 20.0])
def test_predictions_begin_with_the_length_that_is_asked_for(mlp_dim, length):
    table, _ = make_table(dim=48)
    torch.manual_seed(0)
    output = ContinuousOutput(64, table, mlp_dim=mlp_dim, initial_length=length)
    features = torch.nn.functional.layer_norm(torch.randn(400, 64), (64,))
    assert output(features).square().sum(1).mean().sqrt().item() == pytest.approx(length, rel=0.1)


def initial_length(dictionary, **options):
    model = learned_model(dictionary, **options)
    features = torch.nn.functional.layer_norm(torch.randn(400, 64), (64,))
    return model.decoder.continuous_output(features).square().sum(1).mean().sqrt().item()


def test_the_criterion_says_how_long_predictions_begin(dictionary):
    """With ``l2`` as long as targets, with ``power_spherical`` as a likely κ, else Xavier's √d."""
    dim = learned_model(dictionary).decoder.continuous_output.table.dim
    assert initial_length(dictionary, criterion="l2") == pytest.approx(1, rel=0.15)
    for criterion in ("cosine", "contrastive"):
        assert initial_length(dictionary, criterion=criterion) == pytest.approx(dim**0.5, rel=0.15)
    long = initial_length(dictionary, criterion="power_spherical")
    assert long == pytest.approx(dim, rel=0.15)
    given = initial_length(dictionary, criterion="l2", initial_length=3.0)
    assert given == pytest.approx(3, rel=0.15)
    # a LayerNorm fixes the length: there is nothing to begin with
    normalised = initial_length(dictionary, criterion="l2", output_layer_norm=True)
    assert normalised == pytest.approx(dim**0.5, rel=1e-3)


@pytest.mark.parametrize(
    "arch, options, expected",
    [
        ("continuous_transformer_tiny", {}, 1),
        # the features of an LSTM are short: Xavier's initialisation is near the targets already
        ("continuous_lstm", {"decoder_out_embed_dim": 64}, 1),
        # and a second term of the same length
        ("continuous_transformer_tiny", {"lexical_shortcut": True}, 2**0.5),
    ],
)
def test_whole_models_begin_as_long_as_targets_with_l2(arch, options, expected, dictionary):
    torch.manual_seed(0)
    model = learned_model(dictionary, arch, criterion="l2", **options).eval()
    predicted = model(**make_batch(dictionary)["net_input"])[0]
    length = predicted.square().sum(-1).mean().sqrt().item()
    assert length == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("arch", ["continuous_transformer_tiny", "continuous_lstm"])
def test_options_reach_the_output(arch, dictionary):
    options = {"output_mlp_dim": 12, "output_layer_norm": True, "output_dropout": 0.25}
    model = learned_model(dictionary, arch, **options)
    output = model.decoder.continuous_output
    assert output.hidden.out_features == output.projection.in_features == 12
    assert output.layer_norm is not None and output.dropout.p == 0.25


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_mlp_dim": -1}, "--output-mlp-dim must be 0 .* or more, but is -1"),
        ({"output_dropout": 1.0}, "--output-dropout must be 0 or more and less than 1"),
        ({"initial_length": 0.0}, "--initial-length must be greater than 0 and finite"),
        (
            {"initial_length": 1.0, "output_layer_norm": True},
            "--output-layer-norm fixes it; leave one of them out",
        ),
        ({"table_lr_scale": 0.0}, "--table-lr-scale must be greater than 0 and finite"),
        ({"table_lr_scale": 2.0, "optimizer": "sgd"}, "but --optimizer is sgd; choose one of adam"),
        (
            {"table_lr_scale": 2.0, "target_table": "x.safetensors"},
            "--table-lr-scale 2.0 shapes a learned table",
        ),
    ],
)
def test_options_out_of_range(options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        learned_model(dictionary, **options)


def test_a_tied_lstm_has_no_scaled_embeddings(dictionary):
    sizes = {"decoder_embed_dim": 64, "decoder_out_embed_dim": 64}
    tied = {"share_decoder_input_output_embed": True, "table_lr_scale": 2.0}
    with pytest.raises(ValueError, match="ContinuousLSTMModel; leave the --share-… flag out"):
        learned_model(dictionary, "continuous_lstm", **tied, **sizes)
    learned_model(dictionary, "continuous_lstm", table_lr_scale=2.0)


TIES = [
    {},
    {"share_decoder_input_output_embed": True},
    {"share_all_embeddings": True},
    {"share_all_embeddings": True, "table_ema": 0.9},
]


@pytest.mark.parametrize("tie", TIES)
def test_another_learning_rate_changes_nothing_before_the_first_step(tie, dictionary):
    sample = make_batch(dictionary)
    plain = learned_model(dictionary, **tie).eval()
    scaled = learned_model(dictionary, table_lr_scale=4.0, **tie).eval()
    torch.testing.assert_close(
        plain(**sample["net_input"])[0], scaled(**sample["net_input"])[0], atol=1e-5, rtol=1e-5
    )
    rows = (model.decoder.continuous_output.table.rows() for model in (plain, scaled))
    torch.testing.assert_close(*rows)


@pytest.mark.parametrize("tie", TIES[:3])
def test_one_step_with_another_learning_rate(tie, dictionary):
    """As with two parameter groups in torch: the table's steps are X times longer."""
    factor, rate, sample = 4.0, 1e-3, make_batch(dictionary)

    def step(model, groups):
        criterion = make_criterion("contrastive", dictionary, sampled_negatives=0)
        optimizer = torch.optim.Adam(groups(model), lr=rate, eps=1e-30)
        criterion(model, sample)[0].backward()
        optimizer.step()
        return model.decoder.continuous_output.table.rows().detach()

    def grouped(model):
        table = model.decoder.continuous_output.table.weight
        others = [p for p in model.parameters() if p is not table]
        return [{"params": others}, {"params": [table], "lr": factor * rate}]

    scaled = learned_model(dictionary, table_lr_scale=factor, **tie)
    found = step(scaled, lambda model: model.parameters())
    expected = step(learned_model(dictionary, **tie), grouped)
    before = learned_model(dictionary, **tie).decoder.continuous_output.table.rows()
    # far rows may have gradients that are nothing but rounding, of either sign
    moved = [w for w in range(4, len(dictionary)) if w in sample["target"]]
    torch.testing.assert_close(found[moved], expected[moved], atol=2e-4, rtol=0)
    assert (found - before)[moved].abs().max() > 2e-3
