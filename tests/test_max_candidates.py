"""A contrastive loss over some of its candidates: drawn uniformly, an estimate without bias."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from factory import make_batch, make_criterion, make_dictionary, make_model

from fairseq_contout.losses import contrastive_loss
from fairseq_contout.sampling import draw, kept_candidates


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
    for kept, _, column in draws(3):
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


def test_the_normaliser_is_estimated_without_bias():
    logits, log_q = random(5, seed=4), random(5, seed=1)
    expected = (logits - log_q).exp().sum()
    found = []
    for kept, log_q_kept, column in draws(3):
        # the loss plus the target's logit is the estimated log-normaliser
        loss = contrastive_loss(
            logits[kept - 10].expand(5, -1), column, log_q_kept, own=(logits, log_q)
        )
        found.append((loss + logits).exp())
    found = torch.stack(found)
    error = (found.mean(0) - expected).abs()
    assert (found.std(0) > 0.05 * expected).all()  # it does vary
    assert (error < 4.5 * found.std(0) / math.sqrt(len(found))).all()


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


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_two_candidates_are_the_target_and_another(margin, tmp_path):
    """At the least number, a token's loss is that of one of the others, with its weight."""
    dictionary = make_dictionary()
    model = make_model(tmp_path, dictionary, "contrastive")
    table = model.decoder.continuous_output.table
    criterion = make_criterion(
        *("contrastive", dictionary),
        sampled_negatives=30,
        max_candidates=2,
        additive_margin=margin,
        no_sampling_correction=True,
    )
    hidden, target = F.normalize(torch.randn(4, table.dim)), torch.tensor([4, 5, 9, 9])
    torch.manual_seed(7)
    found = criterion.term(hidden, target, table)
    torch.manual_seed(7)
    every = criterion.term._distributions(table)[2]
    count = len(torch.cat((target, draw(every, 30))).unique())
    rows = hidden @ table.weight.t()
    own = 16 * (rows.gather(1, target.unsqueeze(1)) - margin)
    # negatives: count - 1 stand behind the one that is there
    possible = torch.log1p((count - 1) * torch.exp(16 * rows - own))
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
