"""benchmarks/bleu_over_time.py: what it refuses. test_recipes.py runs it on a training."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "bleu_over_time.py"


def refusal(*options, reference=__file__):
    command = [sys.executable, SCRIPT, "data", "--run", "a=out", "--reference", reference]
    command += ["--source-lang", "de", "--target-lang", "en", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_refusals(tmp_path):
    message = refusal("--decode-options", "--max-len-b 8 --lenpen=2")
    assert "must not have --lenpen" in message and message.endswith("leave it out")
    assert "must not have --remove-bpe" in refusal("--decode-options", "--nbest 1 --remove-bpe")
    assert "--cost names b, which no --run names" in refusal("--cost", "b=0.5")
    assert "--start names c, which no --run names" in refusal("--start", "c=5")
    assert "--average-own names d, which no" in refusal("--average-own", "d=5")
    assert "--lenpen-own names d, which no" in refusal("--lenpen-own", "d=2")
    assert "--temperature-own names d, which no" in refusal("--temperature-own", "d=2")
    for value in ("0", "-1", "x"):
        for option, given in (("--temperature", value), ("--temperature-own", f"a={value}")):
            expected = f"argument {option}: must be a number above 0, but is {value}"
            assert refusal(f"{option}={given}").endswith(expected)
    message = refusal("--average-own", "a=0")
    assert "--average-own: must be an integer of at least 1, but is '0'" in message
    assert "none.en is none; give" in refusal(reference=tmp_path / "none.en")
    message = refusal("--run", f"a={tmp_path}")
    assert "checkpoints must hold checkpoints of epochs, but has none; train" in message
