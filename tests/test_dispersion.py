"""Measures of spread against independent computations, and dispersion as an objective."""

import math

import pytest
import torch
import torch.nn.functional as F
from factory import make_batch, make_criterion, make_dictionary, make_learned_model

from fairseq_contout import dispersion
from fairseq_contout.criterions.terms import dispersion_term


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def test_circles_are_orthonormal_pairs():
    p, q = dispersion.great_circles(7, 5, torch.zeros(1, dtype=torch.float64))
    assert p.shape == q.shape == (7, 5)
    for pair, expected in (((p, p), 1.0), ((q, q), 1.0), ((p, q), 0.0)):
        products = (pair[0] * pair[1]).sum(dim=0)
        torch.testing.assert_close(products, torch.full_like(products, expected))
    with pytest.raises(ValueError, match="needs rows of dimension 2 or more, but it is 1"):
        dispersion.great_circles(1, 5, p)


def best_rotation(angles):
    """½ mean (θ - θ*)² with the even configuration turned to where it is nearest, by search."""
    angles = angles.sort().values
    even = 2 * math.pi * torch.arange(len(angles), dtype=angles.dtype) / len(angles)
    turns = torch.linspace(-7, 7, 140_001, dtype=angles.dtype)
    return min(
        (0.5 * (angles - (even + part.unsqueeze(1))).pow(2).mean(dim=1)).min()
        for part in turns.split(10_000)
    )


def test_sliced_dispersion_by_search():
    rows = unit(12, 5)
    circles = dispersion.great_circles(5, 3, rows)
    by_hand = [
        best_rotation(torch.atan2(rows @ circles[1, :, i], rows @ circles[0, :, i]))
        for i in range(3)
    ]
    found = dispersion.sliced_dispersion(rows, circles)
    torch.testing.assert_close(found, torch.stack(by_hand).mean(), atol=1e-7, rtol=0)


def test_sliced_dispersion_of_known_configurations():
    axes = torch.eye(2, dtype=torch.float64)
    circle = torch.stack((axes[0], axes[1])).unsqueeze(2)  # the plane itself
    angle = 2 * math.pi * (torch.arange(9, dtype=torch.float64) / 9 + 0.01)
    even = torch.stack((angle.cos(), angle.sin()), dim=1)
    assert dispersion.sliced_dispersion(even, circle).item() == pytest.approx(0, abs=1e-12)
    same = unit(1, 2).expand(3001, 2)
    collapsed = dispersion.sliced_dispersion(same, circle).item()
    assert collapsed == pytest.approx(math.pi**2 / 6, rel=1e-5)


def test_gradient():
    rows = unit(6, 4).requires_grad_()
    circles = dispersion.great_circles(4, 3, rows)
    # the mean angle is no function of its own: the nearest configuration is, and its gradient is 0
    value = dispersion.sliced_dispersion(rows, circles)
    (found,) = torch.autograd.grad(value, rows)
    assert torch.autograd.gradcheck(lambda r: dispersion.sliced_dispersion(r, circles), (rows,))
    assert found.norm() > 0


def test_dispersion_spreads_rows_that_lie_together():
    weight = (unit(1, 16) + 0.05 * torch.randn(200, 16, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.02)
    before = dispersion.mean_pairwise_cosine(F.normalize(weight.detach(), dim=1))
    torch.manual_seed(0)
    for _ in range(300):
        rows = F.normalize(weight, dim=1)
        loss = dispersion.sliced_dispersion(rows, dispersion.great_circles(16, 8, rows))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows = F.normalize(weight.detach(), dim=1)
    assert before > 0.9 and abs(dispersion.mean_pairwise_cosine(rows)) < 0.05
    assert dispersion.effective_rank(rows) > 14


def test_mean_cosine_and_smallest_angle_by_brute_force():
    rows = unit(40, 6)
    cosines = [float(a @ b) for i, a in enumerate(rows) for b in rows[:i]]
    assert dispersion.mean_pairwise_cosine(rows) == pytest.approx(sum(cosines) / len(cosines))
    angle = math.degrees(math.acos(max(cosines)))
    assert dispersion.smallest_angle(rows) == pytest.approx(angle, rel=1e-9)
    twice = torch.cat((rows, rows[:1]))
    assert dispersion.smallest_angle(twice) == 0


def test_effective_rank():
    values = torch.linalg.svdvals(unit(40, 6))
    p = values / values.sum()
    expected = math.exp(-sum(float(x) * math.log(float(x)) for x in p))
    assert dispersion.effective_rank(unit(40, 6)) == pytest.approx(expected)
    assert dispersion.effective_rank(unit(1, 6).expand(40, 6)) == pytest.approx(1, abs=1e-6)
    assert dispersion.effective_rank(torch.eye(6)) == pytest.approx(6)


def test_hubness():
    rows = unit(50, 4)
    occurrence = [0] * 50
    for i, row in enumerate(rows):
        others = sorted((j for j in range(50) if j != i), key=lambda j: -float(row @ rows[j]))
        for j in others[:10]:
            occurrence[j] += 1
    deviations = [n - 10 for n in occurrence]  # the mean is k
    second, third = (sum(x**power for x in deviations) / 50 for power in (2, 3))
    assert dispersion.hubness(rows, 10) == pytest.approx(third / second**1.5)
    angle = 2 * math.pi * torch.arange(12, dtype=torch.float64) / 12
    ring = torch.stack((angle.cos(), angle.sin()), dim=1)
    assert dispersion.hubness(ring, 2) == 0  # each is the neighbour of its two neighbours


@pytest.fixture
def dictionary_model():
    dictionary = make_dictionary(300)
    return dictionary, make_learned_model(dictionary, criterion="cosine")[0]


@pytest.mark.parametrize("sentence_avg", [False, True])
def test_the_term_counts_once_an_update(sentence_avg, dictionary_model):
    dictionary, model = dictionary_model
    sample, found = make_batch(dictionary), {}
    for weight in (0.0, 3.0):
        criterion = make_criterion("cosine", dictionary, sentence_avg, dispersion_weight=weight)
        torch.manual_seed(4)
        found[weight] = criterion(model, sample)
    assert found[3.0][1] == (len(sample["target"]) if sentence_avg else sample["ntokens"])
    table = model.decoder.continuous_output.table
    torch.manual_seed(4)
    rows = table.rows()[table.emittable].detach()
    term = dispersion.sliced_dispersion(rows, dispersion.great_circles(rows.size(1), 16, rows))
    # fairseq divides the sum by the sample size
    added = (found[3.0][0] - found[0.0][0]) / found[3.0][1]
    torch.testing.assert_close(added, 3 * term, rtol=1e-4, atol=1e-4)


def test_some_of_many_rows_stand_for_all(dictionary_model, monkeypatch):
    dictionary, model = dictionary_model
    table, sizes = model.decoder.continuous_output.table, []
    sliced = dispersion.sliced_dispersion

    def counted(rows, circles):
        sizes.append(len(rows.unique(dim=0)))
        return sliced(rows, circles)

    monkeypatch.setattr("fairseq_contout.criterions.terms.sliced_dispersion", counted)
    emittable = int(table.emittable.sum())
    for number in (20, emittable - 1, emittable, 8192):
        criterion = make_criterion("cosine", dictionary, dispersion_rows=number)
        dispersion_term(table, criterion.cfg)
    assert sizes == [20, emittable - 1, emittable, emittable]
