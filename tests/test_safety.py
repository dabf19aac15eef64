"""Checkpoints and starts: no code runs from a file, nothing else is needed, clear refusals."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import cli
import pytest
import torch

import fairseq_contout  # noqa: F401

ROOT = Path(fairseq_contout.__file__).resolve().parent.parent


class Payload:
    """An object whose unpickling would write a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (Path(self.marker), "ran"))


@pytest.mark.parametrize("place", ["args", "extra_state", "model"])
def test_a_checkpoint_with_a_pickled_call_is_refused(place, corpus, trained, tmp_path):
    state = torch.load(trained("cosine"), weights_only=True)
    marker = tmp_path / "marker"
    if place == "args":
        state["args"] = argparse.Namespace(payload=Payload(marker))
    else:
        state[place]["payload"] = Payload(marker)
    path = tmp_path / "bad.pt"
    torch.save(state, path)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        cli.call("generate", corpus.data, "--path", path)
    assert not marker.exists()


def test_decoding_needs_the_checkpoint_alone(corpus, train, tmp_path, monkeypatch):
    table = tmp_path / "own.safetensors"
    shutil.copy(corpus.table, table)
    train(tmp_path / "model", "--criterion", "cosine", "--target-table", table, updates=20)
    before = cli.call(
        "generate", corpus.data, "--path", tmp_path / "model" / "checkpoint_last.pt", "--beam", 3
    )
    table.unlink()
    moved = tmp_path / "elsewhere"
    shutil.copytree(corpus.data, moved / "data")
    shutil.move(tmp_path / "model" / "checkpoint_last.pt", moved / "m.pt")
    monkeypatch.chdir(moved)
    after = cli.call("generate", "data", "--path", "m.pt", "--beam", 3)
    assert cli.translations(after) == cli.translations(before)


def test_calibrated_scale_is_kept_and_used(corpus, trained):
    state = torch.load(trained("cosine"), weights_only=True)["model"]
    calibration = state["decoder.continuous_output.table._extra_state"]
    assert calibration.dtype == torch.float64 and calibration[0] > 0
    scores = [
        [h[0].score for h in cli.translations(output).values()]
        for output in (
            cli.call("generate", corpus.data, "--path", trained("cosine")),
            cli.call(
                "generate", corpus.data, "--path", trained("cosine"),
                "--model-overrides", "{'scale': 0.5}",
            ),
        )
    ]  # fmt: skip
    assert max(scores[1]) < min(scores[0])  # nearly uniform against calibrated


def test_averaged_checkpoints_load(corpus, trained, tmp_path):
    """Averages as fairseq's scripts/average_checkpoints.py makes them: every tensor, summed."""
    states = [torch.load(trained("cosine"), weights_only=True) for _ in range(2)]
    for key, value in states[0]["model"].items():
        if value.is_floating_point():
            states[0]["model"][key] = (value + states[1]["model"][key]) / 2
    torch.save(states[0], tmp_path / "average.pt")
    averaged = cli.call("generate", corpus.data, "--path", tmp_path / "average.pt")
    single = cli.call("generate", corpus.data, "--path", trained("cosine"))
    assert cli.translations(averaged) == cli.translations(single)


def test_another_dictionary_of_the_same_size_is_refused(corpus, trained, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    lines = (data / "dict.tgt.txt").read_text().splitlines(keepends=True)
    (data / "dict.tgt.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(
        ValueError, match="belongs to a dictionary with signature .* the dictionary"
    ):
        cli.call("generate", data, "--path", trained("cosine"))


START = "--optimizer adam --lr 0.001 --max-tokens 500 --max-update 2 --task translation"


@pytest.mark.parametrize(
    "options, message",
    [
        ("--arch transformer_tiny --criterion cosine", "ends in a softmax"),
        ("--arch continuous_transformer_tiny --criterion cross_entropy --target-table TABLE",
         "needs one of the criterions"),
        ("--arch continuous_transformer_tiny --criterion cosine", "--target-table must name"),
        ("--arch continuous_transformer_tiny --criterion cosine --target-table none.safetensors",
         "none.safetensors: no such file"),
        ("--arch continuous_lstm --criterion cosine --target-table TABLE "
         "--share-decoder-input-output-embed", "--decoder-input table"),
        ("--arch continuous_transformer_tiny --criterion cosine --target-table TABLE --scale -1",
         "--scale must be greater than 0"),
        ("--arch continuous_transformer_tiny --criterion margin --target-table TABLE --margin 3",
         "--margin must be between 0 and 2"),
        ("--arch continuous_transformer_tiny --criterion cosine --target-table TABLE "
         "--adaptive-softmax-cutoff 4", "--adaptive-softmax-cutoff shapes a softmax"),
    ],
)  # fmt: skip
def test_wrong_starts_are_refused(options, message, corpus, tmp_path):
    arguments = options.replace("TABLE", str(corpus.table)).split() + START.split()
    with pytest.raises(ValueError, match=message):
        cli.call("train", corpus.data, *arguments, "--save-dir", tmp_path / "model")
    assert not list(tmp_path.rglob("checkpoint*.pt"))


def test_exit_status_is_not_zero(corpus, tmp_path):
    code = "from fairseq_cli.train import cli_main; cli_main()"
    for option in ("--score=euclid", "--scale=-1"):
        result = subprocess.run(
            [sys.executable, "-c", code, str(corpus.data), *START.split(), "--cpu",
             "--user-dir", str(ROOT / "fairseq_contout"), "--arch", "continuous_transformer_tiny",
             "--criterion", "cosine", "--target-table", str(corpus.table), option],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert result.returncode != 0
        last = result.stderr.strip().splitlines()[-1]
        assert option.split("=")[0] in last
