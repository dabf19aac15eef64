"""A frozen table that is kept elsewhere than in the checkpoint, or than beside the model.

A million rows of 300 numbers are 1.2 GB: in every checkpoint, in the memory of every process and
on a GPU that has better use for it. No update changes them, and a batch reads a few thousand.
Pages of a mapped file can be dropped when memory is short, and processes share them.
"""

import hashlib
from typing import Optional

import torch
from torch import Tensor

from fairseq_contout.target_table import TargetTable

#: Rows that are hashed at once.
_CHUNK = 1 << 14


def fingerprint(weight: Tensor) -> Tensor:
    """Return SHA-256 of rows, their shape and type as numbers: ``(V, d)`` → ``(16,)`` float64.

    Words of 16 bits, as those of a dictionary's signature: they come out of averages of
    checkpoints as they went in.
    """
    digest = hashlib.sha256(repr((tuple(weight.shape), str(weight.dtype))).encode())
    for rows in weight.split(_CHUNK):
        digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
    found = digest.digest()
    words = [int.from_bytes(found[i : i + 2], "big") for i in range(0, 32, 2)]
    return torch.tensor(words, dtype=torch.float64)


class KeptTable(TargetTable):
    """A frozen table whose rows stay in their file, or on the CPU.

    Args:
        weight: rows ``(V, d)`` of norm 1, of any floating dtype, which they keep: a model that is
            turned into half precision leaves them as they are.
        dictionary: the target dictionary (fairseq).
        score: as for :class:`~fairseq_contout.target_table.TargetTable`.
        scale: likewise.
        in_file: the :func:`fingerprint` of the file's rows; a checkpoint holds that in place of
            the rows, which are those of a safetensors file, mapped into memory.
        on_cpu: the rows stay on the CPU wherever the model goes; those of a batch follow it.

    Raises:
        ValueError: what the parent refuses.
    """

    def __init__(
        self,
        weight: Tensor,
        dictionary,
        score: str,
        scale: Optional[float] = None,
        *,
        in_file: Optional[Tensor] = None,
        on_cpu: bool = False,
    ):
        self.in_file, self.on_cpu = in_file, on_cpu
        super().__init__(weight, dictionary, score, scale)

    def _keep(self, weight: Tensor):
        # a checkpoint has what is persistent
        self.register_buffer("weight", weight, persistent=self.in_file is None)

    def rows(self, index: Optional[Tensor] = None) -> Tensor:
        """Return the rows of token indices ``(…)``, or all: ``(…, d)``, float32 or better.

        They are where the indices are; all rows are where they are kept.
        """
        if index is None or index.device == self.weight.device:
            return super().rows(index)
        return super().rows(index.to(self.weight.device)).to(index.device)

    def get_extra_state(self) -> Tensor:
        state = super().get_extra_state()
        return state if self.in_file is None else torch.cat((state, self.in_file))

    def set_extra_state(self, state: Tensor):
        if self.in_file is not None:
            kept, state = state[-len(self.in_file) :].round(), state[: -len(self.in_file)]
            if not kept.cpu().equal(self.in_file):
                raise ValueError(
                    "the checkpoint was trained with other rows than those of --target-table; "
                    "give the file that it was trained with, as it was then"
                )
        super().set_extra_state(state)

    def _apply(self, fn, recurse=True):
        weight = self.weight
        self.weight = weight[:0]  # what fn would do to the rows: move them, change their dtype
        super()._apply(fn, recurse)
        device = weight.device if self.on_cpu else self.weight.device
        self.weight = weight.to(device)
        return self
