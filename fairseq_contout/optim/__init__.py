"""Optimizers; importing this package registers them with fairseq."""

from fairseq_contout.optim.row_adam import FairseqRowAdam, RowAdam
from fairseq_contout.optim.sparse import gather_sparse_gradients, mark_sparse

__all__ = ["FairseqRowAdam", "RowAdam", "gather_sparse_gradients", "mark_sparse"]
