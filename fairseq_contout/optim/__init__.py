"""Optimizers; importing this package registers them with fairseq."""

from fairseq_contout.optim.row_adam import FairseqRowAdam, RowAdam

__all__ = ["FairseqRowAdam", "RowAdam"]
