"""Optimizer ``row_adam``: Adam that visits the rows of a table that a batch had, and no others.

fairseq's ``adam`` walks over every number of every parameter in every update. For a table of a
million rows that is most of the time of an update, and of the memory, though a batch has a few
thousand different words. With ``--sparse-gradients`` the gradient of a table holds the rows of the
batch alone, and this optimizer reads and writes these.
"""

import mmap
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from fairseq import utils
from fairseq.optim import register_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from torch import Tensor

from fairseq_contout.optim.sparse import gather_sparse_gradients


class RowAdam(Adam):
    """Adam whose moments and number of steps belong to each row, where a gradient is sparse.

    A row that has a gradient takes the step that Adam would take if the updates in which it had
    none had not been; one that is exactly 0 in all of its numbers, over all processes, is none.
    With t the updates in which the row had one,

        m ← β1 m + (1 - β1) g,   v ← β2 v + (1 - β2) g²,
        e ← e - lr λ e - lr √(1 - β2^t) / (1 - β1^t) · m / (√v + ε)

    so that weight decay, too, reaches a row when it is seen. Other rows do not move. Parameters
    with dense gradients take fairseq's own step of ``adam``.

    Cost of a step: O(M d) for M rows in the batch. The state is allocated for all rows at once, as
    zeros, which a CPU's operating system turns into memory row by row as they are seen.

    Args:
        params: parameters; those with sparse gradients are matrices ``(V, d)``.
        lr: learning rate.
        betas: β1, β2.
        eps: ε.
        weight_decay: λ, decoupled.
        row_second_moment: keep one v a row, the mean of g² over it, in place of d.

    Source: Diederik P. Kingma and Jimmy Ba (2015), Adam: A Method for Stochastic Optimization,
    https://arxiv.org/abs/1412.6980 ; one second moment a row: Maxim Naumov et al. (2019), Deep
    Learning Recommendation Model, https://arxiv.org/abs/1906.00091 (row-wise Adagrad)
    """

    def __init__(self, params, *, row_second_moment: bool = False, **options):
        super().__init__(params, **options)
        for group in self.param_groups:
            group.setdefault("row_second_moment", row_second_moment)

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step.

        Raises:
            ValueError: a parameter had a sparse gradient before and has a dense one now.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    self._step_rows(parameter, gradient.coalesce(), group)
                    sparse.append((parameter, gradient))
                elif "row_steps" in self.state[parameter]:
                    raise ValueError(
                        f"a table of {len(parameter)} rows, whose gradient was sparse, has a dense "
                        "one in this update: part of the loss reads all rows; leave that part or "
                        "--sparse-gradients out"
                    )
        for parameter, _ in sparse:
            parameter.grad = None  # the parent's step would refuse it
        super().step()
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return loss

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict):
        index, values = gradient.indices()[0], gradient.values().float()
        # fairseq gives a process that has run out of data a batch whose loss it multiplies by 0
        moving = values.ne(0).any(dim=1)
        index, values = index[moving], values[moving]
        state = self._rows_state(parameter, group)
        beta1, beta2 = group["betas"]
        steps = state["row_steps"][index] + 1
        mean = state["exp_avg"][index].lerp_(values, 1 - beta1)
        squares = values * values
        if group["row_second_moment"]:
            squares = squares.mean(dim=1, keepdim=True)
        square = state["exp_avg_sq"][index].lerp_(squares, 1 - beta2)
        for name, rows in (("row_steps", steps), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name].index_copy_(0, index, rows)
        count = steps.to(torch.float64).unsqueeze(1)
        rate = group["lr"] * torch.sqrt(1 - beta2**count) / (1 - beta1**count)
        update = rate.float() * mean / (square.sqrt() + group["eps"])
        rows = parameter[index].float()
        if group["weight_decay"]:
            update += group["lr"] * group["weight_decay"] * rows
        parameter.index_copy_(0, index, (rows - update).to(parameter.dtype))

    def _rows_state(self, parameter: Tensor, group: dict) -> dict:
        state = self.state[parameter]
        width = 1 if group["row_second_moment"] else parameter.size(1)
        if not state:
            device, count = parameter.device, len(parameter)
            state["row_steps"] = torch.zeros(count, dtype=torch.int32, device=device)
            state["exp_avg"] = _zeros(count, parameter.size(1), device)
            state["exp_avg_sq"] = _zeros(count, width, device)
        elif "row_steps" in state and state["exp_avg_sq"].size(1) != width:
            raise ValueError(
                f"--row-second-moment asks for {width} second moment(s) a row, but the optimizer's "
                f"state has {state['exp_avg_sq'].size(1)}; go on as the training began, or start "
                "the optimizer anew with --reset-optimizer"
            )
        elif "row_steps" not in state:
            raise ValueError(
                f"a table of {len(parameter)} rows has a sparse gradient, but the state is one "
                "of dense gradients; go on without --sparse-gradients, or start the "
                "optimizer anew with --reset-optimizer"
            )
        # A state from a checkpoint has the type and the place that loading gave it: torch's that of
        # the parameter, fairseq's for half precision that of the file.
        for name, value in state.items():
            kind = torch.int32 if name == "row_steps" else torch.float32
            state[name] = value.to(device=parameter.device, dtype=kind)
        return state


def _zeros(rows: int, width: int, device) -> Tensor:
    size = rows * width * 4
    if device.type != "cpu" or not size or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return torch.zeros(rows, width, device=device)
    # torch.zeros writes every number, and the system may give two megabytes for the first one that
    # is written: here memory comes in small pages, as rows are seen
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.float32).view(rows, width)


@dataclass
class FairseqRowAdamConfig(FairseqAdamConfig):
    """Options of ``row_adam``: those of ``adam``, and one more."""

    row_second_moment: bool = field(
        default=False,
        metadata={
            "help": "of a table with sparse gradients keep one second moment a row, the mean of "
            "its squares, in place of one a number"
        },
    )


@register_optimizer("row_adam", dataclass=FairseqRowAdamConfig)
class FairseqRowAdam(FairseqAdam):
    """fairseq's interface to :class:`RowAdam`."""

    def __init__(self, cfg: FairseqRowAdamConfig, params):
        # not the parent's, which would take an optimizer of its own
        super(FairseqAdam, self).__init__(cfg)
        if cfg.fp16_adam_stats:
            raise ValueError(
                "--fp16-adam-stats belongs to the fused adam, but --optimizer is row_adam; leave "
                "it out"
            )
        self._optimizer = RowAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self):
        return {**super().optimizer_config, "row_second_moment": self.cfg.row_second_moment}

    def all_reduce_grads(self, module):
        """Average gradients over the processes: the sparse ones here, which DDP leaves alone."""
        super().all_reduce_grads(module)
        gather_sparse_gradients(module.parameters())

    def multiply_grads(self, c):
        """Multiply all gradients by a number or a scalar tensor."""
        # fairseq's way, .data.mul_(), changes a copy where a gradient is sparse: nothing
        for parameter in self.params:
            if parameter.grad is not None:
                gradient = parameter.grad
                numbers = gradient._values() if gradient.is_sparse else gradient
                numbers.mul_(c.to(numbers.device) if torch.is_tensor(c) else c)

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Clip the norm of all gradients; a row that a batch had twice counts as their sum."""
        given = []
        for parameter in self.params:
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if gradient.is_sparse:
                parameter.grad = gradient = gradient.coalesce()
                gradient = gradient.values()  # the gradient's own numbers, not a copy
            given.append(SimpleNamespace(grad=gradient))
        if not given:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        return utils.clip_grad_norm_(given, max_norm, aggregate_norm_fn)
