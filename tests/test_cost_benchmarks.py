"""benchmarks/training_cost.py, memory.py, update_cost.py at small sizes: not how fast it is."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import layers  # noqa: E402
import memory  # noqa: E402
import training_cost  # noqa: E402

METHODS = [name for name in layers.LAYERS if name != "cce"]  # which is no dependency
CPU = torch.device("cpu")


def test_tokens_follow_the_counts_and_the_seed():
    dictionary = layers.make_dictionary(50)
    assert len(dictionary) == 50
    tokens = layers.draw_tokens(dictionary, 20_000, 1)
    assert tokens.equal(layers.draw_tokens(dictionary, 20_000, 1))
    found = torch.bincount(tokens, minlength=50)
    assert found[dictionary.bos()] == found[dictionary.pad()] == found[dictionary.unk()] == 0
    assert found[4] > found[10] > found[49] > 0 and 700 < found[dictionary.eos()] < 1200


@pytest.mark.parametrize("name", METHODS)
def test_an_update_changes_what_is_learned_and_reaches_the_features(name):
    torch.manual_seed(1)
    dictionary = layers.make_dictionary(60)
    tensors = []
    kept = torch.nn.Parameter.__new__

    def remember(cls, *args, **kwargs):
        tensors.append(kept(cls, *args, **kwargs))
        return tensors[-1]

    torch.nn.Parameter.__new__ = remember
    try:
        update = layers.LAYERS[name](dictionary, 16, CPU)
    finally:
        torch.nn.Parameter.__new__ = kept
    before = [tensor.detach().clone() for tensor in tensors]
    features = torch.randn(30, 16, requires_grad=True)
    update(features, layers.draw_tokens(dictionary, 30, 2))
    assert features.grad.norm() > 0
    assert any(not a.equal(b) for a, b in zip(before, tensors))
    assert all(tensor.grad is None for tensor in tensors if tensor.is_leaf)


def test_the_softmax_in_parts_is_the_whole_one(monkeypatch):
    gradients = []
    for elements in (1 << 27, 60 * 7):
        monkeypatch.setattr(layers, "SOFTMAX_ELEMENTS", elements)
        torch.manual_seed(1)
        update = layers.softmax(layers.make_dictionary(60), 16, CPU)
        features = torch.randn(30, 16, requires_grad=True)
        update(features, layers.draw_tokens(layers.make_dictionary(60), 30, 2))
        gradients.append(features.grad)
    torch.testing.assert_close(*gradients)


def test_table_and_files(tmp_path, capsys):
    files = ["--json", str(tmp_path / "rows"), "--plot", str(tmp_path / "rows.png")]
    sizes = ["--vocab", "50", "90", "--tokens", "20", "--dim", "8", "--updates", "2"]
    methods = ["--methods", "linear", "contrastive", "softmax"]
    training_cost.main([*sizes, *methods, "--no-memory", *files])
    rows = json.loads((tmp_path / "rows").read_text())
    assert [(row["method"], row["vocab"]) for row in rows] == [
        (name, size) for name in methods[1:] for size in (50, 90)
    ]
    assert all(row["seconds"] > 0 and row["dim"] == 8 for row in rows)
    assert [row["updates"] for row in rows] == [2, 2, 2, 2, 3, 3]
    assert all(row["ratio_to_linear"] > 0 for row in rows)
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "contrastive                    50" in capsys.readouterr().out
    again = ["--vocab", "120", *sizes[3:], "--methods", "softmax", "--no-memory"]
    training_cost.main([*again, "--add", files[1], "--json", str(tmp_path / "all")])
    both = json.loads((tmp_path / "all").read_text())
    assert both[:6] == rows and [row["vocab"] for row in both[6:]] == [120]
    assert capsys.readouterr().out.count("softmax") == 3
    (tmp_path / "other").write_text("[{}]")
    with pytest.raises(SystemExit):
        training_cost.main([*again, "--add", str(tmp_path / "other")])
    assert "must be a file that --json of this script wrote" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        training_cost.main(["--vocab", "5"])
    assert "--vocab: must be an integer of at least 10, but is '5'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_of_the_softmax_grows_and_ours_does_not():
    arguments = Namespace(tokens=256, dim=32, device="cpu")
    found = {
        (name, size): memory.weigh(name, size, arguments)
        for name in ("softmax", "contrastive")
        for size in (100, 80_000)
    }
    growth = {
        (name, key): found[name, 80_000][key] - found[name, 100][key]
        for name in ("softmax", "contrastive")
        for key in ("step_bytes", "filled_bytes")
    }
    logits, moments = 256 * 80_000 * 4, 2 * 80_000 * 32 * 4
    assert growth["softmax", "step_bytes"] > 2 * logits
    assert growth["contrastive", "step_bytes"] < logits / 2  # whole pages of the rows it meets
    # once every row has been seen, its moments are there
    assert growth["contrastive", "filled_bytes"] > 0.8 * moments


def test_cutoffs_cost_least():
    dictionary = layers.make_dictionary(3000)
    first, second = layers.adaptive_cutoffs(dictionary, 64)
    assert 5 < first < second < 3000 and first < 600


def test_updates_of_whole_models(corpus, tmp_path):
    script = Path(training_cost.__file__).with_name("update_cost.py")
    command = [sys.executable, script, corpus.data, "--table", corpus.table, "--updates", "2"]
    command += ["--source-lang", "src", "--target-lang", "tgt", "--max-tokens", "300", "--share"]
    command += ["--arch", "transformer_tiny", "--separate", "--sparse", "--json", tmp_path / "rows"]
    command += ["--recipes", "softmax", "linear", "contrastive", "cosine"]
    command += ["--variant", "of 8=contrastive --max-candidates 8"]
    command += ["--variant", "by itself=cosine --decoder-input separate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["method"]: row for row in json.loads((tmp_path / "rows").read_text())}
    assert list(rows) == ["softmax", "linear", "contrastive", "cosine", "of 8", "by itself"]
    learned = {name: row["learned_parameters"] for name, row in rows.items()}
    # neither has a number for a target word
    assert learned["linear"] == learned["cosine"] < learned["contrastive"] == learned["of 8"]
    assert learned["cosine"] < learned["by itself"]  # which has an input of its own


@pytest.mark.parametrize(
    "options, message",
    [
        (["--updates", "1"], "--updates: must be an integer of at least 2, but is '1'"),
        (["--variant", "x=nothing"], "--variant: must be NAME=RECIPE OPTIONS, but is x=nothing"),
        (["--variant", "cosine=cosine"], "names of recipes and variants must differ"),
        (["--recipes", "adaptive"], "the recipe adaptive is one of --task language_modeling"),
    ],
)
def test_what_update_cost_cannot_time(monkeypatch, capsys, options, message):
    import update_cost

    monkeypatch.setattr(sys, "argv", ["update_cost.py", "data", "--table", "x", *options])
    with pytest.raises(SystemExit):
        update_cost.main()
    assert message in capsys.readouterr().err
