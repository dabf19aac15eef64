"""Two processes with half of the batch each do what one process does with all of it."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from factory import collate, make_criterion, make_dictionary, make_model

NAMES = ("cosine", "vmf", "margin", "syn_margin", "power_spherical", "l2", "contrastive")


def sentences():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4, 24, (n,), generator=generator) for n in (5, 3, 7, 2)]


def train(model, criterion, samples, processes):
    """One update as fairseq's trainer makes it: gradients over the joint sample size, then SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = 0.0
    for sample in samples:
        loss, size, _ = criterion(model, sample)
        loss.backward()
        losses += loss.item()
        total = torch.tensor([float(size), losses])
    if processes > 1:
        torch.distributed.all_reduce(total)
    for parameter in model.parameters():
        # DDP averages over the processes; fairseq multiplies by their number and divides by size
        parameter.grad.mul_(processes / total[0])
    optimizer.step()
    return total[1].item()


def parameters(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def work(rank, port, folder, names):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    from pathlib import Path

    from fairseq.distributed import ModuleProxyWrapper

    dictionary = make_dictionary()
    for name in names:
        place = Path(folder) / f"{name}{rank}"
        place.mkdir()
        module = make_model(place, dictionary, name)
        # fairseq's own wrapping of torch's DDP
        model = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(module))
        sample = collate(dictionary, sentences()[2 * rank : 2 * rank + 2])
        loss = train(model, make_criterion(name, dictionary), [sample], 2)
        if rank == 0:
            torch.save((loss, parameters(module)), Path(folder) / f"{name}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path), NAMES), nprocs=2)
    dictionary = make_dictionary()
    for name in NAMES:
        model = make_model(tmp_path, dictionary, name)
        before = parameters(model)
        sample = collate(dictionary, sentences())
        loss = train(model, make_criterion(name, dictionary), [sample], 1)
        joint_loss, joint = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert joint_loss == pytest.approx(loss, rel=1e-5), name
        after = parameters(model)
        assert any(not torch.equal(before[n], after[n]) for n in after)
        for key, value in after.items():
            torch.testing.assert_close(joint[key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
