"""A target table that is learned with the model."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_contout.target_table import TargetTable


class LearnedTable(TargetTable):
    """Target rows that are the directions of a parameter: of norm 1 whatever an optimizer does.

    Args:
        weight: the parameter ``(V, d)``, which may be an embedding's own.
        dictionary: the target dictionary (fairseq).
        score: as for :class:`~fairseq_contout.target_table.TargetTable`.
        scale: likewise.
        stop_gradient: rows are targets that send no gradient back; the table then learns only as
            the decoder's input.
        ema: a decay in 0..1. Rows are the moving average of the parameter over the updates, and
            send no gradient back either.

    Raises:
        ValueError: a decay out of range, or what the frozen table refuses.
    """

    learned = True

    def __init__(
        self,
        weight: nn.Parameter,
        dictionary,
        score: str,
        scale: Optional[float] = None,
        *,
        stop_gradient: bool = False,
        ema: Optional[float] = None,
    ):
        if ema is not None and not 0 <= ema < 1:
            raise ValueError(f"--table-ema must be 0 or more and less than 1, but is {ema}")
        super().__init__(weight, dictionary, score, scale)
        self.stop_gradient, self.ema = stop_gradient, ema
        #: whether gradients hold the rows that were asked for, in place of all
        self.sparse = False
        self._followed = None
        self._kept, self._trained = None, 0
        if ema is not None:
            self.register_buffer("average", weight.detach().clone().float())

    def _keep(self, weight: nn.Parameter):
        self.weight = weight

    def rows(self, index: Optional[Tensor] = None) -> Tensor:
        """Return the rows of token indices ``(…)``, or all: ``(…, d)``, float32 or better.

        Outside of training all rows are kept until they change: decoding asks for them at each
        step, and would normalise V rows each time.
        """
        if index is None and not self.training and not torch.is_grad_enabled():
            state = self.rows_state()
            if self._kept is None or self._kept[0] != state:
                self._kept = state, self._directions(self._source(), None)
            return self._kept[1]
        return self._directions(self._source(), index)

    def _source(self) -> Tensor:
        if self.ema is not None:
            return self.average
        return self.weight.detach() if self.stop_gradient else self.weight

    def stored_rows(self) -> Tensor:
        """Return all unit-norm rows, ``(V, d)``, float32 or better: kept outside of training."""
        return self.rows()

    def rows_state(self):
        """Return what differs when rows may have changed: for those who keep something of them."""
        source = self._source()
        # fairseq's optimizers write into .data, which counts no version
        return self._trained, source._version, source.data_ptr(), source.device, source.dtype

    def train(self, mode: bool = True):
        # no second table in memory while the first is trained
        if mode:  # a validation calls train(False) for each batch
            self._kept, self._trained = None, self._trained + 1
        return super().train(mode)

    def forget(self):
        """Forget the rows that are kept: after writing into ``weight.data`` outside of training."""
        self._kept, self._trained = None, self._trained + 1

    def input_rows(self, index: Tensor) -> Tensor:
        """Return the parameter's directions, through which gradients flow: ``(…)`` → ``(…, d)``."""
        return self._directions(self.weight, index)

    def _directions(self, weight: Tensor, index: Optional[Tensor]) -> Tensor:
        if index is None:
            if self.sparse and weight.requires_grad and torch.is_grad_enabled():
                raise ValueError(
                    "the loss reads all rows of the table, whose gradient would be dense, but "
                    "--sparse-gradients is given; take a loss over some rows (contrastive, cosine, "
                    "…), or leave --sparse-gradients out"
                )
            rows = weight
        else:
            rows = F.embedding(index, weight, sparse=self.sparse)
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        return F.normalize(rows, dim=-1)

    @torch.no_grad()
    def set_num_updates(self, num_updates: int):
        """Let the moving average take one step towards the parameter in each new update.

        fairseq calls this before every batch, also before further ones of the same update.
        """
        if self.ema is not None and num_updates != self._followed:
            self.average.lerp_(self.weight.float(), 1 - self.ema)
            self._followed = num_updates

    def _apply(self, fn, recurse=True):
        average = self.average if self.ema is not None else None
        super()._apply(fn, recurse)
        if average is not None:  # half precision would round its small steps away
            self.average = average.to(self.weight.device)
        return self
