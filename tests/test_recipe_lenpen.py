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
    process = run("multi30k.de-en", "softmax", tmp_path / "out", LENPEN="1,x")
    assert "LENPEN must be a number, or several with commas between them, but is 1,x" in error(
        process
    )
