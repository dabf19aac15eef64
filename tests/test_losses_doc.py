"""The gradients in docs/losses.md, written down again by hand, against autograd."""

import mpmath
import pytest
import torch

from fairseq_contout import losses

D = 6


def setting():
    torch.manual_seed(0)
    hidden = 3 * torch.randn(5, D, dtype=torch.float64)
    target = torch.nn.functional.normalize(torch.randn(5, D, dtype=torch.float64), dim=1)
    negative = torch.nn.functional.normalize(torch.randn(5, D, dtype=torch.float64), dim=1)
    return hidden.requires_grad_(True), target, negative


def parts(hidden, target):
    """κ, ĥ, c and e - c ĥ, columns."""
    kappa = hidden.norm(dim=1, keepdim=True)
    unit = hidden / kappa
    cosine = (unit * target).sum(dim=1, keepdim=True)
    return kappa, unit, cosine, target - cosine * unit


def column(function, kappa):
    values = [[float(function(k))] for k in kappa.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64)


def resultant(kappa):
    return column(lambda k: mpmath.besseli(D / 2, k) / mpmath.besseli(D / 2 - 1, k), kappa)


def power_spherical_slope(kappa):
    """(log C)′ by mpmath's digamma."""
    half = mpmath.mpf(D - 1) / 2
    return column(
        lambda k: -(mpmath.log(2) + mpmath.digamma(half + k) - mpmath.digamma(2 * half + k)), kappa
    )


def gradient(name, hidden, target, negative):
    kappa, unit, c, rest = parts(hidden, target)
    _, _, _, negative_rest = parts(hidden, negative)
    if name == "l2":
        return 2 * (hidden - target)
    if name == "cosine":
        return -rest / kappa
    if name == "vmf":
        return (resultant(kappa) + 0.02) * unit - 0.1 * target
    if name == "authors":
        return (resultant(kappa) + (0.2 - c) / (1 + kappa)) * unit - torch.log1p(
            kappa
        ) / kappa * rest
    if name == "margin":
        return (negative_rest - rest) / kappa
    slope = power_spherical_slope(kappa)
    return (-slope - 0.5 * torch.log1p(c) + 0.1) * unit - 0.5 * rest / (1 + c)


@pytest.mark.parametrize("name", ["l2", "cosine", "vmf", "authors", "margin", "power_spherical"])
def test_gradient(name):
    hidden, target, negative = setting()
    loss = {
        "l2": losses.l2_loss,
        "cosine": losses.cosine_loss,
        "vmf": losses.vmf_loss,
        "authors": losses.vmf_authors_loss,
        "margin": lambda h, e: losses.margin_loss(h, e, negative, 2.0),  # active everywhere
        "power_spherical": lambda h, e: losses.power_spherical_loss(h, e, 0.1, 0.5),
    }[name]
    loss(hidden, target).sum().backward()
    expected = gradient(name, hidden.detach(), target, negative)
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-8, atol=1e-10)


def test_gradient_of_contrastive():
    hidden, rows, _ = setting()
    tau, log_q, target = 7.0, torch.linspace(-2, 0, 5, dtype=torch.float64), torch.arange(5)
    logits = tau * torch.nn.functional.normalize(hidden, dim=1) @ rows.t()
    losses.contrastive_loss(logits, target, log_q).sum().backward()
    kappa, unit, _, _ = parts(hidden.detach(), rows)
    total = (logits.detach() - log_q).logsumexp(dim=1, keepdim=True)
    p = (logits.detach() - total - log_q).exp()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(5, dtype=torch.float64))
    expected = torch.zeros_like(unit)
    for w, row in enumerate(rows):
        cosine = unit @ row
        share = (p[:, w] - (target == w).double()).unsqueeze(1)
        expected += tau * share * (row - cosine.unsqueeze(1) * unit) / kappa
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mean_length, dead", [(0.15, True), (0.3, False)])
def test_dead_zone_of_the_paper_form(mean_length, dead):
    """h = 0 is the optimum exactly where the mean target is shorter than λ1 / λ2 = 0.2."""
    targets = torch.zeros(2, 300, dtype=torch.float64)
    targets[0, 0] = targets[1, 0] = mean_length  # two targets whose mean has that length
    targets[0, 1], targets[1, 1] = (1 - mean_length**2) ** 0.5, -((1 - mean_length**2) ** 0.5)
    hidden = torch.full((1, 300), 0.05, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([hidden], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = losses.vmf_loss(hidden.expand(2, -1), targets).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    kappa = hidden.norm().item()
    if dead:
        assert kappa < 1e-3
    else:  # κ/d ≈ λ2 · 0.3 - λ1
        assert kappa == pytest.approx(300 * (0.1 * mean_length - 0.02), rel=0.05)
