"""Criterions ``margin`` and ``syn_margin``: closer to the target than to a negative."""

from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum

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


@register_criterion("margin", dataclass=MarginCriterionConfig)
class MarginCriterion(ContinuousCriterion):
    """Max-margin loss with the most informative negative, argmax_j cos(h, e_j) - cos(e, e_j).

    See :func:`fairseq_contout.losses.margin_loss` and
    :func:`fairseq_contout.losses.informative_direction`.
    """

    score = "cosine"

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_margin(cfg.margin)

    def token_losses(self, hidden, target, table):
        rows = table.rows(target)
        with torch.no_grad():  # the negative is chosen, not moved
            direction = informative_direction(hidden, rows)
            if self.cfg.negatives == "batch":
                distinct, own = target.unique(return_inverse=True)
                found = distinct[batch_negatives(direction, table.rows(distinct), own)]
            else:
                # the two nearest: one of them is not the target
                near = knn.exact_search(
                    Query(direction), table.rows(), 2, allowed=table.emittable, normalizer=False
                ).indices
                found = torch.where(near[:, 0].eq(target), near[:, 1], near[:, 0])
        return margin_loss(hidden, rows, table.rows(found), self.cfg.margin)


@register_criterion("syn_margin", dataclass=SyntheticMarginCriterionConfig)
class SyntheticMarginCriterion(ContinuousCriterion):
    """Max-margin loss with a synthetic negative, which costs nothing that grows with V.

    See :func:`fairseq_contout.losses.synthetic_negative`.
    """

    score = "cosine"

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_margin(cfg.margin)

    def token_losses(self, hidden, target, table):
        rows = table.rows(target)
        with torch.no_grad():
            negative = synthetic_negative(hidden, rows, self.cfg.synthetic_negative)
        return margin_loss(hidden, rows, negative, self.cfg.margin)
