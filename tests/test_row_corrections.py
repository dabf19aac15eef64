"""benchmarks/row_corrections.py: the corrections by their definitions, and a call of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "row_corrections.py"


def module(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("row_corrections", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_corrections_are_those_of_the_definitions(monkeypatch):
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    found = module(monkeypatch).corrections(logits, counts)
    assert list(found) == ["none", "unigram", "csls", "inverted"]
    assert not found["none"](3.0).any()
    torch.testing.assert_close(found["unigram"](3.0), (counts / 20).log())
    for word in range(5):
        column = logits[:, word].tolist()
        nearest = sum(sorted(column)[-10:]) / 10
        assert abs(found["csls"](3.0)[word] + 3 * nearest) < 1e-5
        # dividing by the sum: the predictions share out each row
        shares = (3 * logits[:, word] + found["inverted"](3.0)[word]).exp()
        assert abs(shares.sum() - 1) < 1e-5


def test_what_helps_is_found_and_measured_on_other_tokens(monkeypatch):
    """Scores that lack the words' frequencies: a unigram prior of weight 1 is what they need."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([1000.0, 300.0, 100.0, 30.0, 10.0, 3.0])
    logits = torch.randn(4000, 6, generator=generator)
    truth = torch.softmax(2 * logits + counts.log(), dim=1)
    target = torch.multinomial(truth, 1, generator=generator).squeeze(1)
    rows = module(monkeypatch).fit(logits, target, counts, 2.0)
    found = {(row["method"], row["fitted by"]): row for row in rows}
    for by, best in (("nats", min), ("accuracy", max)):
        values = {name: row[by] for (name, fitted), row in found.items() if fitted == by}
        assert best(values, key=values.get) == "unigram"
        assert found["unigram", by]["weight"] >= 0.75
    exact = found["unigram", "nats"]
    assert (exact["scale"], exact["weight"], exact["tokens"]) == (2.0, 1.0, 2000)
    held = torch.arange(4000) % 2 == 1
    nats = -truth[held].log().gather(1, target[held, None]).mean().item()
    assert abs(exact["nats"] - nats) < 1e-5
    # without a correction the scale moves no word: the likeliest of equally accurate ones is taken
    assert found["none", "accuracy"]["nats"] == found["none", "nats"]["nats"]


def test_a_call(corpus, trained, tmp_path):
    command = [sys.executable, SCRIPT, corpus.data, "--path", trained("cosine"), "--tokens", 200]
    command += ["--sentences", 100, "--json", tmp_path / "rows"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    assert [(row["method"], row["fitted by"]) for row in rows] == [
        (name, by)
        for name in ("none", "unigram", "csls", "inverted")
        for by in ("nats", "accuracy")
    ]
    assert all(row["tokens"] == 100 and row["nats"] > 0 for row in rows)
    assert all(0 <= row["accuracy"] <= 100 for row in rows)
    assert done.stdout.count(" by accuracy ") == 4
