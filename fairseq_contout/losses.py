"""Losses between predicted vectors and target rows: one number per token, no reduction.

Throughout, h is the prediction ``(N, d)``, e the target row ``(N, d)`` of norm 1, κ = ||h||, and
every function returns ``(N,)``. Inputs are float32 or float64; the criterions convert.
"""

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_contout.scores import MIN_COSINE
from fairseq_contout.vmf import log_normalizer

#: κ below this is treated as this: log C(κ) is flat there, and 0 has no direction.
MIN_CONCENTRATION = 1e-6


def cosine_similarity(hidden: Tensor, other: Tensor) -> Tensor:
    """Return cos(h, e) for pairs of rows: ``(N, d)``, ``(N, d)`` → ``(N,)``."""
    return (F.normalize(hidden, dim=-1) * F.normalize(other, dim=-1)).sum(dim=-1)


def concentration(hidden: Tensor) -> Tensor:
    """Return κ = ||h||, at least :data:`MIN_CONCENTRATION`: ``(N, d)`` → ``(N,)``."""
    return hidden.norm(dim=-1).clamp(min=MIN_CONCENTRATION)


def l2_loss(hidden: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance: ||h - e||².

    Source: Sachin Kumar and Yulia Tsvetkov (2019), Von Mises-Fisher Loss for Training Sequence to
    Sequence Models with Continuous Outputs, https://arxiv.org/abs/1812.04616
    """
    return (hidden - target).pow(2).sum(dim=-1)


def cosine_loss(hidden: Tensor, target: Tensor) -> Tensor:
    """Cosine distance: 1 - cos(h, e).

    Source: Kumar and Tsvetkov (2019), https://arxiv.org/abs/1812.04616
    """
    return 1 - cosine_similarity(hidden, target)


def vmf_loss(hidden: Tensor, target: Tensor, lambda1: float = 0.02, lambda2: float = 0.1) -> Tensor:
    """Regularised negative log-likelihood of e under a von Mises-Fisher law with mean h/κ.

    -log C_d(κ) - λ2 h·e + λ1 κ. λ1 = 0 and λ2 = 1 give the plain likelihood, under which κ grows
    without bound as soon as a few tokens are predicted well; both regularisers hold κ down.

    Source: Kumar and Tsvetkov (2019), section 4.2, https://arxiv.org/abs/1812.04616
    """
    kappa = concentration(hidden)
    products = (hidden * target).sum(dim=-1)
    return -log_normalizer(kappa, hidden.size(-1)) - lambda2 * products + lambda1 * kappa


def vmf_authors_loss(hidden: Tensor, target: Tensor, offset: float = 0.2) -> Tensor:
    """The form of the von Mises-Fisher loss that its authors ran.

    -log C_d(κ) + log(1 + κ) (0.2 - cos(h, e)): the product h·e of the likelihood is tempered by
    log(1 + κ) in place of κ.

    Source: Kumar and Tsvetkov (2019), their published experiments,
    https://arxiv.org/abs/1812.04616
    """
    kappa = concentration(hidden)
    cosine = cosine_similarity(hidden, target)
    return -log_normalizer(kappa, hidden.size(-1)) + torch.log1p(kappa) * (offset - cosine)


def margin_loss(hidden: Tensor, target: Tensor, negative: Tensor, margin: float = 0.5) -> Tensor:
    """Max-margin loss with one negative e' for each token: max(0, γ + cos(h, e') - cos(h, e)).

    Args:
        negative: vectors ``(N, d)``; the criterions choose them and send no gradient through.

    Source: Kumar and Tsvetkov (2019), https://arxiv.org/abs/1812.04616, after Angeliki Lazaridou,
    Georgiana Dinu and Marco Baroni (2015), Hubness and Pollution,
    https://aclanthology.org/P15-1027
    """
    wrong, right = cosine_similarity(hidden, negative), cosine_similarity(hidden, target)
    return F.relu(margin + wrong - right)


def informative_direction(hidden: Tensor, target: Tensor) -> Tensor:
    """Return the vector whose largest inner product finds the most informative negative.

    argmax_j cos(h, e_j) - cos(e, e_j) = argmax_j (h/κ - e)·e_j: one search in place of two
    products with the table. Shapes ``(N, d)``, ``(N, d)`` → ``(N, d)``.

    Source: Lazaridou, Dinu and Baroni (2015), section 4.3, https://aclanthology.org/P15-1027
    """
    return F.normalize(hidden, dim=-1) - target


def synthetic_negative(hidden: Tensor, target: Tensor, kind: str = "projection") -> Tensor:
    """Make the hardest negative in the plane of h and e: ``(N, d)``, ``(N, d)`` → ``(N, d)``.

    ``projection``: the part of h orthogonal to e, normalised. ``difference``: h/κ - e, normalised.
    Where h points at e exactly both are zero vectors, whose cosine with anything is 0.

    Raises:
        ValueError: unknown kind.

    Source: Gayatri Bhat, Sachin Kumar and Yulia Tsvetkov (2019), A Margin-based Loss with
    Synthetic Negative Samples for Continuous-output Machine Translation,
    https://aclanthology.org/D19-5621
    """
    unit = F.normalize(hidden, dim=-1)
    if kind == "projection":
        along = (unit * target).sum(dim=-1, keepdim=True)
        return F.normalize(unit - along * target, dim=-1)
    if kind == "difference":
        return F.normalize(unit - target, dim=-1)
    raise ValueError(
        f"--synthetic-negative must be projection or difference, but is {kind!r}; choose one"
    )


def power_spherical_log_normalizer(kappa: Tensor, dim: int) -> Tensor:
    """Log-normaliser of the power spherical density C(κ) (1 + μ·x)^κ on the unit sphere of R^d.

    log C(κ) = -[(α + β) log 2 + β log π + log Γ(α) - log Γ(α + β)], α = (d - 1)/2 + κ,
    β = (d - 1)/2. Shapes ``(N,)`` → ``(N,)``.

    Source: Nicola De Cao and Wilker Aziz (2020), The Power Spherical distribution,
    https://arxiv.org/abs/2006.04437
    """
    beta = (dim - 1) / 2
    alpha = beta + kappa.double()  # the difference of two lgammas loses digits in float32
    value = -(
        (alpha + beta) * math.log(2)
        + beta * math.log(math.pi)
        + torch.lgamma(alpha)
        - torch.lgamma(alpha + beta)
    )
    return value.to(kappa.dtype)


def power_spherical_loss(
    hidden: Tensor, target: Tensor, lambda1: float = 0.0, lambda2: float = 1.0
) -> Tensor:
    """Negative log-likelihood of e under a power spherical law with mean h/κ.

    -log C(κ) - λ2 κ log(1 + cos(h, e)) + λ1 κ; λ1 = 0 and λ2 = 1 are the plain likelihood.

    Source: De Cao and Aziz (2020), https://arxiv.org/abs/2006.04437
    """
    kappa = concentration(hidden)
    log_density = torch.log1p(cosine_similarity(hidden, target).clamp(min=MIN_COSINE))
    normalizer = power_spherical_log_normalizer(kappa, hidden.size(-1))
    return -normalizer - lambda2 * kappa * log_density + lambda1 * kappa


def batch_negatives(direction: Tensor, rows: Tensor, own: Tensor) -> Tensor:
    """Choose for each token the row with the largest inner product that is not its own.

    Args:
        direction: what is compared, ``(N, d)``.
        rows: candidates, ``(M, d)``.
        own: position of each token's own row among the candidates, ``(N,)``.

    Returns:
        positions ``(N,)``. With a single candidate, its own row: a margin loss against that is
        constant and has no gradient.
    """
    products = direction @ rows.t()
    products.scatter_(1, own.unsqueeze(1), -torch.inf)
    return products.argmax(dim=1)


def corrected_logits(
    logits: Tensor,
    positive: Tensor,
    log_q: Tensor,
    own: Optional[Tuple[Tensor, Tensor]] = None,
) -> Tensor:
    """Return the terms s_w - log Q_w of L in :func:`contrastive_loss`, ``(N, M)``: same arguments.

    With log Q = 0 for each target, which is a candidate of its token with certainty, their softmax
    is the distribution over the whole table, estimated on the candidates (the sum of their exp is
    unbiased). With the target's Q as that of every row they ask which of the candidates is the
    target, and one that is rarely a candidate of other tokens' is likelier to be.
    """
    compared = logits - log_q
    if own is None:
        return compared
    return compared.scatter(1, positive.unsqueeze(1), (own[0] - own[1]).unsqueeze(1))


def contrastive_loss(
    logits: Tensor,
    positive: Tensor,
    log_q: Tensor,
    label_smoothing: float = 0.0,
    outside: Optional[Tensor] = None,
    own: Optional[Tuple[Tensor, Tensor]] = None,
) -> Tensor:
    """Cross-entropy of the target among candidates, corrected for how they were sampled.

    (1 - ε) (L - s_target) + ε Σ_w u_w (L - s_w), with the logits s, the importance-weighted
    L = log Σ_w exp(s_w) / Q_w, which estimates the log-normaliser over the whole table, and
    u_w ∝ 1/Q_w, which estimates the uniform distribution over it. The correction makes the logits
    tend to log p(w | context) whichever candidates were probable (exactly with the target's own Q;
    with ``own`` of log Q = 0 the better the more candidates there are): without it a row that is
    always among them, as that of ``</s>``, is pushed away in every batch.

    Args:
        logits: scores of the candidates, ``(N, M)``.
        positive: column of each target, ``(N,)``.
        log_q: log-probability Q of each candidate to be one, ``(M,)``; zeros for no correction.
        label_smoothing: ε in 0..1.
        outside: scores of negatives that are rows of no table, ``(N, E)``: terms of L alone.
        own: score and log Q of each target, ``(N,)`` both, where they are not those of a column:
            ``positive`` is then the column that they replace in L.

    Source: Sébastien Jean, Kyunghyun Cho, Roland Memisevic and Yoshua Bengio (2015), On Using Very
    Large Target Vocabulary for Neural Machine Translation, https://aclanthology.org/P15-1001 (the
    correction); Nathan Godey, Éric de la Clergerie and Benoît Sagot (2023), Headless Language
    Models, https://arxiv.org/abs/2309.08351 (candidates from the batch)
    """
    target = logits.gather(1, positive.unsqueeze(1)).squeeze(1) if own is None else own[0]
    compared = corrected_logits(logits, positive, log_q, own)
    if outside is not None:
        compared = torch.cat((compared, outside), dim=-1)
    total = compared.logsumexp(dim=-1)
    losses = total - target
    if label_smoothing:
        mean = logits @ torch.softmax(-log_q, dim=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * (total - mean)
    return losses


def neighbour_term(logits: Tensor, positive: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """What moving target probability to a word's neighbours adds to its cross-entropy.

    With ε times this term added, the target distribution gives ε less to the word and ε n_v to each
    neighbour v: s_target - Σ_v n_v s_v. A near-synonym then costs less than an unrelated word.

    Args:
        logits: scores s of the rows, ``(N, M)``.
        positive: column of each target, ``(N,)``.
        neighbours: columns of each target's neighbours, ``(N, k)``.
        weights: n, summing to 1 for each target, ``(N, k)``.

    Source: Zuchao Li, Rui Wang, Kehai Chen, Masao Utiyama, Eiichiro Sumita, Zhuosheng Zhang and Hai
    Zhao (2020), Data-dependent Gaussian Prior Objective for Language Generation,
    https://openreview.net/forum?id=S1efxTVYDr
    """
    own = logits.gather(1, positive.unsqueeze(1)).squeeze(1)
    return own - (weights * logits.gather(1, neighbours)).sum(dim=-1)


def jeffreys_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """How far two distributions p, p′ over the same rows are apart: ½ (KL(p‖p′) + KL(p′‖p)), nats.

    With the logits s and s′ it is ½ Σ_w (p_w - p′_w) (s_w - s′_w): the log-normalisers cancel. Of
    :func:`corrected_logits` it is the importance-weighted estimate of the divergence over the whole
    table, as the correction of a candidate is the same in both; the target's must be 0.

    Args:
        logits: s of each row, ``(N, M)``.
        other: s′, ``(N, M)``.

    Source: Xiaobo Liang, Lijun Wu, Juntao Li, Yue Wang, Qi Meng, Tao Qin, Wei Chen, Min Zhang and
    Tie-Yan Liu (2021), R-Drop: Regularized Dropout for Neural Networks,
    https://arxiv.org/abs/2106.14448
    """
    apart = torch.softmax(logits, dim=-1) - torch.softmax(other, dim=-1)
    return (apart * (logits - other)).sum(dim=-1) / 2
