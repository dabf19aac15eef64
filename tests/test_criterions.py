"""Criterions, built by fairseq: values, invariances, precision, logging, and clear refusals."""

import math
import types

import pytest
import torch
from factory import CRITERIONS, collate, make_batch, make_criterion, make_dictionary, make_model
from fairseq.logging import metrics

from fairseq_contout import losses
from fairseq_contout.criterions.base import ContinuousCriterion


@pytest.fixture
def dictionary():
    return make_dictionary()


def run(name, model, dictionary, sample, training=True, **options):
    criterion = make_criterion(name, dictionary, **options)
    criterion.train(training)
    model.train(training)
    model.zero_grad()
    loss, size, log = criterion(model, sample)
    if training:
        loss.backward()
    return loss.item(), size, log


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(one, other, factor=1.0):
    assert one.keys() == other.keys() and one
    for name in one:
        torch.testing.assert_close(factor * one[name], other[name], rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("name", ["cosine", "contrastive", "hybrid"])
def test_unknown_words_may_be_left_out(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    unknown = torch.zeros_like(sample["target"], dtype=torch.bool)
    unknown[0, 2] = unknown[1, 0] = True
    sample["target"][unknown] = dictionary.unk()
    criterion = make_criterion(name, dictionary, skip_unknown=True).eval()
    model.eval()
    total, size, log = criterion(model, sample)
    assert size == log["ntokens"] == log["validated"] == 16
    every = make_criterion(name, dictionary).eval()
    by_token, more, _ = every(model, sample, reduce=False)
    assert more == 18
    torch.testing.assert_close(by_token.masked_fill(unknown, 0).sum(), total)


@pytest.mark.parametrize("name", CRITERIONS)
def test_loss_is_the_sum_over_real_tokens(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    criterion = make_criterion(name, dictionary)
    assert isinstance(criterion, ContinuousCriterion)
    model.eval()
    criterion.eval()
    total, size, _ = criterion(model, sample)
    by_token, _, _ = criterion(model, sample, reduce=False)
    assert size == sample["ntokens"] == 18
    assert by_token.shape == sample["target"].shape
    assert by_token[sample["target"].eq(dictionary.pad())].eq(0).all()
    torch.testing.assert_close(by_token.sum(), total)
    if name == "cosine":  # by hand
        hidden = model(**sample["net_input"])[0]
        rows = model.decoder.continuous_output.table.weight[sample["target"]]
        by_hand = 1 - torch.cosine_similarity(hidden, rows, dim=-1)
        expected = by_hand.masked_fill(sample["target"].eq(dictionary.pad()), 0)
        torch.testing.assert_close(by_token, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CRITERIONS)
def test_padding_changes_nothing(name, tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, name)
    loss, size, _ = run(name, model, dictionary, make_batch(dictionary))
    before = gradients(model)
    padded, padded_size, _ = run(name, model, dictionary, make_batch(dictionary, extra_padding=4))
    assert padded == pytest.approx(loss, rel=1e-5) and padded_size == size
    assert_same_gradients(before, gradients(model))


@pytest.mark.parametrize("name", CRITERIONS)
def test_batch_order_changes_nothing(name, tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, name)
    generator = torch.Generator().manual_seed(0)
    sentences = [torch.randint(4, 24, (n,), generator=generator) for n in (5, 3, 7, 2)]
    loss, _, _ = run(name, model, dictionary, collate(dictionary, sentences))
    before = gradients(model)
    other, _, _ = run(name, model, dictionary, collate(dictionary, sentences[::-1]))
    assert other == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(before, gradients(model))


#: criterions whose loss of a token depends on the other tokens of its batch
BATCH_DEPENDENT = {"margin-batch", "contrastive"}


@pytest.mark.parametrize("name", sorted(set(CRITERIONS) - BATCH_DEPENDENT))
def test_accumulated_batches_equal_one_joint_batch(name, tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, name)
    generator = torch.Generator().manual_seed(0)
    sentences = [torch.randint(4, 24, (n,), generator=generator) for n in (5, 3, 7, 2)]
    criterion = make_criterion(name, dictionary)
    if name == "hybrid":  # which words were targets before is told to both
        criterion.observed.fill_(True)
    joint, size, _ = criterion(model, collate(dictionary, sentences))
    joint.backward()
    together = gradients(model)
    model.zero_grad()
    parts = [criterion(model, collate(dictionary, part)) for part in (sentences[:1], sentences[1:])]
    for loss, _, _ in parts:
        loss.backward()
    assert sum(part[1] for part in parts) == size
    assert sum(part[0].item() for part in parts) == pytest.approx(joint.item(), rel=1e-5)
    assert_same_gradients(together, gradients(model))


@pytest.mark.parametrize("name", CRITERIONS)
def test_sentence_avg_changes_the_sample_size_alone(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    by_token, tokens, _ = run(name, model, dictionary, sample)
    by_sentence, sentences, log = run(name, model, dictionary, sample, sentence_avg=True)
    assert (tokens, sentences, log["sample_size"]) == (18, 3, 3)
    assert by_sentence == pytest.approx(by_token)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CRITERIONS)
def test_half_precision_models(name, dtype, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    exact, _, _ = run(name, model, dictionary, sample)
    model.to(dtype)
    loss, _, log = run(name, model, dictionary, sample)
    assert log["loss"].dtype == torch.float32  # losses, norms and normalisers never are half
    assert math.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients(model).values())
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    # relative to the loss per token, plus 1: the vmf loss passes through 0
    assert abs(loss - exact) / 18 < tolerance * (1 + abs(exact) / 18)


@pytest.mark.parametrize("name", CRITERIONS)
def test_huge_half_precision_predictions_do_not_overflow(name, tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, name)
    sample = make_batch(dictionary)
    table = model.decoder.continuous_output.table.half()
    # ||h|| = 60,000 * sqrt(8): beyond the largest float16
    hidden = torch.full(sample["target"].shape + (8,), 6e4, dtype=torch.float16)
    fake = types.SimpleNamespace(
        decoder=types.SimpleNamespace(continuous_output=types.SimpleNamespace(table=table)),
        get_targets=lambda sample, output: sample["target"],
    )

    class Model(types.SimpleNamespace):
        def __call__(self, **inputs):
            return (hidden,)

    loss, _, _ = make_criterion(name, dictionary)(Model(**vars(fake)), sample)
    assert torch.isfinite(loss)


def reduced(criterion, logs):
    with metrics.aggregate(new_root=True) as aggregator:
        type(criterion).reduce_metrics(logs)
    return aggregator.get_smoothed_values(), aggregator


@pytest.mark.parametrize("name", CRITERIONS)
def test_validation_logs_accuracy_and_cosine(name, tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, name)
    samples = [make_batch(dictionary, seed=s, lengths=n) for s, n in ((0, (4, 6)), (1, (2,)))]
    logs = [run(name, model, dictionary, sample, training=False)[2] for sample in samples]
    criterion = make_criterion(name, dictionary)
    values, _ = reduced(criterion, logs)
    criterion.eval()
    # the same numbers, token by token
    table = model.decoder.continuous_output.table
    right = similar = length = count = loss = 0
    for sample in samples:
        real = sample["target"].ne(dictionary.pad())
        hidden, tokens = model(**sample["net_input"])[0][real], sample["target"][real]
        right += table.log_probs(hidden).argmax(dim=1).eq(tokens).sum().item()
        similar += losses.cosine_similarity(hidden, table.rows(tokens)).sum().item()
        length += hidden.norm(dim=1).sum().item()
        loss += criterion.token_losses(hidden, tokens, table).sum().item()
        count += len(tokens)
    assert values["accuracy"] == pytest.approx(100 * right / count, abs=1e-3)
    assert values["cosine"] == pytest.approx(similar / count, abs=1e-4)
    if name != "margin-batch":
        assert values["loss"] == pytest.approx(loss / count, abs=1e-4)
    assert values["ppl"] == pytest.approx(2 ** values["nll_loss"], rel=0.01)
    assert ("kappa" in values) == criterion.has_concentration
    if criterion.has_concentration:
        assert values["kappa"] == pytest.approx(length / count, abs=1e-3)
    assert not any(key.startswith("_") for key in values)


def test_logged_perplexity_is_that_of_the_calibrated_scale(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary)
    sample = make_batch(dictionary)
    criterion = make_criterion("cosine", dictionary).eval()
    model.eval()
    values, _ = reduced(criterion, [criterion(model, sample)[2]])
    real = sample["target"].ne(dictionary.pad())
    hidden, tokens = model(**sample["net_input"])[0][real], sample["target"][real]
    lprobs = model.decoder.continuous_output.table.log_probs(hidden)
    nll = torch.nn.functional.nll_loss(lprobs, tokens).item() / math.log(2)
    assert values["nll_loss"] == pytest.approx(nll, abs=0.01)


def test_calibration_starts_anew_after_training(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary), make_batch(dictionary)
    table = model.decoder.continuous_output.table
    criterion = make_criterion("cosine", dictionary)

    def step(training):
        criterion.train(training)
        model.train(training)
        criterion(model, sample)

    step(False)
    step(False)
    assert table.calibration.tokens == 36  # batches of one validation add up
    step(True)
    assert table.calibration.tokens == 36  # training touches nothing
    step(False)
    assert table.calibration.tokens == 18


def test_logs_of_processes_can_be_summed(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, "vmf")
    logs = [
        run("vmf", model, dictionary, make_batch(dictionary, seed=s), training=False)[2]
        for s in (0, 1)
    ]
    criterion = make_criterion("vmf", dictionary)
    assert criterion.logging_outputs_can_be_summed()
    summed = {key: logs[0][key] + logs[1][key] for key in logs[0]}
    assert reduced(criterion, [summed])[0] == pytest.approx(reduced(criterion, logs)[0])


def test_meters_are_saved_without_numpy(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary), make_batch(dictionary)
    criterion = make_criterion("cosine", dictionary)
    log = run("cosine", model, dictionary, sample, training=False)[2]
    _, aggregator = reduced(criterion, [log])
    path = tmp_path / "meters.pt"
    torch.save(aggregator.state_dict(), path)
    # refuses whatever is not known to hold data alone
    assert torch.load(path, weights_only=True)


def test_margin_seeks_the_most_informative_row_of_the_table(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, "margin")
    table = model.decoder.continuous_output.table
    hidden, tokens = torch.randn(30, 8), torch.randint(2, 24, (30,))
    got = make_criterion("margin", dictionary).token_losses(hidden, tokens, table)
    for i in range(30):
        own = table.weight[tokens[i]]
        informative = {
            j: torch.cosine_similarity(hidden[i], table.weight[j], dim=0).item()
            - torch.dot(own, table.weight[j]).item()
            for j in range(2, 24)  # <s> and <pad> are no negatives: they are never emitted
            if j != tokens[i]
        }
        worst = table.weight[max(informative, key=informative.get)]
        gap = torch.cosine_similarity(hidden[i], worst, dim=0) - torch.cosine_similarity(
            hidden[i], own, dim=0
        )
        assert got[i].item() == pytest.approx(max(0, 1.5 + gap.item()), abs=1e-5)


def test_margin_over_the_batch_needs_its_tokens_only(tmp_path, dictionary):
    model = make_model(tmp_path, dictionary, "margin-batch")
    table = model.decoder.continuous_output.table
    hidden, tokens = torch.randn(6, 8), torch.tensor([5, 6, 5, 7, 2, 2])
    criterion = make_criterion("margin-batch", dictionary)
    before = criterion.token_losses(hidden, tokens, table)
    table.weight[8:] = torch.nn.functional.normalize(
        hidden.sum(dim=0), dim=0
    )  # others do not count
    torch.testing.assert_close(criterion.token_losses(hidden, tokens, table), before)


def test_softmax_model_is_refused(dictionary):
    class SoftmaxModel(torch.nn.Module):
        decoder = torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="SoftmaxModel ends in a softmax.*continuous_transformer"):
        make_criterion("cosine", dictionary)(SoftmaxModel(), make_batch(dictionary))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("vmf", {"vmf_lambda1": -1.0}, "--vmf-lambda1 must be 0 or more, but is -1.0"),
        ("vmf", {"vmf_lambda2": 0.0}, "--vmf-lambda2 must be greater than 0, but is 0.0"),
        ("margin", {"margin": 0.0}, "--margin must be between 0 and 2"),
        ("syn_margin", {"margin": 2.5}, "--margin must be between 0 and 2"),
        ("power_spherical", {"ps_lambda2": -1.0}, "--ps-lambda2 must be greater than 0"),
        ("power_spherical", {"ps_lambda1": -1.0}, "--ps-lambda1 must be 0 or more"),
    ],
)
def test_bad_options_are_refused(name, options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        make_criterion(name, dictionary, **options)


@pytest.mark.parametrize("name", sorted(CRITERIONS))
def test_losses_are_computed_in_full_precision_under_autocast(name, tmp_path):
    dictionary = make_dictionary()
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    criterion = make_criterion(name, dictionary, **CRITERIONS[name])
    if name.startswith("contrastive"):
        criterion = make_criterion(name, dictionary, sampled_negatives=8, additive_margin=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(3)
        found = criterion(model, sample)[0]
        predicted = model(**sample["net_input"])[0]
    if hasattr(criterion, "term"):
        criterion.term.observed.zero_()
    real = sample["target"].ne(dictionary.pad())
    table = model.decoder.continuous_output.table
    torch.manual_seed(3)
    expected = criterion.token_losses(predicted.float()[real], sample["target"][real], table)
    assert predicted.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected.sum(), rtol=1e-6, atol=1e-5)
    found.backward()


@pytest.mark.parametrize("name", ["cosine", "contrastive", "hybrid"])
def test_a_target_that_may_not_be_emitted_is_refused(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    sample["target"][0, 0] = dictionary.bos()
    criterion = make_criterion(name, dictionary)
    with pytest.raises(ValueError, match="one is '<s>' .index 0.*leave it out of the target text"):
        criterion(model, sample)
