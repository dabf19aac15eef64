"""A frozen table that is kept elsewhere than in the checkpoint, or than beside the model.

A million rows of 300 numbers are 1.2 GB: in every checkpoint, in the memory of every process and
on a GPU that has better use for it. No update changes them, and a batch reads a few thousand.
"""

import hashlib
from typing import Optional

import torch
from torch import Tensor

from fairseq_contout.target_table import TargetTable

#: Rows that are hashed at once.
_CHUNK = 1 << 14


def fingerprint(weight: Tensor) -> Tensor:
    """Return SHA-256 of the rows and their shape as four int64: ``(V, d)`` → ``(4,)``."""
    digest = hashlib.sha256(repr((tuple(weight.shape), str(weight.dtype))).encode())
    for rows in weight.split(_CHUNK):
        digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64).clone()


class KeptTable(TargetTable):
    """A frozen table whose rows stay in their file, or on the CPU.

    Args:
        weight: rows ``(V, d)`` of norm 1, of any floating dtype, which they keep: a model that is
            turned into half precision leaves them as they are.
        dictionary: the target dictionary (fairseq).
        score: as for :class:`~fairseq_contout.target_table.TargetTable`.
        scale: likewise.
        in_file: the checkpoint holds a fingerprint of the rows, not the rows. Those of a
            safetensors file are mapped: what is never read takes no memory.
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
        in_file: bool = False,
        on_cpu: bool = False,
    ):
        self.in_file, self.on_cpu = in_file, on_cpu
        super().__init__(weight, dictionary, score, scale)
        if in_file:
            self.register_buffer("fingerprint", fingerprint(weight))

    def _keep(self, weight: Tensor):
        # a checkpoint has what is persistent
        self.register_buffer("weight", weight, persistent=not self.in_file)

    def rows(self, index: Optional[Tensor] = None) -> Tensor:
        """Return the rows of token indices ``(…)``, or all: ``(…, d)``, float32 or better.

        They are where the indices are; all rows are where they are kept.
        """
        if index is None or index.device == self.weight.device:
            return super().rows(index)
        return super().rows(index.to(self.weight.device)).to(index.device)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        kept = state_dict.get(prefix + "fingerprint")
        if self.in_file and kept is not None and not kept.equal(self.fingerprint.to(kept.device)):
            raise ValueError(
                "the checkpoint was trained with other rows than those of --target-table; give "
                "the file that it was trained with, as it was then"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn, recurse=True):
        weight = self.weight
        self.weight = weight[:0]  # what fn would do to the rows: move them, change their dtype
        super()._apply(fn, recurse)
        device = weight.device if self.on_cpu else self.weight.device
        self.weight = weight.to(device)
        return self
