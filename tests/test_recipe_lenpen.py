"""The length penalty that a recipe takes by its validation data."""

import subprocess
import sys

from recipe_data import REPOSITORY, error, run

LIB = REPOSITORY / "examples" / "lib"


def test_the_best_length_penalty(tmp_path):
    (tmp_path / "ref").write_text("a b c d e\nf g h i j\n")
    (tmp_path / "short").write_text("H-0\t-1\ta b c d\nH-1\t-1\tf g h i\n")
    (tmp_path / "long").write_text("H-1\t-1\tf g h i j\nH-0\t-1\ta b c d e\n")
    command = [sys.executable, LIB / "lenpen.py", "--reference", tmp_path / "ref"]
    logs = [f"1={tmp_path / 'short'}", f"2.5={tmp_path / 'long'}"]
    for given in (logs, logs[::-1]):
        found = subprocess.run([*command, *given], check=True, capture_output=True, text=True)
        assert found.stdout == "2.5\n"


def test_length_penalties_are_checked_at_the_start(tmp_path):
    for bad in ("1,x", "1..5", ".", "0.6,"):
        process = run("multi30k.de-en", "softmax", tmp_path / "out", LENPEN=bad)
        assert "LENPEN must be a number, or several with commas between them" in error(process)
    given = "--max-len-b 9 --lenpen 2"
    process = run("multi30k.de-en", "softmax", tmp_path / "out", GENERATE_OPTIONS=given)
    assert f"GENERATE_OPTIONS must not have --lenpen, but is {given}; give LENPEN" in error(process)
