"""Every loss: gradient, an independent reference, and what it must do at its special points."""

import math

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fairseq_contout import losses


def vectors(count=6, dim=7, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return values.requires_grad_(grad)


def unit(count=6, dim=7, seed=1):
    values = vectors(count, dim, seed)
    return values / values.norm(dim=1, keepdim=True)


LOSSES = {
    "l2": losses.l2_loss,
    "cosine": losses.cosine_loss,
    "vmf": losses.vmf_loss,
    "vmf plain": lambda h, e: losses.vmf_loss(h, e, 0.0, 1.0),
    "vmf authors": losses.vmf_authors_loss,
    "margin": lambda h, e: losses.margin_loss(h, e, unit(seed=2), 1.9),
    "syn projection": lambda h, e: losses.margin_loss(
        h, e, losses.synthetic_negative(h, e, "projection"), 1.9
    ),
    "syn difference": lambda h, e: losses.margin_loss(
        h, e, losses.synthetic_negative(h, e, "difference"), 1.9
    ),
    "power spherical": losses.power_spherical_loss,
    "power spherical regularised": lambda h, e: losses.power_spherical_loss(h, e, 0.1, 0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    loss = LOSSES[name]
    target = unit()
    hidden = vectors(grad=True)
    assert loss(hidden, target).shape == (6,)
    assert gradcheck(lambda h: loss(h, target), (hidden,))
    assert gradgradcheck(lambda h: loss(h, target), (hidden,))


# the margin's negatives are made outside, one for each row
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "margin"])
def test_each_token_is_on_its_own(name):
    loss, hidden, target = LOSSES[name], vectors(), unit()
    one_by_one = torch.cat([loss(hidden[i : i + 1], target[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(loss(hidden, target), one_by_one)


def cosine(a, b):
    """Plain Python, no torch."""
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_regression_losses_by_hand():
    hidden, target = vectors(), unit()
    for i, (h, e) in enumerate(zip(hidden.tolist(), target.tolist())):
        assert losses.cosine_loss(hidden, target)[i].item() == pytest.approx(1 - cosine(h, e))
        squared = sum((x - y) ** 2 for x, y in zip(h, e))
        assert losses.l2_loss(hidden, target)[i].item() == pytest.approx(squared)


def vmf_log_normalizer(kappa, dim):
    """log C_d(κ) in 40 digits."""
    with mpmath.workdps(40):
        order, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
        bessel = mpmath.log(mpmath.besseli(order, k))
        return float(order * mpmath.log(k) - (order + 1) * mpmath.log(2 * mpmath.pi) - bessel)


def test_vmf_by_mpmath():
    hidden, target = 5 * vectors(), unit()
    for i, (h, e) in enumerate(zip(hidden.tolist(), target.tolist())):
        kappa, similarity = math.hypot(*h), cosine(h, e)
        log_c = vmf_log_normalizer(kappa, 7)
        paper = -log_c - 0.1 * kappa * similarity + 0.02 * kappa
        authors = -log_c + math.log1p(kappa) * (0.2 - similarity)
        assert losses.vmf_loss(hidden, target)[i].item() == pytest.approx(paper, rel=1e-9)
        assert losses.vmf_authors_loss(hidden, target)[i].item() == pytest.approx(authors, rel=1e-9)


def sphere_integral(log_density, dim):
    """Integrate a density that depends on t = μ·x over the unit sphere of R^dim."""
    area = 2 * mpmath.pi ** (mpmath.mpf(dim - 1) / 2) / mpmath.gamma(mpmath.mpf(dim - 1) / 2)

    def slice_at(t):
        return mpmath.e ** log_density(t) * (1 - t * t) ** (mpmath.mpf(dim - 3) / 2)

    return area * mpmath.quad(slice_at, [-1, 0, 0.9, 1])


@pytest.mark.parametrize("dim", [3, 5, 16])
@pytest.mark.parametrize("kappa", [0.1, 2.0, 30.0])
def test_densities_integrate_to_one(dim, kappa):
    direction = torch.zeros(1, dim, dtype=torch.float64)
    direction[0, 0] = kappa

    def density(loss):
        def log_density(t):
            point = torch.zeros(1, dim, dtype=torch.float64)
            point[0, 0], point[0, 1] = float(t), math.sqrt(max(0.0, 1 - float(t) ** 2))
            return -mpmath.mpf(loss(direction, point).item())

        return log_density

    plain_vmf = density(lambda h, e: losses.vmf_loss(h, e, 0.0, 1.0))
    assert float(sphere_integral(plain_vmf, dim)) == pytest.approx(1, rel=1e-5)
    assert float(sphere_integral(density(losses.power_spherical_loss), dim)) == pytest.approx(
        1, rel=1e-5
    )


def test_zero_prediction_has_a_finite_loss_and_gradient():
    target = unit()
    for name, loss in LOSSES.items():
        hidden = torch.zeros(6, 7, dtype=torch.float64, requires_grad=True)
        value = loss(hidden, target)
        value.sum().backward()
        assert torch.isfinite(value).all(), name
        assert torch.isfinite(hidden.grad).all(), name


def test_perfect_and_opposite_predictions_are_finite():
    target = unit()
    for sign in (3.0, -3.0):
        for name, loss in LOSSES.items():
            hidden = (sign * target).requires_grad_(True)
            value = loss(hidden, target)
            value.sum().backward()
            assert torch.isfinite(value).all() and torch.isfinite(hidden.grad).all(), (name, sign)


@pytest.mark.parametrize("kind", ["projection", "difference"])
def test_synthetic_negative_is_a_unit_vector_in_the_plane(kind):
    hidden, target = vectors(), unit()
    negative = losses.synthetic_negative(hidden, target, kind)
    torch.testing.assert_close(negative.norm(dim=1), torch.ones(6, dtype=torch.float64))
    planes = torch.stack((hidden, target, negative), dim=1)  # three vectors of rank 2
    assert torch.linalg.matrix_rank(planes, rtol=1e-9).eq(2).all()
    assert (losses.cosine_similarity(hidden, negative) > 0).all()
    if kind == "projection":
        inner = (negative * target).sum(dim=1)
        torch.testing.assert_close(inner, torch.zeros_like(inner), atol=1e-12, rtol=0)


def test_unknown_synthetic_negative_is_an_error():
    with pytest.raises(ValueError, match="--synthetic-negative must be projection or difference"):
        losses.synthetic_negative(vectors(), unit(), "random")


def test_informative_direction_finds_the_most_informative_negative():
    hidden, target, table = vectors(50), unit(50), unit(30, seed=5)
    informative = losses.cosine_similarity(
        hidden.unsqueeze(1), table.unsqueeze(0)
    ) - losses.cosine_similarity(target.unsqueeze(1), table.unsqueeze(0))
    found = (losses.informative_direction(hidden, target) @ table.t()).argmax(dim=1)
    assert torch.equal(found, informative.argmax(dim=1))


def test_batch_negatives_are_never_the_own_row():
    rows = unit(4, seed=3)
    own = torch.tensor([0, 1, 2, 3, 0])
    direction = rows[own]  # the own row would win
    found = losses.batch_negatives(direction, rows, own)
    assert found.ne(own).all()
    products = direction @ rows.t()
    for i in range(5):
        others = [j for j in range(4) if j != own[i]]
        assert found[i].item() == max(others, key=lambda j: products[i, j].item())


def test_margin_loss_is_zero_beyond_the_margin():
    target = unit()
    opposite = -target
    assert losses.margin_loss(target, target, opposite, 0.5).eq(0).all()
    torch.testing.assert_close(
        losses.margin_loss(target, target, target, 0.5), torch.full((6,), 0.5, dtype=torch.float64)
    )
