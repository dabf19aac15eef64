"""Criterions ``margin`` and ``syn_margin``: closer to the target than to a negative."""

from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from fairseq_contout import knn
from fairseq_contout.criterions.base import ContinuousCriterion, ContinuousCriterionConfig
from fairseq_contout.losses import (
    batch_negatives,
    informative_direction,
    margin_loss,
    synthetic_negative,
)
from fairseq_contout.scores import Query


@dataclass
class _MarginConfig(ContinuousCriterionConfig):
    margin: float = field(
        default=0.5,
        metadata={"help": "how much closer, in cosine, the target must be than the negative, > 0"},
    )


@dataclass
class MarginCriterionConfig(_MarginConfig):
    """Options of ``margin``."""

    negatives: ChoiceEnum(["table", "batch"]) = field(
        default="table",
        metadata={
            "help": "where the most informative negative is sought: among all rows of the table "
            "(cost grows with the vocabulary) or among the target tokens of the batch (it does not)"
        },
    )


@dataclass
class SyntheticMarginCriterionConfig(_MarginConfig):
    """Options of ``syn_margin``."""

    synthetic_negative: ChoiceEnum(["projection", "difference"]) = field(
        default="projection",
        metadata={
            "help": "the negative: the part of h orthogonal to e (projection) or h - e "
            "(difference), both of norm 1"
        },
    )


def _check_margin(margin: float):
    if not 0 < margin <= 2:
        raise ValueError(
            f"--margin must be between 0 and 2, the largest difference of two cosines, but is "
            f"{margin}; 0.5 is the value of the papers"
        )


def informative_margin(
    hidden: Tensor, target: Tensor, table, margin: float = 0.5, negatives: str = "table"
) -> Tensor:
    """Return the margin loss against the negative that argmax_j cos(h, e_j) - cos(e, e_j) picks.

    Args:
        hidden: predictions ``(N, d)``.
        target: their tokens ``(N,)``.
        table: the target table.
        margin: γ of :func:`fairseq_contout.losses.margin_loss`.
        negatives: where the negative is sought: ``table``, or ``batch`` for the targets alone.

    Returns:
        ``(N,)``.
    """
    rows = table.rows(target)
    with torch.no_grad():  # the negative is chosen, not moved
        direction = informative_direction(hidden, rows)
        if negatives == "batch":
            distinct, own = target.unique(return_inverse=True)
            found = distinct[batch_negatives(direction, table.rows(distinct), own)]
        else:
            # the two nearest: one of them is not the target
            near = knn.exact_search(
                Query(direction), table.stored_rows(), 2, allowed=table.emittable, normalizer=False
            ).indices
            found = torch.where(near[:, 0].eq(target), near[:, 1], near[:, 0])
    return margin_loss(hidden, rows, table.rows(found), margin)


def synthetic_margin(
    hidden: Tensor, target: Tensor, table, margin: float = 0.5, kind: str = "projection"
) -> Tensor:
    """Return the margin loss against :func:`fairseq_contout.losses.synthetic_negative`.

    Shapes as in :func:`informative_margin`; the cost does not grow with V.
    """
    rows = table.rows(target)
    with torch.no_grad():
        negative = synthetic_negative(hidden, rows, kind)
    return margin_loss(hidden, rows, negative, margin)


@register_criterion("margin", dataclass=MarginCriterionConfig)
class MarginCriterion(ContinuousCriterion):
    """Max-margin loss with the most informative negative, :func:`informative_margin`."""

    score = "cosine"

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_margin(cfg.margin)

    def token_losses(self, hidden, target, table):
        return informative_margin(hidden, target, table, self.cfg.margin, str(self.cfg.negatives))


@register_criterion("syn_margin", dataclass=SyntheticMarginCriterionConfig)
class SyntheticMarginCriterion(ContinuousCriterion):
    """Max-margin loss with a synthetic negative, :func:`synthetic_margin`."""

    score = "cosine"

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_margin(cfg.margin)

    def token_losses(self, hidden, target, table):
        kind = str(self.cfg.synthetic_negative)
        return synthetic_margin(hidden, target, table, self.cfg.margin, kind)
