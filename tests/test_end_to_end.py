"""Whole runs through fairseq's commands: preprocess, train, decode; training that is resumed."""

import multiprocessing
import os
import re
import signal

import cli
import pytest
import torch
from conftest import MODELS
from fairseq.trainer import Trainer


@pytest.mark.parametrize("name", MODELS)
def test_learns_to_copy(name, corpus, trained):
    output = cli.call("generate", corpus.data, "--path", trained(name), "--beam", 5)
    assert len(cli.references(output)) == 60
    assert cli.token_accuracy(output) >= 0.95


def logged(output, name):
    """Return what the last validation printed under a name."""
    return float(re.findall(rf"valid on 'valid' subset .*\| {name} (\S+)", output)[-1])


def test_training_logs_what_decoding_achieves(train, corpus, tmp_path):
    # batches of fewer than 256 tokens: all of them take part in the calibration
    output = train(tmp_path, "--criterion", "vmf", "--batch-size-valid", 30, updates=30)
    checkpoint = tmp_path / "checkpoint_last.pt"
    scored = cli.call(
        "generate", corpus.data, "--path", checkpoint, "--gen-subset", "valid", "--score-reference"
    )
    bits = [bit for best in cli.translations(scored).values() for bit in best[0].positional]
    assert logged(output, "nll_loss") == pytest.approx(-sum(bits) / len(bits), abs=0.02)
    assert logged(output, "kappa") > 0 and 0 < logged(output, "cosine") < 1


#: validates and saves in the middle of an epoch (32 updates), with dropout and accumulation
RESUMED = "--criterion vmf --dropout 0.1 --update-freq 2 --save-interval-updates 5"
UPDATES = 12


def killed_training(train, folder):
    """Train until the machine loses power in update 8, after the checkpoint of update 5."""
    step = Trainer.train_step

    def step_or_die(self, *args, **kwargs):
        if self.get_num_updates() == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **kwargs)

    Trainer.train_step = step_or_die
    train(folder, *RESUMED.split(), updates=UPDATES)


def test_killed_training_resumes_to_the_same_parameters(train, tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=killed_training, args=(train, tmp_path / "killed")
    )
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    left = torch.load(tmp_path / "killed" / "checkpoint_last.pt", weights_only=True)
    assert left["optimizer_history"][-1]["num_updates"] == 5

    output = train(tmp_path / "killed", *RESUMED.split(), updates=UPDATES)
    assert re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch 1 @ 5 updates\)", output)
    train(tmp_path / "whole", *RESUMED.split(), updates=UPDATES)
    resumed, whole = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)
        for name in ("killed", "whole")
    )
    assert resumed["model"].keys() == whole["model"].keys()
    for name, expected in whole["model"].items():
        assert torch.equal(resumed["model"][name], expected), name
    moved = "encoder.embed_tokens.weight"
    assert not torch.equal(left["model"][moved], whole["model"][moved])
