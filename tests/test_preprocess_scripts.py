"""The scripts as processes: from any folder, with --help, and killed in the middle."""

import os
import signal
import subprocess
import sys
import time

import pytest
from preprocess_tools import ROOT, SCRIPTS, fails, snapshot, start, write_dictionary


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_from_any_folder(script, tmp_path):
    process = start(script, "--help", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and err == ""
    assert "--seed" in out or script.startswith(
        ("clean_", "export_rows", "mix_parallel", "build_lexicon", "exchange_table")
    )
    assert "--quiet" in out and "None" not in out


def test_wrong_options_are_one_line(tmp_path):
    process = start("apply_subwords", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    assert err.startswith("apply_subwords.py: error: the following arguments are required")
    assert err.count("\n") == 1


def test_build_table_as_a_process(tmp_path):
    write_dictionary(tmp_path / "dict.txt", ["a", "b", "c"])
    options = ["--dictionary", "dict.txt", "--output", "t", "--source", "random", "--dim"]
    process = start("build_table", *options, 4, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.startswith("t: random, seed 1\n7 rows of dimension 4\n")
    assert "angles: 100%" in err  # progress, and nothing else
    assert all(line.startswith("angles:") for line in err.splitlines() if line)
    before = snapshot(tmp_path)
    process = start("build_table", *options, 4, "--show-words", "d", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and out == "" and snapshot(tmp_path) == before
    expected = (
        "build_table.py: error: --show-words d: must be symbols of dict.txt, but this is none"
    )
    assert err.startswith(expected) and err.count("\n") == 1


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)


def parts(folder):
    return [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_killed_in_the_middle_keeps_the_old_output(tmp_path, number, status):
    (tmp_path / "codes").write_text("#version: 0.2\na b\n")
    (tmp_path / "out").write_text("old\n")
    os.mkfifo(tmp_path / "in")  # a text that does not end
    process = start(
        "apply_subwords", "--model", "codes", "--input", "in", "--output", "out", cwd=tmp_path
    )
    with open(tmp_path / "in", "w") as pipe:
        pipe.write("a b c\n" * 9999)
        pipe.flush()
        wait_for(lambda: any(p.stat().st_size for p in parts(tmp_path)))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert (tmp_path / "out").read_text() == "old\n"
    if number != signal.SIGKILL:  # nothing can clean up after that one
        assert not parts(tmp_path)
    if number == signal.SIGINT:
        assert err.endswith("apply_subwords.py: error: interrupted; nothing was written\n")
        assert "Traceback" not in err


def test_killed_training_leaves_no_process_and_no_file(tmp_path):
    (tmp_path / "a").write_text("some words to train on\n" * 999)
    options = ["--input", "a", "a", "--output", "m.bin", "--dim", 4, "--epoch", 10**6, "--quiet"]
    process = start("train_fasttext", *options, cwd=tmp_path, start_new_session=True)
    wait_for(lambda: any(p.name.startswith(".m.bin") for p in parts(tmp_path)))
    time.sleep(0.5)  # let the worker begin
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ProcessLookupError):  # the worker belongs to the same group
        os.killpg(process.pid, 0)


def test_error_after_progress_stands_on_its_own_line(tmp_path):
    (tmp_path / "in").write_bytes(b"a b\n" * 50 + b"\xff\n")
    (tmp_path / "codes").write_text("#version: 0.2\na b\n")
    options = ["--model", "codes", "--input", "in", "--output", "out"]
    process = start("apply_subwords", *options, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("apply_subwords.py: error: in, line 51: text must be")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes", "in"]


def test_scripts_import_no_models_and_no_criterions():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import preprocess.learn_subwords, preprocess.apply_subwords, preprocess.clean_parallel
import preprocess.train_fasttext
print([name for name in sys.modules if name.startswith(("fairseq", "torch"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("apply_subwords", ["--input", "a", "--model", "b", "--output", "a"]),
        ("apply_subwords", ["--input", "b", "--model", "a", "--output", "a"]),
        ("build_lexicon", ["--input", "a", "b", "--dictionary", "b", "b", "--output", "a"]),
        ("build_lexicon", ["--input", "b", "b", "--dictionary", "b", "a", "--output", "a"]),
        ("build_table", ["--source", "random", "--dim", "4", "--dictionary", "a", "--output", "a"]),
        ("export_rows", ["--table", "a", "--dictionary", "b", "--output", "a"]),
        ("mix_parallel", ["--input", "b", "a", "--output", "a"]),
        ("train_fasttext", ["--input", "b", "a", "--output", "a"]),
    ],
)
def test_what_is_read_is_not_written_over(script, options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).write_text("one two\n")
    message = fails(capsys, tmp_path, script, *options)
    assert "a: must not be overwritten while it is read; change --output" in message
