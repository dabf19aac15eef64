"""Sparse gradients in several processes."""

from typing import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def mark_sparse(parameter: nn.Parameter):
    """Mark a parameter whose gradients are sparse, so that DDP leaves it to the optimizer.

    NCCL cannot sum sparse tensors, and torch's DDP expects them of embeddings alone.
    """
    parameter.sparse_gradients = True


def is_marked(parameter: Tensor) -> bool:
    """Tell whether :func:`mark_sparse` marked a parameter."""
    return getattr(parameter, "sparse_gradients", False)


@torch.no_grad()
def gather_sparse_gradients(parameters: Iterable[nn.Parameter]):
    """Replace the sparse gradients of marked parameters by their mean over the processes.

    Each process sends the rows that it has: O(M d) for M rows in all processes together. Every
    process must call this with the same parameters.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    for parameter in parameters:
        if is_marked(parameter):
            parameter.grad = _mean_over_processes(parameter)


def _mean_over_processes(parameter: nn.Parameter) -> Tensor:
    own = parameter.grad
    if own is None:  # no row in this process: it still takes part
        index = torch.empty(0, dtype=torch.long, device=parameter.device)
        values = parameter.new_empty(0, parameter.size(1))
    else:
        own = own.coalesce()
        index, values = own.indices()[0], own.values()
    processes = dist.get_world_size()
    count = torch.tensor([len(index)], device=parameter.device)
    counts = [torch.empty_like(count) for _ in range(processes)]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    # of one length, as a gather wants them
    indices = [index.new_empty(longest) for _ in range(processes)]
    rows = [values.new_empty(longest, values.size(1)) for _ in range(processes)]
    dist.all_gather(indices, torch.cat((index, index.new_zeros(longest - len(index)))))
    padding = values.new_zeros(longest - len(values), values.size(1))
    dist.all_gather(rows, torch.cat((values, padding)))
    lengths = [int(n) for n in counts]
    index = torch.cat([found[:n] for found, n in zip(indices, lengths)])
    values = torch.cat([found[:n] for found, n in zip(rows, lengths)]) / processes
    return torch.sparse_coo_tensor(index.unsqueeze(0), values, parameter.shape).coalesce()
