"""Criterion ``contrastive``: the target against the other tokens of the batch, and sampled rows."""

from fairseq.criterions import register_criterion

from fairseq_contout.criterions.base import ContinuousCriterion, ContinuousCriterionConfig
from fairseq_contout.criterions.term_options import CONTRASTIVE_OPTIONS
from fairseq_contout.criterions.terms import ContrastiveTerm


@register_criterion("contrastive", dataclass=ContinuousCriterionConfig)
class ContrastiveCriterion(ContinuousCriterion):
    """The contrastive loss alone, :class:`fairseq_contout.criterions.terms.ContrastiveTerm`."""

    score = "cosine"
    reads = CONTRASTIVE_OPTIONS

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        if cfg.contrastive_weight:
            raise ValueError(
                f"--contrastive-weight adds the contrastive loss to another criterion's, but is "
                f"{cfg.contrastive_weight} with --criterion contrastive; leave it out"
            )
        self.term = ContrastiveTerm(cfg, task.target_dictionary)

    def token_losses(self, hidden, target, table):
        return self.term(hidden, target, table)

    def pair_losses(self, first, second, target, table):
        return self.term(first, target, table, second)
