"""How a predicted vector h scores a target row e: the rule that decoding and calibration share.

Every score is ``finish(query(h) · e)``: an inner product with the unit-norm rows of the table,
followed by an increasing function. The order of the rows is therefore the order of the inner
products, and one nearest-neighbour search serves all scores. All of them are linear in the scale
τ (an inverse temperature), so that τ can be fitted after training without another forward pass.

=================  ================================  =========================================
score              logit of row e given h            criterions
=================  ================================  =========================================
``dot``            τ h·e, so that κ = ||h|| acts     ``vmf``
                   as an inverse temperature
``cosine``         τ cos(h, e)                       ``cosine``, ``margin``, ``syn_margin``,
                                                     ``contrastive``, ``hybrid``
``l2``             -τ/2 ||h - e||² up to a           ``l2``
                   constant of h, that is τ h·e
``power_spherical``  τ κ log(1 + cos(h, e))          ``power_spherical``
=================  ================================  =========================================

With ``--unigram-prior`` (``prior.py``) β log π_w is added to the logit of each word, and with it
the order of the rows is no longer that of the inner products.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

#: Score → the scale used until one has been calibrated on validation data.
DEFAULT_SCALE = {"dot": 1.0, "cosine": 16.0, "l2": 16.0, "power_spherical": 1.0}

#: log(1 + cos) has no lower bound: a row opposite to h gets this cosine at most.
MIN_COSINE = -1.0 + 1e-6


class Query(NamedTuple):
    """A prediction made ready for inner products with unit-norm rows.

    Attributes:
        vector: what is multiplied with the rows, ``(N, d)``.
        concentration: κ of each prediction where the score needs it afterwards, ``(N, 1)``.
        prior: β over the temperature, ``(N, 1)``; None leaves the rows' prior out.
    """

    vector: Tensor
    concentration: Optional[Tensor] = None
    prior: Optional[Tensor] = None

    def finish(self, products: Tensor, log_prior: Optional[Tensor] = None) -> Tensor:
        """Turn inner products with rows into logits, increasing: ``(N, M)`` → ``(N, M)``.

        Args:
            products: inner products.
            log_prior: log π of the rows, ``(M,)`` or ``(N, M)``; read where there is a prior.
        """
        if self.concentration is not None:
            products = self.concentration * torch.log1p(products.clamp(min=MIN_COSINE))
        if self.prior is not None:
            products = products + self.prior * log_prior.to(products)
        return products


def check_score(score: str) -> str:
    """Return ``score`` if it is a known one.

    Raises:
        ValueError: for a name that is no score; the message lists those that are.
    """
    if score not in DEFAULT_SCALE:
        raise ValueError(
            f"--score must be one of {', '.join(sorted(DEFAULT_SCALE))}, but is {score!r}; "
            "leave it out to take the one that belongs to the criterion"
        )
    return score


def finite(hidden: Tensor) -> Tensor:
    """Return predictions ``(N, d)`` if all their numbers are finite.

    Raises:
        ValueError: some are not. fairseq would go on with them: a logit of NaN is -inf for its
            search, which then fails far from the cause.
    """
    wrong = int((~hidden.isfinite()).any(dim=-1).sum())
    if wrong:
        raise ValueError(
            f"every prediction must be finite, but {wrong} of {len(hidden)} hold NaN or infinite "
            "numbers: the training diverged, or the numbers outgrow float16; take an earlier "
            "checkpoint, train with a lower --lr or --clip-norm, or leave --fp16 out"
        )
    return hidden


def make_query(hidden: Tensor, score: str, scale) -> Query:
    """Prepare predictions for one score, in float32 or better.

    Args:
        hidden: predictions h, ``(N, d)``, of any floating dtype.
        score: a key of :data:`DEFAULT_SCALE`.
        scale: inverse temperature τ, a number or a tensor that broadcasts to ``(N, 1)``.

    Raises:
        ValueError: for an unknown score.
    """
    check_score(score)
    hidden = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    if score in ("dot", "l2"):
        return Query(scale * hidden)
    if score == "cosine":
        return Query(scale * F.normalize(hidden, dim=-1))
    return Query(F.normalize(hidden, dim=-1), scale * hidden.norm(dim=-1, keepdim=True))
