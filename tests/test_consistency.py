"""Two predictions of one batch that must agree: the consistency term, and R-Drop."""

import pytest
import torch
import torch.nn.functional as F
from factory import CRITERIONS, make_batch, make_criterion, make_dictionary, make_model

from fairseq_contout.criterions.terms import doubled
from fairseq_contout.losses import corrected_logits, jeffreys_divergence


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
    state, losses = torch.get_rng_state(), 0  # both are compared with the same rows
    for view in (first, second):
        torch.set_rng_state(state)
        losses = losses + criterion.token_losses(view, tokens, table).sum() / 2
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


def test_the_divergence_is_that_of_the_definition():
    torch.manual_seed(0)
    logits, other = 3 * torch.randn(2, 50, 30, dtype=torch.float64).requires_grad_()
    found = jeffreys_divergence(logits, other)
    p, q = (torch.distributions.Categorical(logits=x) for x in (logits, other))
    both = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(found, both / 2)
    torch.testing.assert_close(jeffreys_divergence(other, logits), found)
    # of a distribution, not of the numbers that stand for it
    torch.testing.assert_close(jeffreys_divergence(logits + 40, other - 7), found)
    assert jeffreys_divergence(logits, logits).abs().max() == 0
    assert torch.autograd.gradcheck(jeffreys_divergence, (logits[:3], other[:3]))


@pytest.mark.parametrize("ahead", [0.0, 8.0, 11.0])  # p of about 0, 0.5 and 0.9
def test_the_divergence_over_candidates_estimates_that_of_the_table(ahead):
    """The target is always a candidate of its token: it stands for itself, the others for 1 / Q."""
    generator = torch.Generator().manual_seed(3)
    logits, other = torch.randn(2, 1, 2000, generator=generator, dtype=torch.float64)
    q = 0.2 + 0.5 * torch.rand(2000, generator=generator, dtype=torch.float64)
    logits[0, 0], other[0, 0], q[0] = ahead, ahead - 0.5, 0.2
    exact, found = jeffreys_divergence(logits, other).item(), {"its own": [], "1": []}
    for _ in range(300):
        drawn = torch.rand(2000, generator=generator) < q
        drawn[0] = True
        kept = drawn.nonzero().squeeze(1)
        column = torch.zeros(1, dtype=torch.long)
        for name, log_q in (("its own", q[0].log()), ("1", torch.zeros(()))):
            pair = [
                corrected_logits(part[:, kept], column, q[kept].log(), (part[:, 0], log_q.view(1)))
                for part in (logits, other)
            ]
            found[name].append(jeffreys_divergence(*pair))
    means = {name: torch.cat(values).mean().item() for name, values in found.items()}
    error = torch.cat(found["1"]).std().item() / 300**0.5
    # the estimate of a ratio has a bias, which falls with the number of candidates
    assert abs(means["1"] - exact) < 4 * error + 0.03 * exact
    assert not ahead or abs(means["its own"] - exact) > 0.1 * exact


@pytest.mark.parametrize(
    "name, options",
    [
        ("contrastive", {}),
        ("contrastive", {"label_smoothing": 0.1, "additive_margin": 0.1}),
        ("contrastive", {"max_candidates": 6}),
        ("contrastive", {"contrastive_synthetic": "difference"}),
        ("hybrid", {"hybrid_weight": 0.5, "label_smoothing": 0.1}),
        ("cosine", {"contrastive_weight": 0.7, "sampled_negatives": 16}),
    ],
)
def test_r_drop_adds_half_of_alpha_times_the_divergence(name, options, tmp_path, dictionary):
    model = with_dropout(make_model(tmp_path, dictionary, name), 0.4)
    sample, found = make_batch(dictionary), {}
    for alpha in (0.0, 2.0, 6.0):
        # the consistency weight has the batch predicted twice without R-Drop, too
        criterion = make_criterion(
            name, dictionary, r_drop=alpha, consistency_weight=1e-9, **options
        )
        torch.manual_seed(11)
        found[alpha] = criterion(model, sample, reduce=False)[0]
    added = found[2.0] - found[0.0]
    real = sample["target"].ne(dictionary.pad())
    assert added[real].min() >= -1e-6 and added.sum() > 0.01 and not added[~real].any()
    torch.testing.assert_close(found[6.0] - found[0.0], 3 * added, atol=2e-5, rtol=1e-3)


def test_r_drop_by_hand(tmp_path, dictionary):
    model = with_dropout(make_model(tmp_path, dictionary, "hybrid"), 0.4)
    sample = make_batch(dictionary)
    criterion = make_criterion(
        "hybrid", dictionary, r_drop=5.0, hybrid_weight=0.0, neighbour_smoothing=0.0
    )
    torch.manual_seed(7)
    loss = criterion(model, sample)[0]
    torch.manual_seed(7)
    both = model(**doubled(sample["net_input"]))[0]
    real = sample["target"].ne(dictionary.pad())
    table, tokens = model.decoder.continuous_output.table, sample["target"][real]
    scale = criterion.scale("cosine")
    log_probs = [
        torch.log_softmax(
            (scale * F.normalize(view[real], dim=1) @ table.weight.t())[:, table.emittable], 1
        )
        for view in (both[0::2], both[1::2])
    ]
    own = table.emittable.cumsum(0)[tokens] - 1
    # what the authors minimise: both losses of a token, and alpha times half of both divergences
    theirs = sum(F.nll_loss(part, own, reduction="sum") for part in log_probs)
    for one, two in (log_probs, log_probs[::-1]):
        theirs = theirs + 5.0 * F.kl_div(two, one, reduction="sum", log_target=True) / 2
    torch.testing.assert_close(loss, theirs / 2)


@pytest.mark.parametrize("options", [{}, {"additive_margin": 0.2}, {"max_candidates": 6}])
def test_r_drop_over_candidates_by_hand(options, tmp_path, dictionary):
    """The loss, and its gradients through both predictions and the scale."""
    model = with_dropout(make_model(tmp_path, dictionary, "contrastive"), 0.4)
    sample, options = make_batch(dictionary), {"sampled_negatives": 8, **options}
    real = sample["target"].ne(dictionary.pad())
    table, tokens = model.decoder.continuous_output.table, sample["target"][real]

    def predict(criterion):
        torch.manual_seed(7)
        both = model(**doubled(sample["net_input"]))[0]
        return criterion.term, [both[0::2][real], both[1::2][real]]

    def divergence(criterion):
        term, views = predict(criterion)
        candidates, total = term._candidates(tokens, table), 0
        for i, token in enumerate(tokens.tolist()):
            own = [int(candidates.positive[i])]
            others = [c for c in range(len(candidates.index)) if c not in own]
            index = torch.tensor([token, *candidates.index[others].tolist()])
            weight = torch.tensor([1.0, *(1 / candidates.log_q[others].exp()).tolist()])
            p, q = (
                F.normalize(weight * (term.scale("cosine") * cosines).exp(), p=1, dim=0)
                for cosines in (table.weight[index] @ F.normalize(v[i], dim=0) for v in views)
            )
            total = total + ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
        return total

    def gradients(loss, criterion):
        parameters = [*model.parameters(), *criterion.parameters()]
        found = torch.autograd.grad(loss, [p for p in parameters if p.requires_grad])
        return torch.cat([part.flatten() for part in found])

    results = {}
    for alpha in (0.0, 5.0):
        criterion = make_criterion(
            "contrastive", dictionary, r_drop=alpha, consistency_weight=1e-9, **options
        )
        torch.manual_seed(7)
        loss, _, _ = criterion(model, sample)
        counted = torch.bincount(tokens, minlength=len(dictionary))
        assert torch.equal(criterion.term.observed, counted)  # once, though predicted twice
        results[alpha] = loss, gradients(loss, criterion)
    criterion.term.observed.zero_()
    expected = 2.5 * divergence(criterion)
    torch.testing.assert_close(results[5.0][0] - results[0.0][0], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        results[5.0][1] - results[0.0][1], gradients(expected, criterion), rtol=1e-2, atol=2e-3
    )


def test_r_drop_is_for_losses_with_a_distribution(dictionary):
    with pytest.raises(ValueError, match="--r-drop 5.0 shapes the contrastive loss, which is not"):
        make_criterion("cosine", dictionary, r_drop=5.0)
    with pytest.raises(ValueError, match="--r-drop must be 0 or more, but is -1"):
        make_criterion("contrastive", dictionary, sampled_negatives=8, r_drop=-1)


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
    dropped = make_criterion("hybrid", dictionary, r_drop=3.0).eval()
    assert (
        dropped(model, sample)[0] == make_criterion("hybrid", dictionary).eval()(model, sample)[0]
    )
    assert plain(model, sample)[0] == twice(model, sample)[0]
    seen = []
    model.encoder.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    twice(model, sample)
    twice.train()(model.train(), sample)
    assert seen == [len(sample["target"]), 2 * len(sample["target"])]


def test_a_negative_weight_is_refused(dictionary):
    with pytest.raises(ValueError, match="--consistency-weight must be 0 or more, but is -1"):
        make_criterion("cosine", dictionary, consistency_weight=-1)
