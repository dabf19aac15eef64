"""Helpers of the test_preprocess_*.py files: run a script, in this process or in one of its own."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SCRIPTS = ["learn_subwords", "apply_subwords", "clean_parallel", "train_fasttext", "build_table"]
SCRIPTS += ["clean_monolingual", "mix_parallel", "export_rows", "build_lexicon"]
SCRIPTS += ["extend_table", "align_tables", "exchange_table"]


def call(script, *arguments) -> int:
    """Run ``preprocess/<script>.py`` in this process, without progress bars; return its status."""
    main = importlib.import_module(f"preprocess.{script}").main
    return main(["--quiet", *map(str, arguments)])


def start(script, *arguments, **options) -> subprocess.Popen:
    """Start ``preprocess/<script>.py`` in a process of its own."""
    command = [sys.executable, str(ROOT / "preprocess" / f"{script}.py"), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # A shell's background jobs ignore interrupts, and hand that on to what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def fails(capsys, folder, script, *arguments) -> str:
    """Check that a call fails as bad input must, and return its message.

    Status ≠ 0, exactly one line on stderr, and the folder is as it was.
    """
    before = snapshot(folder)
    capsys.readouterr()
    try:
        status = call(script, *arguments)
    except SystemExit as left:  # argparse
        status = left.code
    captured = capsys.readouterr()
    assert status != 0
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n"), captured.err
    assert ": error: " in captured.err
    assert snapshot(folder) == before
    return captured.err


def snapshot(folder) -> dict:
    """Return every file below a folder with its bytes."""
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def write_dictionary(path, words, count=1):
    """Write a fairseq dictionary: words, or ``{word: count}``; return it loaded."""
    from fairseq.data import Dictionary

    counts = words if isinstance(words, dict) else dict.fromkeys(words, count)
    path.write_text("".join(f"{w} {c}\n" for w, c in counts.items()), encoding="utf-8")
    return Dictionary.load(str(path))


WORDS = {f"word{i}": 1000 // (i + 1) + 1 for i in range(70)}


def make_files(folder):
    """Write a dictionary and vectors of its words in another order; return both and the folder.

    The dictionary has padding words; word3, word40 and end have no vector.
    """
    dictionary = write_dictionary(folder / "dict.txt", {**WORDS, "madeupword0000": 0, "end": 3})
    rng = np.random.default_rng(7)
    common = 3 * rng.standard_normal(12)  # as real vectors: far from centred
    vectors = {w: common + rng.standard_normal(12) for w in reversed(list(WORDS))}
    del vectors["word3"], vectors["word40"]
    lines = [f"{w} {' '.join(f'{x:.6f}' for x in v)}\n" for w, v in vectors.items()]
    (folder / "v.vec").write_text(f"{len(vectors)} 12\n" + "".join(lines))
    return folder, dictionary, vectors


def build(folder, *options, name="table"):
    path = folder / f"{name}.safetensors"
    assert call("build_table", "--dictionary", folder / "dict.txt", "--output", path, *options) == 0
    return path


def vec_options(folder, *more):
    return ["--source", "vectors", "--vectors", folder / "v.vec", *more]


def unit(vector):
    return np.asarray(vector) / np.linalg.norm(vector)


def options(**given):
    defaults = {"vectors": None, "text": None, "dim": None, "seed": 1, "quiet": True, "source": "s"}
    return SimpleNamespace(**{**defaults, **given})
