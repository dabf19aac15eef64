"""benchmarks/table_monitors.py, on logs as fairseq-train writes them."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "table_monitors.py"
LINE = (
    "2026-01-01 00:00:00 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 1.5 | "
    "table_cosine {cosine} | token_cosine 0.25 | table_angle 2.5 | table_rank {rank} | "
    "table_hubness 0.5 | "
    "accuracy 20.5 | ppl 64.5 | wps 10 | num_updates {updates}\n"
)


def call(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_validations_of_a_training(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    lines = [
        LINE.format(cosine="0.9", rank="3.5", updates=50),
        "2026-01-01 00:00:00 | INFO | train | epoch 001 | loss 1.5 | num_updates 50\n",
        LINE.format(cosine="1e-05", rank="99", updates=25),
        LINE.format(cosine="0.8", rank="4", updates=50),  # a training that went on
    ]
    (out / "train.log").write_text("".join(lines))
    found = call("--run", f"a={out}", "--json", tmp_path / "rows", "--plot", tmp_path / "rows.png")
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    assert [(row["method"], row["updates"]) for row in rows] == [("a", 25), ("a", 50)]
    assert [row["table_cosine"] for row in rows] == [1e-05, 0.8]
    assert [row["table_rank"] for row in rows] == [99, 4]
    cells = ["0.800", "0.250", "2.500", "4.000", "0.500", "20.500"]
    assert ["a", "50", *cells] in [line.split() for line in found.stdout.splitlines()]
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_without_a_learned_table(tmp_path):
    (tmp_path / "train.log").write_text("2026 | INFO | valid | valid on 'valid' subset | ppl 2\n")
    found = call("--run", f"a={tmp_path}")
    assert found.returncode != 0 and "logs no learned table; train with" in found.stderr
    found = call("--run", f"a={tmp_path / 'none'}")
    assert found.returncode != 0 and "does not exist" in found.stderr
