"""benchmarks/accuracy_by_frequency.py: its sums by hand, and a call of it."""

import importlib.util
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cli
import pytest
import torch
from fairseq import checkpoint_utils

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


def test_words_are_counted_as_often_as_they_are_targets(module):
    sentences = [torch.tensor([4, 4, 2]), torch.tensor([5, 4, 2])]
    assert module.target_counts(sentences, 7).tolist() == [0, 0, 2, 0, 3, 1, 0]


def test_a_language_model_is_refused(english, language_model):
    path = language_model("transformer")
    command = [sys.executable, SCRIPT, english, "--run", f"lm={path}"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "must be a model of translation, whose data are pairs, but its task is" in done.stderr


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


def by_hand(path, data, subset):
    """Each target token of a subset: its place, whether it is the likeliest, and its nats."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={"data": str(data)}
    )
    model = models[0].eval()
    task.load_dataset(subset)
    dataset, found = task.dataset(subset), []
    for i in range(len(dataset)):
        sample = dataset.collater([dataset[i]])
        with torch.no_grad():
            probabilities = model.get_normalized_probs(
                model(**sample["net_input"]), log_probs=False, sample=sample
            )[0]
        for place, token in zip(probabilities, sample["target"][0].tolist()):
            found.append((token, int(place.argmax()) == token, -math.log(place[token])))
    return found


def train_softmax(data, folder, *more):
    """A short training of fairseq's own transformer, with dropout."""
    options = "--task translation --arch transformer_tiny --criterion label_smoothed_cross_entropy "
    options += "--optimizer adam --lr 0.003 --max-update 40 --batch-size 64 --dropout 0.3 "
    options += "--no-epoch-checkpoints"
    cli.call("train", data, *options.split(), "--save-dir", folder, *more)
    return folder / "checkpoint_last.pt"


def test_a_subset_without_sentences_is_refused(corpus, tmp_path):
    for side in ("src", "tgt"):  # --dataset-impl raw
        (tmp_path / f"dict.{side}.txt").write_text((corpus.data / f"dict.{side}.txt").read_text())
        (tmp_path / f"train.src-tgt.{side}").write_text((corpus.raw / f"valid.{side}").read_text())
        (tmp_path / f"valid.src-tgt.{side}").touch()
    options = ["--dataset-impl", "raw", "--max-update", "1", "--disable-validation"]
    path = train_softmax(tmp_path, tmp_path / "softmax", *options)
    command = [sys.executable, SCRIPT, tmp_path, "--run", f"softmax={path}"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"--subset valid must have sentences, but has none in {tmp_path}" in done.stderr


def test_a_call(corpus, trained, tmp_path):
    paths = {"ours": trained("cosine"), "theirs": train_softmax(corpus.data, tmp_path / "softmax")}
    tokens = {
        (name, subset): by_hand(path, corpus.data, subset)
        for name, path in paths.items()
        for subset in ("train", "valid")
    }
    often = Counter(token for token, *_ in tokens["ours", "train"])
    edge = often.most_common(2)[1][1]  # of the most frequent word but </s>: some sentences have two
    command = [sys.executable, SCRIPT, corpus.data, "--batch-size", "7"]
    command += [f"--run={name}={path}" for name, path in paths.items()]
    command += ["--subset", "train", "--subset", "valid", "--edges", f"5,{edge}"]
    command += ["--json", tmp_path / "rows", "--plot", tmp_path / "plot.png"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    buckets = ["0-4", f"5-{edge - 1}", f"{edge}-", "all"]
    assert [row["bucket"] for row in rows] == buckets * 4
    for (name, subset), found in tokens.items():
        place = {bucket: [] for bucket in buckets}
        for token, *rest in found:
            bucket = buckets[(often[token] >= 5) + (often[token] >= edge)]
            place[bucket].append(rest)
            place["all"].append(rest)
        own = [row for row in rows if (row["method"], row["subset"]) == (name, subset)]
        for row, expected in zip(own, place.values()):
            assert row["tokens"] == len(expected)
            if expected:
                right, nats = (sum(values) / len(expected) for values in zip(*expected))
                assert row["accuracy"] == pytest.approx(100 * right)
                assert row["nats"] == pytest.approx(nats, rel=1e-4)
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert done.stdout.count("ours") == done.stdout.count("theirs") == len(rows) / 2
