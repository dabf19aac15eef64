"""Criterions ``cosine`` and ``l2``: the prediction is pulled to the target row, nothing else."""

from fairseq.criterions import register_criterion

from fairseq_contout.criterions.base import ContinuousCriterion, ContinuousCriterionConfig
from fairseq_contout.losses import cosine_loss, l2_loss


@register_criterion("cosine", dataclass=ContinuousCriterionConfig)
class CosineCriterion(ContinuousCriterion):
    """Cosine distance, :func:`fairseq_contout.losses.cosine_loss`."""

    score = "cosine"

    def token_losses(self, hidden, target, table):
        return cosine_loss(hidden, table.rows(target))


@register_criterion("l2", dataclass=ContinuousCriterionConfig)
class L2Criterion(ContinuousCriterion):
    """Squared distance, :func:`fairseq_contout.losses.l2_loss`."""

    score = "l2"

    @staticmethod
    def initial_length(dim):
        """Return 1, as long as targets.

        From Xavier's √d, a first loss of about d, the first updates go into shortening the
        predictions, and directions learn late (docs/ablations.md).
        """
        return 1.0

    def token_losses(self, hidden, target, table):
        return l2_loss(hidden, table.rows(target))
