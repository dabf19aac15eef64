"""benchmarks/accuracy_by_frequency.py: its sums by hand, and a call of it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "accuracy_by_frequency.py"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("accuracy_by_frequency", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_buckets_begin_at_the_edges(module):
    assert module.bucket_names([20, 100]) == ["0-19", "20-99", "100-"]
    counts = torch.tensor([0, 19, 20, 99, 100, 1000])
    log_probs = torch.full((6, 6), 1 / 6).log()
    sums = module.tally(log_probs, torch.arange(6), counts, [20, 100])
    assert sums[:, 0].tolist() == [2, 2, 2]
    torch.testing.assert_close(sums[:, 2], torch.full((3,), 2 * math.log(6)).double())


def test_right_tokens_and_nats_are_those_of_their_buckets(module):
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    target = torch.tensor([0, 2, 1])  # right, wrong, wrong
    sums = module.tally(probabilities.log(), target, torch.tensor([50, 1, 3]), [10])
    expected = [[2, 0, -math.log(0.2) - math.log(0.3)], [1, 1, -math.log(0.5)]]
    torch.testing.assert_close(sums, torch.tensor(expected).double())


class Pairs(list):
    """A dataset whose batches are lists."""

    def num_tokens(self, index):
        return self[index]

    def collater(self, samples):
        return samples


@pytest.mark.parametrize("sentences, expected", [(0, [1, 2, 3, 4, 5, 9]), (3, [2, 4, 9])])
def test_sentences_are_spread_over_the_data(module, sentences, expected):
    found = list(module.batches(Pairs([9, 1, 4, 3, 2, 5]), sentences, 2))
    assert [size for batch in found for size in batch] == expected
    assert all(len(batch) <= 2 for batch in found)


@pytest.mark.parametrize("edges, rule", [("20,20", "increase"), ("0,5", "at least 1")])
def test_bad_edges_are_refused(edges, rule):
    command = [sys.executable, SCRIPT, "nowhere", "--run", "a=b", "--edges", edges]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2 and rule in done.stderr


def test_a_call(corpus, trained, tmp_path):
    command = [sys.executable, SCRIPT, corpus.data, "--run", f"ours={trained('cosine')}"]
    command += ["--subset", "train", "--subset", "valid", "--edges", "5,50"]
    command += ["--json", tmp_path / "rows", "--plot", tmp_path / "plot.png"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    buckets = ["0-4", "5-49", "50-", "all"]
    assert [row["bucket"] for row in rows] == buckets * 2
    for subset in ("train", "valid"):
        own = {row["bucket"]: row for row in rows if row["subset"] == subset}
        assert sum(own[name]["tokens"] for name in buckets[:3]) == own["all"]["tokens"] > 0
        filled = [own[name] for name in buckets[:3] if own[name]["tokens"]]
        for key in ("accuracy", "nats"):
            mean = sum(row["tokens"] * row[key] for row in filled) / own["all"]["tokens"]
            assert abs(mean - own["all"][key]) < 1e-9
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert done.stdout.count("ours") == len(rows)
