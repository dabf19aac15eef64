"""Two predictions of one batch that must agree: the consistency term."""

import pytest
import torch
import torch.nn.functional as F
from factory import CRITERIONS, make_batch, make_criterion, make_dictionary, make_model

from fairseq_contout.criterions.terms import doubled


@pytest.fixture
def dictionary():
    return make_dictionary()


def with_dropout(model, p):
    for module in model.modules():
        if hasattr(module, "p") and hasattr(module, "apply_during_inference"):
            module.p = p
    return model.train()


def test_a_batch_is_repeated(dictionary):
    inputs = make_batch(dictionary)["net_input"]
    for name, value in doubled({**inputs, "flag": True}).items():
        if name == "flag":
            assert value is True
        else:
            assert value.shape[0] == 2 * inputs[name].shape[0]
            torch.testing.assert_close(value[0::2], inputs[name])
            torch.testing.assert_close(value[1::2], inputs[name])


@pytest.mark.parametrize("name", ["contrastive", "cosine", "vmf", "hybrid"])
def test_by_hand(name, tmp_path, dictionary):
    model = with_dropout(make_model(tmp_path, dictionary, name.split("-")[0]), 0.4)
    sample, options = make_batch(dictionary), CRITERIONS[name]
    criterion = make_criterion(name, dictionary, consistency_weight=3.0, **options)
    torch.manual_seed(7)
    loss, size, log = criterion(model, sample)
    for name_, counts in criterion.named_buffers():
        if name_.endswith("observed"):
            counts.zero_()  # it has counted this batch
    torch.manual_seed(7)
    both = model(**doubled(sample["net_input"]))[0]
    real = sample["target"].ne(dictionary.pad())
    first, second = both[0::2][real], both[1::2][real]
    assert (first - second).abs().max() > 0.01  # dropout made two views of it
    table, tokens = model.decoder.continuous_output.table, sample["target"][real]
    losses = sum(criterion.token_losses(view, tokens, table).sum() / 2 for view in (first, second))
    apart = (1 - F.cosine_similarity(first, second)).sum()
    torch.testing.assert_close(loss, losses + 3.0 * apart)
    assert size == sample["ntokens"] and log["nsentences"] == len(sample["target"])


@pytest.mark.parametrize("name", sorted(CRITERIONS))
def test_without_dropout_nothing_is_added(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name.split("-")[0]), make_batch(dictionary)
    with_dropout(model, 0.0)
    plain = make_criterion(name.split("-")[0], dictionary, **CRITERIONS[name])
    twice = make_criterion(
        name.split("-")[0], dictionary, consistency_weight=3.0, **CRITERIONS[name]
    )
    expected, _, _ = plain(model, sample, reduce=False)
    found, _, _ = twice(model, sample, reduce=False)
    assert found.shape == sample["target"].shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_recurrent_model_wants_sorted_batches(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, "cosine", arch="continuous_lstm")
    criterion = make_criterion("cosine", dictionary, consistency_weight=3.0)
    loss, _, _ = criterion(with_dropout(model, 0.1), make_batch(dictionary))
    loss.backward()
    assert model.encoder.embed_tokens.weight.grad.norm() > 0


def test_validation_predicts_once(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "cosine"), make_batch(dictionary)
    with_dropout(model, 0.4).eval()
    plain = make_criterion("cosine", dictionary).eval()
    twice = make_criterion("cosine", dictionary, consistency_weight=3.0).eval()
    assert plain(model, sample)[0] == twice(model, sample)[0]
    seen = []
    model.encoder.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    twice(model, sample)
    twice.train()(model.train(), sample)
    assert seen == [len(sample["target"]), 2 * len(sample["target"])]


def test_a_negative_weight_is_refused(dictionary):
    with pytest.raises(ValueError, match="--consistency-weight must be 0 or more, but is -1"):
        make_criterion("cosine", dictionary, consistency_weight=-1)
