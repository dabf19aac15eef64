"""Two processes with half of the batch each do what one process does with all of it."""

import gc
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from cli import USER_DIR
from factory import collate, make_criterion, make_dictionary, make_learned_model, make_model

from fairseq_contout.optim import RowAdam, gather_sparse_gradients, mark_sparse

#: criterions over a frozen table; -tied and -untied: over a learned one
NAMES = ("cosine", "vmf", "margin", "syn_margin", "power_spherical", "l2", "contrastive")
NAMES += ("contrastive-tied", "contrastive-untied")
NAMES += ("contrastive-sparse-tied", "contrastive-sparse-untied")
NAMES += ("contrastive-directions-tied", "contrastive-sparse-directions-tied")
#: one that counts target tokens for --unigram-prior
NAMES += ("cosine+prior",)
#: one whose steps leave the gradients of their weights to the end
NAMES += ("cosine+lstm",)
#: ones whose losses have more parts, and their options
OPTIONS = {
    "hybrid": {},
    "contrastive+pairs": {"r_drop": 5.0, "consistency_weight": 1.0, "additive_margin": 0.1},
    "cosine-dispersed-tied": {"dispersion_weight": 0.01},
    # the seed of an update is that of all processes, and so are then the rows that are drawn
    "contrastive+draws-tied": {"sampled_negatives": 5},
}
NAMES += tuple(OPTIONS)
LSTM = {f"{side}_hidden_size": 12 for side in ("encoder", "decoder")}
LSTM.update(arch="continuous_lstm", decoder_out_embed_dim=12, decoder_layers=2, encoder_layers=2)

TORCHRUN = (
    "--arch continuous_transformer_tiny --criterion contrastive --target-table learned "
    "--share-decoder-input-output-embed --optimizer row_adam --sparse-gradients --lr 0.001 "
    "--batch-size 16 --max-update 2 --log-format simple --log-interval 1 --num-workers 0 "
    "--cpu --distributed-backend gloo --distributed-world-size 2"
)


def build(place, dictionary, name):
    """Return a model and its criterion."""
    kind = name.split("-")[0].split("+")[0]
    criterion = make_criterion(kind, dictionary, **OPTIONS.get(name, {}))
    if name.endswith("+lstm"):
        return make_model(place, dictionary, "cosine", **LSTM), criterion
    if name.endswith("+prior"):
        return make_model(place, dictionary, "cosine", unigram_prior=True), criterion
    if "-" not in name:
        return make_model(place, dictionary, kind), criterion
    sparse = "-sparse-" in name
    learned = {
        "share_decoder_input_output_embed": name.endswith("-tied"),
        "sparse_gradients": sparse,
        "optimizer": "row_adam" if sparse else "adam",
        "fix_norm": "-directions-" in name,
    }
    return make_learned_model(dictionary, **learned)[0], criterion


def unwrapped(module):
    while hasattr(module, "module"):
        module = module.module
    return module


def sentences():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4, 24, (n,), generator=generator) for n in (7, 5, 3, 2)]


def train(model, criterion, samples, processes):
    """One update as fairseq's trainer makes it: gradients over the joint sample size, then SGD."""
    learned = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    losses = 0.0
    for sample in samples:
        torch.manual_seed(9)  # of the dispersion's circles and the rows that are drawn
        loss, size, _ = criterion(model, sample)
        loss.backward()
        losses += loss.item()
        total = torch.tensor([float(size), losses])
    if processes > 1:
        torch.distributed.all_reduce(total)
        gather_sparse_gradients(learned)
    for parameter in learned:
        # DDP averages over the processes; fairseq multiplies by their number and divides by size
        parameter.grad = parameter.grad * (processes / total[0])
    optimizer.step()
    return total[1].item()


def state(model, criterion):
    """Return all that an update changes, by name: parameters, and a criterion's counts."""
    model, criterion = unwrapped(model), unwrapped(criterion)
    found = dict(model.named_parameters())
    found.update({f"criterion.{n}": value for n, value in criterion.state_dict().items()})
    prior = model.decoder.continuous_output.table.prior
    if prior is not None:
        found["counts"] = prior.counts
    return {name: value.detach().clone() for name, value in found.items()}


def work(rank, port, folder, names):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    from pathlib import Path

    from fairseq.distributed import ModuleProxyWrapper
    from fairseq.models import distributed_fairseq_model as wrapping

    dictionary = make_dictionary()
    for name in names:
        place = Path(folder) / f"{name}{rank}"
        place.mkdir()
        model, criterion = build(place, dictionary, name)
        # fairseq's own wrapping of torch's DDP, which it gives a criterion with parameters, too
        model = ModuleProxyWrapper(wrapping.DistributedDataParallel(model))
        if list(criterion.parameters()):
            criterion = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(criterion))
        sample = collate(dictionary, sentences()[2 * rank : 2 * rank + 2])
        loss = train(model, criterion, [sample], 2)
        if rank == 0:
            changed = state(model, criterion)
            torch.save((loss, changed), Path(folder) / f"{name}.pt")
    steps = rows_that_step(rank)
    if rank == 0:
        torch.save(steps, Path(folder) / "steps.pt")
    # gloo's threads end badly where a wrapped model outlives them, or the other process works on
    del model, criterion
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def rows_that_step(rank):
    """Let the first process have a batch that does not count, and return each row's steps."""
    weight = torch.nn.Parameter(torch.ones(6, 2))
    mark_sparse(weight)
    index = torch.tensor([[1, 2], [2, 3]][rank])
    loss = torch.nn.functional.embedding(index, weight, sparse=True).sum()
    (rank * loss).backward()
    gather_sparse_gradients([weight])
    optimizer = RowAdam([weight], lr=0.1)
    optimizer.step()
    return optimizer.state[weight]["row_steps"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    mp.spawn(work, args=(free_port(), str(tmp_path), NAMES), nprocs=2)
    # row 2 is zero in one process alone
    assert torch.load(tmp_path / "steps.pt", weights_only=True).tolist() == [0, 0, 1, 1, 0, 0]
    dictionary = make_dictionary()
    for name in NAMES:
        model, criterion = build(tmp_path, dictionary, name)
        before = state(model, criterion)
        sample = collate(dictionary, sentences())
        loss = train(model, criterion, [sample], 1)
        joint_loss, joint = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert joint_loss == pytest.approx(loss, rel=1e-5), name
        after = state(model, criterion)
        assert any(not torch.equal(before[n], after[n]) for n in after)
        assert after.keys() == joint.keys()
        if name == "cosine+prior":
            assert after["counts"].sum() == sample["ntokens"]
        if name.startswith("contrastive"):
            assert after["criterion.term.scale.log_scale"] != 0
            assert after["criterion.term.observed"].sum() == sample["ntokens"]
        for key, value in after.items():
            torch.testing.assert_close(joint[key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


def test_torchrun_as_the_documentation_says(corpus, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port()), "-m", "fairseq_cli.train", corpus.data]
    command += ["--user-dir", USER_DIR, "--task", "translation", "--save-dir", tmp_path / "out"]
    command += TORCHRUN.split()
    root = os.path.dirname(USER_DIR)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    updates = re.findall(r"train_inner .* bsz=(\d+), num_updates=(\d+)", done.stdout + done.stderr)
    # both processes' sentences, and the first process alone tells
    assert updates == [("32", "1"), ("32", "2")]
    assert (tmp_path / "out" / "checkpoint_last.pt").is_file()


def test_the_slurm_script_calls_fairseq_with_options_that_it_has(corpus, tmp_path):
    from fairseq import options

    script = os.path.join(os.path.dirname(USER_DIR), "examples", "slurm", "train.sbatch")
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$FOUND"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41234",
        "SLURM_SUBMIT_DIR": os.path.dirname(USER_DIR), "FOUND": str(tmp_path / "found"),
    }  # fmt: skip
    given = ["bash", script, corpus.data, tmp_path / "out", "--lr", "0.001"]
    done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kill, program, *arguments = (tmp_path / "found").read_text().splitlines()
    assert kill == "--kill-on-bad-exit=1" and program.endswith("/.venv/bin/fairseq-train")
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    assert args.distributed_port == 21234 and args.lr == [0.001] and args.sparse_gradients
    done = subprocess.run(given[:2], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: sbatch" in done.stderr
