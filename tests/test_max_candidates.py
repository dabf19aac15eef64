"""A contrastive loss over some of its candidates: its minimum stays the distribution."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from factory import make_batch, make_criterion, make_dictionary, make_model

from fairseq_contout.losses import contrastive_loss, synthetic_negative
from fairseq_contout.sampling import draw, kept_candidates, log_inclusion


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def draws(number, times=6000):
    """Yield kept candidates of five: names, log Q', columns, for a target in each place."""
    torch.manual_seed(2)
    for _ in range(times):
        yield kept_candidates(torch.arange(5) + 10, random(5, seed=1), torch.arange(5), number)


def test_each_token_is_compared_with_every_set_of_others_equally_often():
    compared = [Counter() for _ in range(5)]
    for kept, _, column, _ in draws(3):
        assert len(kept.unique()) == 3
        for target in range(5):
            if target + 10 in kept.tolist():
                assert kept[column[target]] == target + 10
            others = [w for i, w in enumerate(kept.tolist()) if i != column[target]]
            compared[target][frozenset(others)] += 1
    for target, counts in enumerate(compared):
        assert len(counts) == 6  # pairs of the four others
        assert all(target + 10 not in pair for pair in counts)
        deviation = math.sqrt(6000 * 1 / 6 * 5 / 6)
        assert max(abs(count - 1000) for count in counts.values()) < 4.5 * deviation


def test_every_column_has_the_same_correction():
    log_q = random(5, seed=1)
    for kept, kept_log_q, _, own_log_q in draws(3, times=20):
        torch.testing.assert_close(kept_log_q, log_q[kept - 10] + math.log(2 / 4))
        torch.testing.assert_close(own_log_q, log_q + math.log(2 / 4))


@pytest.mark.parametrize("number", [None, 4, 15])
def test_the_lowest_loss_is_that_of_the_distribution(number):
    """Three contexts, 40 rows: logits that minimise the loss over many batches are log p."""
    rows, contexts, tokens, samples = 40, 3, 24, 6
    generator = torch.Generator().manual_seed(1)
    truth = torch.softmax(1.5 * torch.randn(contexts, rows, generator=generator), 1).double()
    text = truth.mean(0)  # each context is as frequent
    drawn = torch.full((rows,), 1 / rows, dtype=torch.float64)
    log_q = log_inclusion(text, tokens, drawn, samples)
    logits = torch.zeros(contexts, rows, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.002, 3000)
    torch.manual_seed(0)
    for _ in range(3000):
        context = torch.arange(contexts).repeat(tokens // contexts)
        target = torch.multinomial(truth, tokens // contexts, replacement=True).t().flatten()
        index = torch.cat((target, torch.randint(rows, (samples,)))).unique()
        part, positive = log_q[index], torch.searchsorted(index, target)
        own = None
        if number is not None and number < len(index):
            index, part, positive, own = kept_candidates(index, part, positive, number)
            own = logits[context, target], own
        loss = contrastive_loss(logits[context][:, index], positive, part, own=own)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    found = torch.log_softmax(logits.detach(), 1)
    divergence = (truth * (truth.log() - found)).sum(1)
    assert divergence.max() < 0.02  # with the target's own Q in place of Q', over 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient(smoothing):
    log_q, own_log_q = -random(4, seed=1).abs(), -random(3, seed=2).abs()
    logits, own = random(3, 4).requires_grad_(), random(3, seed=3).requires_grad_()
    column = torch.tensor([0, 3, 3])
    assert torch.autograd.gradcheck(
        lambda x, y: contrastive_loss(x, column, log_q, smoothing, None, (y, own_log_q)),
        (logits, own),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_among_the_candidates_may_also_stand_for_itself(smoothing):
    """With every target kept, and no other weight, nothing changes."""
    logits, log_q = random(3, 6), -random(6, seed=1).abs()
    positive = torch.tensor([5, 0, 5])
    own = logits.gather(1, positive.unsqueeze(1)).squeeze(1), log_q[positive]
    torch.testing.assert_close(
        contrastive_loss(logits, positive, log_q, smoothing, None, own),
        contrastive_loss(logits, positive, log_q, smoothing),
    )


def losses(model, sample, dictionary, **options):
    torch.manual_seed(5)
    criterion = make_criterion("contrastive", dictionary, sampled_negatives=30, **options)
    model.zero_grad()
    loss, _, _ = criterion(model, sample)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_more_than_there_are_takes_all(tmp_path):
    dictionary = make_dictionary()
    model, sample = make_model(tmp_path, dictionary, "contrastive"), make_batch(dictionary)
    all_of_them = losses(model, sample, dictionary)
    capped = losses(model, sample, dictionary, max_candidates=len(dictionary))
    assert all_of_them[0] == capped[0]
    assert all(a.equal(b) for a, b in zip(all_of_them[1], capped[1]))


def of_four_tokens(tmp_path, **options):
    """Losses of four tokens, what they are of, and the seed as it was before: to draw again."""
    dictionary = make_dictionary()
    table = make_model(tmp_path, dictionary, "contrastive").decoder.continuous_output.table
    term = make_criterion("contrastive", dictionary, sampled_negatives=30, **options).term
    hidden, target = F.normalize(torch.randn(4, table.dim)), torch.tensor([4, 5, 9, 9])
    torch.manual_seed(7)
    found = term(hidden, target, table)
    torch.manual_seed(7)
    return found, term, hidden, target, table


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_the_target_counts_once_where_it_is_certain(margin, tmp_path):
    """--sampling-estimator importance with kept candidates, token by token."""
    found, term, hidden, target, table = of_four_tokens(
        tmp_path,
        max_candidates=6,
        additive_margin=margin,
        sampling_estimator="importance",
    )
    kept = term._candidates(target, table)
    for i, w in enumerate(target.tolist()):
        logits = {c: 16 * (hidden[i] @ table.weight[c]).item() for c in kept.index.tolist()}
        own = 16 * ((hidden[i] @ table.weight[w]).item() - margin)
        others = [
            math.exp(logits[c] - q)
            for column, (c, q) in enumerate(zip(kept.index.tolist(), kept.log_q.tolist()))
            if column != kept.positive[i]
        ]
        assert len(others) == 5
        expected = math.log(math.exp(own) + sum(others)) - own
        assert found[i].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("synthetic", ["none", "difference"])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_two_candidates_are_the_target_and_another(margin, synthetic, tmp_path):
    """At the least number, a token's loss is that of the target and one of the others."""
    found, term, hidden, target, table = of_four_tokens(
        tmp_path,
        max_candidates=2,
        additive_margin=margin,
        contrastive_synthetic=synthetic,
        no_sampling_correction=True,
    )
    every = term._distributions(table)[2]
    count = len(torch.cat((target, draw(every, 30))).unique())
    rows = hidden @ table.weight.t()
    own = 16 * (rows.gather(1, target.unsqueeze(1)) - margin)
    # one of the others, and both stand for count - 1 rows
    negatives = torch.exp(16 * rows - own)
    if synthetic != "none":  # a negative that is no row weighs as much
        made = synthetic_negative(hidden, table.weight[target], synthetic)
        negatives = negatives + torch.exp(16 * (hidden * made).sum(1, keepdim=True) - own)
    possible = math.log(count - 1) + torch.log1p(negatives)
    nearest = (possible - found.unsqueeze(1)).abs()
    nearest.scatter_(1, target.unsqueeze(1), float("inf"))
    assert nearest.min(dim=1).values.max() < 1e-4


@pytest.mark.parametrize("value", [1, -3])
def test_values_out_of_range(value):
    with pytest.raises(
        ValueError, match=rf"--max-candidates must be 0 \(all\) or .* but is {value}"
    ):
        make_criterion("contrastive", make_dictionary(), max_candidates=value)


def test_nothing_else_reads_it():
    with pytest.raises(ValueError, match="--max-candidates 9 shapes the contrastive loss"):
        make_criterion("vmf", make_dictionary(), max_candidates=9)
