"""fairseq criterions on embeddings; importing this package registers them."""

from fairseq_contout.criterions import contrastive, hybrid, margin, regression, vmf
from fairseq_contout.criterions.base import ContinuousCriterion

__all__ = ["ContinuousCriterion", "contrastive", "hybrid", "margin", "regression", "vmf"]
