"""How spread the rows of a table are: what keeps it from collapsing, and what shows a collapse.

All functions take unit-norm rows ``(V, d)``, float32 or better.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def great_circles(dim: int, number: int, like: Tensor) -> Tensor:
    """Draw random great circles of the unit sphere: orthonormal pairs, ``(2, dim, number)``.

    Args:
        dim: d ≥ 2.
        number: circles.
        like: a tensor that has the dtype and the device wanted.

    Raises:
        ValueError: dim < 2.
    """
    if dim < 2:
        raise ValueError(f"a great circle needs rows of dimension 2 or more, but it is {dim}")
    first, second = torch.randn(2, dim, number, dtype=like.dtype, device=like.device)
    first = F.normalize(first, dim=0)
    second = F.normalize(second - first * (first * second).sum(dim=0), dim=0)
    return torch.stack((first, second))


def sliced_dispersion(rows: Tensor, circles: Tensor) -> Tensor:
    """Mean squared distance of the rows from evenly spread ones, seen on great circles.

    Each row is projected to an angle θ_i on a circle. The nearest evenly spread configuration keeps
    the order of the angles and their mean: θ*_i = mean(θ) + 2π (rank_i - (V - 1)/2) / V. The result
    is ½ mean_i (θ_i - θ*_i)², averaged over the circles, in O(V log V) for each: about 0 for rows
    spread uniformly, and nearly π²/6 for rows that are all the same.

    Args:
        rows: ``(V, d)``.
        circles: what :func:`great_circles` returned, ``(2, d, K)``.

    Returns:
        a scalar.

    Source: Evgeniia Tokarchuk, Hua Chang Bakker and Vlad Niculae (2025), Keep your distance:
    learning dispersed embeddings on S_d, https://arxiv.org/abs/2502.08231
    """
    x, y = rows @ circles[0], rows @ circles[1]  # V x K
    angles, _ = torch.atan2(y, x).sort(dim=0)
    count = len(rows)
    rank = torch.arange(count, dtype=rows.dtype, device=rows.device)
    even = (2 * math.pi / count) * (rank - (count - 1) / 2)
    target = angles.mean(dim=0).detach() + even.unsqueeze(1)
    return 0.5 * (angles - target).pow(2).mean()


def mean_pairwise_cosine(rows: Tensor) -> float:
    """Return the mean cosine of two different rows: (‖Σ e‖² - V) / (V (V - 1))."""
    count = len(rows)
    return ((rows.double().sum(dim=0).pow(2).sum() - count) / (count * (count - 1))).item()


def mean_token_cosine(rows: Tensor, counts: Tensor) -> float:
    """Return the mean cosine of the rows of two tokens that are different words.

    (‖Σ_w c_w e_w‖² - Σ c_w²) / ((Σ c_w)² - Σ c_w²): a word counts as often as the text has it, so
    that frequent words show, which a loss moves most. 0 where there is one word alone.

    Args:
        rows: of the words, ``(V, d)``.
        counts: c, their tokens, ``(V,)``.
    """
    counts = counts.double()
    same = counts.pow(2).sum()
    pairs = counts.sum().pow(2) - same
    if pairs == 0:
        return 0.0
    return (((counts @ rows.double()).pow(2).sum() - same) / pairs).item()


def effective_rank(rows: Tensor) -> float:
    """Return exp(H(p)), p being the singular values of the rows divided by their sum: 1 … d.

    Source: Olivier Roy and Martin Vetterli (2007), The effective rank: A measure of effective
    dimensionality, https://doi.org/10.5281/zenodo.40498
    """
    gram = rows.double().t() @ rows.double()  # d x d: V may be a million
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = values / values.sum()
    return torch.special.entr(p).sum().exp().item()


def nearest(rows: Tensor, k: int):
    """Return the cosines and the indices of each row's k nearest other rows, ``(V, k)`` each."""
    cosines = rows @ rows.t()
    cosines.fill_diagonal_(-torch.inf)
    return cosines.topk(k, dim=1)


def smallest_angle(rows: Tensor) -> float:
    """Return the smallest angle between two rows, in degrees, in O(V² d)."""
    _, index = nearest(rows, 1)
    # near 0 the angle from a cosine is inaccurate, the one from the distance is not
    distance = (rows - rows[index.squeeze(1)]).double().norm(dim=1).min().clamp(max=2)
    return math.degrees(2 * math.asin(distance.item() / 2))


def hubness(rows: Tensor, k: int = 10) -> float:
    """Return the skewness of the k-occurrence: how often a row is among others' k nearest rows.

    With N_k(e) that number, skewness = E[(N_k - mean)³] / std³: 0 without hubs; above 1, a few rows
    are near neighbours of very many. In O(V² d).

    Source: Miloš Radovanović, Alexandros Nanopoulos and Mirjana Ivanović (2010), Hubs in Space,
    https://jmlr.org/papers/v11/radovanovic10a.html
    """
    _, index = nearest(rows, k)
    occurrence = torch.bincount(index.flatten(), minlength=len(rows)).double()
    centred = occurrence - occurrence.mean()
    deviation = centred.pow(2).mean().sqrt()
    return (centred.pow(3).mean() / deviation.pow(3)).item() if deviation > 0 else 0.0
