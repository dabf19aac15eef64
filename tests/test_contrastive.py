"""The contrastive loss: its correction against enumeration, its candidates, its learned scale."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from factory import make_batch, make_criterion, make_dictionary, make_model, make_table

from fairseq_contout.losses import contrastive_loss
from fairseq_contout.sampling import draw, log_inclusion, unigram


@pytest.fixture
def dictionary():
    return make_dictionary()


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_rows_as_candidates_are_a_softmax(smoothing):
    logits, target = random(5, 9), torch.tensor([0, 3, 8, 3, 1])
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    found = contrastive_loss(logits, target, torch.zeros(9, dtype=torch.float64), smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient(smoothing):
    log_q = -random(9, seed=1).abs()
    logits, target = random(5, 9).requires_grad_(), torch.tensor([0, 3, 8, 3, 1])
    assert torch.autograd.gradcheck(
        lambda x: contrastive_loss(x, target, log_q, smoothing), (logits,)
    )


def test_inclusion_by_enumeration():
    text = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    drawn = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for outcome in itertools.product(range(3), repeat=4):  # two tokens, then two draws
        probability = text[list(outcome[:2])].prod() * drawn[list(outcome[2:])].prod()
        expected[list(set(outcome))] += probability
    torch.testing.assert_close(log_inclusion(text, 2, drawn, 2).exp(), expected)


def test_the_normaliser_is_estimated_without_bias():
    # E[Σ_{w in candidates} exp(s_w) / Q_w] over all sets of candidates is the sum over the table
    logits = random(4)
    drawn = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    log_q = log_inclusion(torch.zeros(4, dtype=torch.float64), 0, drawn, 3)
    mean = 0.0
    for outcome in itertools.product(range(4), repeat=3):
        candidates = torch.tensor(sorted(set(outcome)))
        first = torch.zeros(1, dtype=torch.long)
        # the loss plus the target's logit is the estimated log-normaliser
        loss = contrastive_loss(logits[candidates].unsqueeze(0), first, log_q[candidates])
        mean += drawn[list(outcome)].prod() * (loss + logits[candidates[0]]).exp()
    torch.testing.assert_close(mean, logits.exp().sum().unsqueeze(0))


def test_with_a_certain_target_the_normaliser_is_estimated_without_bias():
    """Its own row is there whatever is drawn, and counts once; a mean over all draws."""
    logits, target = random(4), torch.tensor([2])
    logits[2] += 3  # likely already
    drawn = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    log_q = log_inclusion(torch.zeros(4, dtype=torch.float64), 0, drawn, 3)
    means = {"certain": 0.0, "as drawn": 0.0}
    for outcome in itertools.product(range(4), repeat=3):
        candidates = torch.tensor(sorted({*outcome, 2}))
        column = torch.searchsorted(candidates, target)
        own = logits[target], torch.zeros(1, dtype=torch.float64)
        for name, given in (("certain", own), ("as drawn", None)):
            part = logits[candidates].unsqueeze(0)
            loss = contrastive_loss(part, column, log_q[candidates], own=given)
            means[name] += drawn[list(outcome)].prod() * (loss + logits[target]).exp()
    torch.testing.assert_close(means["certain"], logits.exp().sum().unsqueeze(0))
    assert means["as drawn"] > 1.1 * means["certain"]


def test_a_rare_target_has_a_larger_gradient_when_it_is_certain():
    """Near that of the full softmax, where the row is seldom a candidate of other tokens."""
    logits = random(1, 40)
    logits[0, 5] += 5  # some 0.6 of the probability
    logits.requires_grad_()
    target, log_q = torch.tensor([5]), torch.zeros(40, dtype=torch.float64)
    log_q[5] = math.log(0.1)
    certain = logits[:, 5], torch.zeros(1, dtype=torch.float64)
    full, drawn, importance = (
        torch.autograd.grad(contrastive_loss(logits, target, q, own=own).sum(), logits)[0][0, 5]
        for q, own in ((torch.zeros_like(log_q), None), (log_q, None), (log_q, certain))
    )
    torch.testing.assert_close(importance, full)
    assert full < 3 * drawn < 0  # a gradient of the loss: the target's logit grows


def test_smoothing_weights_estimate_the_uniform_distribution():
    log_q = torch.log(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    logits, target = random(1, 3), torch.tensor([0])
    total = (logits - log_q).logsumexp(dim=1)
    uniform = (logits * torch.tensor([1, 2, 4])).sum() / 7
    expected = 0.8 * (total - logits[:, 0]) + 0.2 * (total - uniform)
    torch.testing.assert_close(contrastive_loss(logits, target, log_q, 0.2), expected)


def test_draws_follow_their_distribution_and_the_seed():
    probabilities = unigram(torch.tensor([0, 16, 9, 4, 1]), torch.tensor([0, 1, 1, 1, 1]), 0.5)
    expected = torch.tensor([0, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    torch.testing.assert_close(probabilities, expected)
    torch.manual_seed(3)
    found = draw(probabilities.cumsum(0), 100_000)
    share = torch.bincount(found, minlength=5) / 100_000
    assert share[0] == 0
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / 100_000)  # five deviations
    torch.manual_seed(3)
    assert draw(probabilities.cumsum(0), 100_000).equal(found)
    with pytest.raises(ValueError, match="--negative-power must be between 0 .* but is 2"):
        unigram(torch.ones(3), torch.ones(3), 2)


def test_words_without_a_count_can_be_drawn():
    uniform = unigram(torch.tensor([0, 0, 5]), torch.tensor([False, True, True]), 0.0)
    assert uniform.tolist() == [0, 0.5, 0.5]
    assert unigram(torch.tensor([0, 0, 3]), torch.ones(3), 1.0).tolist() == [0.2, 0.2, 0.6]


def loss_of(name, model, sample, dictionary, **options):
    torch.manual_seed(5)
    criterion = make_criterion(name, dictionary, **options)
    model.zero_grad()
    loss, _, _ = criterion(model, sample)
    loss.backward()
    return loss.item(), criterion


def by_hand(model, sample, dictionary, number, margin=0.0, power=0.0, certain=False):
    """The loss with loops: candidates of the same seed, probabilities one by one."""
    table = model.decoder.continuous_output.table
    real = sample["target"].ne(dictionary.pad())
    hidden, target = model(**sample["net_input"])[0][real], sample["target"][real].tolist()
    torch.manual_seed(5)
    counts = torch.tensor(dictionary.count)
    drawn = draw(unigram(counts, table.emittable, power).cumsum(0), number).tolist()
    allowed = table.emittable.nonzero().flatten().tolist()
    text = {w: max(1, dictionary.count[w]) for w in allowed}
    weight = {w: text[w] ** power for w in allowed}
    missing = {
        w: (1 - text[w] / sum(text.values())) ** len(target)
        * (1 - weight[w] / sum(weight.values())) ** number
        for w in allowed
    }
    total, tau = 0.0, 16.0
    for h, w in zip(hidden, target):
        shares = []
        for c in sorted({*target, *drawn}):
            logit = tau * (torch.cosine_similarity(h, table.weight[c], dim=0).item())
            q = 1.0 if c == dictionary.eos() or (certain and c == w) else 1 - missing[c]
            shares.append(math.exp(logit - (tau * margin if c == w else 0)) / q)
        own = tau * (torch.cosine_similarity(h, table.weight[w], dim=0).item() - margin)
        total += math.log(sum(shares)) - own
    return total


@pytest.mark.parametrize("estimator", ["posterior", "importance"])
@pytest.mark.parametrize(
    "number, margin, power", [(0, 0.0, 0.0), (30, 0.0, 0.0), (30, 0.2, 0.0), (30, 0.0, 0.75)]
)
def test_criterion_by_hand(number, margin, power, estimator, tmp_path, dictionary):
    # 30 draws among 22 rows: some are targets, some are drawn twice
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    loss, _ = loss_of(
        "contrastive",
        model,
        sample,
        dictionary,
        sampled_negatives=number,
        additive_margin=margin,
        negative_power=power,
        sampling_estimator=estimator,
    )
    certain = estimator == "importance"
    expected = by_hand(model, sample, dictionary, number, margin, power, certain)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["projection", "difference"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_synthetic_negatives_by_hand(kind, smoothing, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    plain = {"sampled_negatives": 0, "no_sampling_correction": True, "label_smoothing": smoothing}
    loss, _ = loss_of("contrastive", model, sample, dictionary, contrastive_synthetic=kind, **plain)
    table = model.decoder.continuous_output.table
    real = sample["target"].ne(dictionary.pad())
    hidden, target = model(**sample["net_input"])[0][real], sample["target"][real]
    distinct = target.unique()
    total = 0.0
    for h, w in zip(F.normalize(hidden, dim=1), target):
        e = table.weight[w]
        made = h - (h @ e) * e if kind == "projection" else h - e
        logits = 16 * torch.stack([h @ table.weight[c] for c in distinct])
        normaliser = torch.logsumexp(torch.cat((logits, 16 * (h @ made / made.norm())[None])), 0)
        own = (1 - smoothing) * 16 * (h @ e) + smoothing * logits.mean()
        total += (normaliser - own).item()
    assert loss == pytest.approx(total, rel=1e-5)


def test_the_text_share_is_that_of_the_targets(tmp_path, dictionary):
    """Q follows the targets seen, not the counts of a dictionary that both languages share."""
    model = make_model(tmp_path, dictionary, "contrastive")
    criterion = make_criterion("contrastive", dictionary, sampled_negatives=0)
    table, term = model.decoder.continuous_output.table, criterion.term
    unk, rare, source_only = dictionary.unk(), dictionary.index("w19"), dictionary.index("w0")
    hidden = torch.randn(1000, table.dim)
    target = torch.tensor([unk] * 300 + [rare] * 700)
    before = term(hidden, target, table).sum()
    for _ in range(50):
        term.observe(target)
    every = torch.arange(len(dictionary))
    share = term._text_share(every, term._distributions(table)[0])
    assert share[unk].item() == pytest.approx(0.3, abs=0.01)
    assert share[rare].item() == pytest.approx(0.7, abs=0.02)
    assert share[source_only] < 0.003 and share.sum().item() == pytest.approx(1)
    assert term(hidden, target, table).sum() != before
    sample, seen = make_batch(dictionary), term.observed.clone()
    criterion.eval()(model, sample)
    assert torch.equal(term.observed, seen)  # validation does not count
    criterion.train()(model, sample)
    seen.index_add_(0, sample["target"].flatten(), torch.ones_like(sample["target"].flatten()))
    seen[dictionary.pad()] = 0
    assert torch.equal(term.observed, seen)
    assert term.half().observed.dtype == torch.long
    copy = make_criterion("contrastive", dictionary, sampled_negatives=0)
    copy.load_state_dict(criterion.state_dict(), strict=True)
    assert torch.equal(copy.term.observed, seen)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cosine", {"label_smoothing": 0.1}, "--label-smoothing 0.1 shapes the contrastive loss"),
        ("vmf", {"sampled_negatives": 5}, "--sampled-negatives 5 shapes the contrastive loss"),
        ("hybrid", {"additive_margin": 0.5}, "--additive-margin 0.5 shapes the contrastive loss"),
        (
            "hybrid",
            {"hybrid_loss": "vmf", "hybrid_weight": 0},
            "--hybrid-loss vmf does nothing without --hybrid-w",
        ),
        (
            "hybrid",
            {"neighbour_table": "x", "neighbour_smoothing": 0},
            "--neighbour-table x does nothing without --neighbour-smoothing",
        ),
    ],
)
def test_options_that_nothing_reads(name, options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        make_criterion(name, dictionary, **options)


def test_no_correction_counts_every_candidate_once(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    loss, _ = loss_of("contrastive", model, sample, dictionary, no_sampling_correction=True)
    table = model.decoder.continuous_output.table
    real = sample["target"].ne(dictionary.pad())
    hidden, target = model(**sample["net_input"])[0][real], sample["target"][real]
    distinct, own = target.unique(return_inverse=True)
    logits = 16 * F.normalize(hidden, dim=1) @ table.weight[distinct].t()
    assert loss == pytest.approx(F.cross_entropy(logits, own, reduction="sum").item(), rel=1e-5)


def test_validation_compares_with_the_whole_table(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    model.eval()
    criterion = make_criterion("contrastive", dictionary, sampled_negatives=3).eval()
    loss, _, _ = criterion(model, sample)
    table = model.decoder.continuous_output.table
    real = sample["target"].ne(dictionary.pad())
    hidden, target = model(**sample["net_input"])[0][real], sample["target"][real]
    logits = 16 * F.normalize(hidden, dim=1) @ table.weight.t()
    logits[:, ~table.emittable] = -torch.inf
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction="sum"))
    assert criterion(model, sample)[0] == loss  # nothing is drawn


def test_the_scale_is_learned_and_comes_back_from_its_bounds(tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    _, criterion = loss_of("contrastive", model, sample, dictionary, initial_scale=4.0)
    assert criterion.term.scale("cosine").item() == pytest.approx(4)
    assert criterion.term.scale.log_scale.grad.abs() > 0
    with torch.no_grad():
        criterion.term.scale.log_scale.fill_(9.0)
    scale = criterion.term.scale("cosine")
    assert scale.item() == pytest.approx(200)
    scale.backward()
    assert criterion.term.scale.log_scale.grad.abs() > 0


@pytest.mark.parametrize("name", ["cosine", "vmf", "syn_margin"])
def test_as_a_term_of_another_criterion(name, tmp_path, dictionary):
    model, sample = make_model(tmp_path, dictionary, name), make_batch(dictionary)
    alone, criterion = loss_of(name, model, sample, dictionary)
    assert criterion.contrastive is None and list(criterion.parameters()) == []
    table = model.decoder.continuous_output.table
    both, criterion = loss_of(name, model, sample, dictionary, contrastive_weight=0.5)
    assert [n for n, _ in criterion.named_parameters()] == ["contrastive.scale.log_scale"]
    real = sample["target"].ne(dictionary.pad())
    hidden, target = model(**sample["net_input"])[0][real], sample["target"][real]
    torch.manual_seed(5)
    term = criterion.contrastive(hidden, target, table).sum().item()
    assert both == pytest.approx(alone + 0.5 * term, rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contrastive_weight": -1}, "--contrastive-weight must be 0 or more, but is -1"),
        ({"contrastive_weight": 1}, "--contrastive-weight adds the contrastive loss to another"),
        ({"sampled_negatives": -1}, "--sampled-negatives must be 0 or more"),
        ({"negative_power": 1.5}, "--negative-power must be between 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be 0 or more and less than 1"),
        ({"additive_margin": 3.0}, "--additive-margin must be between 0 and 2"),
        ({"initial_scale": 1e4}, "--initial-scale must be 0"),
        (
            {"sampling_estimator": "importance", "no_sampling_correction": True},
            "--sampling-estimator importance says how the target is corrected, but",
        ),
        ({"dispersion_weight": -1.0}, "--dispersion-weight must be 0 or more"),
        ({"dispersion_circles": 0}, "--dispersion-circles must be 1 or more"),
        ({"dispersion_rows": 1}, "--dispersion-rows must be 2 or more"),
    ],
)
def test_options_out_of_range(options, message, dictionary):
    with pytest.raises(ValueError, match=message):
        make_criterion("contrastive", dictionary, **{"sampled_negatives": 8, **options})


def test_an_additive_margin_needs_a_linear_score():
    table, _ = make_table("power_spherical")
    with pytest.raises(ValueError, match="--additive-margin needs a score that is linear"):
        table.margin_logits(torch.ones(2, 8), 0.1, 16.0)
