"""Length penalty and temperature, which a recipe takes by its validation data."""

import subprocess
import sys

from recipe_data import REPOSITORY, error, run

LIB = REPOSITORY / "examples" / "lib"
COMMAS = "with commas between them"


def test_the_best_translations(tmp_path):
    (tmp_path / "ref").write_text("a b c d e\nf g h i j\n")
    (tmp_path / "short").write_text("H-0\t-1\ta b c d\nH-1\t-1\tf g h i\n")
    (tmp_path / "long").write_text("H-1\t-1\tf g h i j\nH-0\t-1\ta b c d e\n")
    command = [sys.executable, LIB / "best_translations.py", "--reference", tmp_path / "ref"]
    logs = [f"1,1={tmp_path / 'short'}", f"2.5,1.3={tmp_path / 'long'}"]
    for given in (logs, logs[::-1]):
        found = subprocess.run([*command, *given], check=True, capture_output=True, text=True)
        assert found.stdout == "2.5,1.3\n"


def test_numbers_are_checked_at_the_start(tmp_path):
    for bad in ("1,x", "1..5", ".", "0.6,"):
        process = run("multi30k.de-en", "softmax", tmp_path / "out", LENPEN=bad)
        assert "LENPEN must be a number, or several with commas between them" in error(process)
    given = "--max-len-b 9 --lenpen 2"
    process = run("multi30k.de-en", "softmax", tmp_path / "out", GENERATE_OPTIONS=given)
    assert f"GENERATE_OPTIONS must not have --lenpen, but is {given}; give LENPEN" in error(process)
    for bad in ("1,x", "0", "1,0.0", "1,.", "-1", "1.3,"):
        process = run("multi30k.de-en", "softmax", tmp_path / "out", TEMPERATURE=bad)
        assert f"TEMPERATURE must be a number above 0, or several {COMMAS}, but is {bad}" in error(
            process
        )
    given = "--temperature=2"
    process = run("multi30k.de-en", "softmax", tmp_path / "out", GENERATE_OPTIONS=given)
    assert "must not have --temperature" in error(process) and "give TEMPERATURE" in error(process)
