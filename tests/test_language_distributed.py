"""Two processes train a language model as one process does that reads both of their batches."""

import os
import re
import subprocess
import sys

import cli
import pytest
from language_data import MODELS, SIZES
from test_distributed import free_port

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["lstm-l2", "transformer-vmf", "masked"])
def test_two_processes_equal_one(english, tmp_path, name):
    arch, own = MODELS[name]
    task = [] if "--task" in own else ["--task", "language_modeling"]
    command = [english, *task, "--arch", arch, *SIZES[arch].split(), *own.split()]
    command += ["--target-table", english.parent / "table.safetensors", "--dropout", "0"]
    command += ["--optimizer", "adam", "--lr", "0.01", "--tokens-per-sample", "40"]
    command += ["--sample-break-mode", "eos", "--batch-size", "16", "--max-update", "3"]
    command += ["--log-interval", "1", "--no-save"]
    one = cli.call("train", *command, "--update-freq", "2")

    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(free_port()), "-m", "fairseq_cli.train", *command]
    launch += ["--user-dir", cli.USER_DIR, "--cpu", "--num-workers", "0", "--log-format", "simple"]
    launch += ["--required-batch-size-multiple", "1", "--distributed-backend", "gloo"]
    launch += ["--distributed-world-size", "2"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(cli.USER_DIR)}
    done = subprocess.run(
        [str(word) for word in launch], env=environment, capture_output=True, text=True,
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = losses(one), losses(done.stdout + done.stderr)
    assert len(expected) == 3
    assert found == pytest.approx(expected, rel=2e-3)


def losses(output):
    return [float(value) for value in re.findall(r"\d+ / \d+ loss=([\d.]+)", output)]
