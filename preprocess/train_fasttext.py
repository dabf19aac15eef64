#!/usr/bin/env python3
"""Train fastText vectors on segmented text: every piece is a word to fastText.

One thread and one seed give the same file every time; more threads are faster and do not, because
they write to the same vectors without locks.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.common import (  # noqa: E402
    OPENERS,
    Parser,
    atomic_path,
    check_output,
    number,
    progress,
    read_lines,
    read_text,
    run,
)

MAX_BUCKETS = 2_000_000
#: A small text needs more than fastText's five passes: after them, all vectors still point the same
#: way (mean cosine 0.56 after 5 passes over 0.4 million pieces, 0.17 after 20).
SEEN_PIECES = 10_000_000


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FILE", help="segmented text (also .gz, .xz)"
    )
    parser.add_argument("--output", required=True, metavar="FILE.bin", help="the model to write")
    parser.add_argument("--dim", type=number(int, 2), default=300, help="dimension of the vectors")
    parser.add_argument(
        "--epoch",
        type=lambda text: None if text == "auto" else number(int, 1)(text),
        default="auto",
        help=f"passes over the text; auto: 5, as in fastText, and more for a small text, to read "
        f"about {SEEN_PIECES:,} pieces, but at most 50",
    )
    parser.add_argument(
        "--minn", type=number(int, 0), default=3, help="shortest n-gram (0 with --maxn 0: none)"
    )
    parser.add_argument(
        "--maxn",
        type=number(int, 0),
        default=6,
        help="longest n-gram; the marks @@ and ▁ take part, so that walk@@ and walk differ",
    )
    parser.add_argument(
        "--model", choices=["skipgram", "cbow"], default="skipgram", help="what is predicted"
    )
    parser.add_argument("--min-count", type=number(int, 1), default=1, help="of a piece")
    parser.add_argument("--lr", type=number(float, 0, open_low=True), default=0.05, help="at first")
    parser.add_argument("--window", type=number(int, 1), default=5, help="pieces on either side")
    parser.add_argument("--negatives", type=number(int, 1), default=5, help="sampled a prediction")
    parser.add_argument(
        "--sample",
        type=number(float, 0, open_low=True),
        default=1e-4,
        help="pieces with a greater share of the text are left out at random the more often",
    )
    parser.add_argument(
        "--bucket",
        type=number(int, 1),
        help=f"rows that n-grams are hashed to (default: twice the text's n-grams, at most "
        f"{MAX_BUCKETS}); a row takes 4·dim bytes of the file",
    )
    parser.add_argument(
        "--threads", type=number(int, 1), default=1, help="more than 1 is not repeatable"
    )
    parser.add_seed("of fastText (its Python function does not take one; see fasttext_worker.py)")
    return parser


def count_ngrams(words, minn: int, maxn: int) -> int:
    """Return the number of distinct n-grams of the words, up to :data:`MAX_BUCKETS`."""
    ngrams = set()
    for word in words:
        word = f"<{word}>"
        for n in range(max(minn, 1), maxn + 1):
            ngrams.update(word[i : i + n] for i in range(len(word) - n + 1))
        if len(ngrams) >= MAX_BUCKETS:
            break
    return len(ngrams)


@contextmanager
def one_file(paths, folder):
    """Yield one plain file with the text of all paths: fastText reads just one."""
    if len(paths) == 1 and Path(paths[0]).suffix not in OPENERS:
        yield paths[0]
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fasttext.") as temporary:
        joined = os.path.join(temporary, "text")
        with open(joined, "w", encoding="utf-8", newline="\n") as file:
            for path in paths:
                file.writelines(f"{line}\n" for line in read_lines(path))
        yield joined


def run_worker(job: dict, quiet: bool):
    """Run fasttext_worker.py with a progress bar; return its status and its message."""
    command = [sys.executable, str(Path(__file__).with_name("fasttext_worker.py")), json.dumps(job)]
    environment = {**os.environ, "MALLOC_PERTURB_": "255"}  # see the worker
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            show_passes(process, job["options"]["input"], job["options"]["epoch"], quiet)
            said = process.stdout.read()
        except BaseException:  # also when this script is interrupted or terminated
            process.kill()
            raise
    return process.returncode, " ".join(said.split())


def show_passes(process, text, epochs: int, quiet: bool):
    """Show how often the process has gone through the text, until it ends."""
    size, passes, before = os.path.getsize(text), -1, 0  # the pass before the first counts words
    with progress(None, "fastText", quiet, total=epochs, unit="passes") as bar:
        while process.poll() is None:
            position = position_in(process.pid, text)
            passes, before = passes + (position < before), position
            bar.update(max(0.0, min(round(passes + position / size, 2), epochs) - bar.n))
            time.sleep(0.1)
        if not process.returncode:
            bar.update(epochs - bar.n)


def position_in(pid: int, text) -> int:
    """Return how far a process has read a file; 0 where the system does not tell (not Linux)."""
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if os.path.realpath(link) == os.path.realpath(text):
                first = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("\n", 1)[0]
                return int(first.split()[1])
    except OSError:
        pass  # the process has ended, or there is no /proc
    return 0


def train(args):
    check_output(args.output, inputs=args.input)
    if args.minn > args.maxn:
        raise ValueError(
            f"--minn must be at most --maxn ({args.maxn}), but is {args.minn}; for no n-grams give "
            "--minn 0 --maxn 0"
        )
    words = Counter()
    for line in read_text(args.input, args.quiet):
        words.update(line.split())
    epochs = args.epoch or min(50, max(5, round(SEEN_PIECES / sum(words.values()))))
    bucket = args.bucket
    if bucket is None:
        bucket = min(MAX_BUCKETS, max(1, 2 * count_ngrams(words, args.minn, args.maxn)))
    options = {
        "model": args.model,
        "lr": args.lr,
        "dim": args.dim,
        "ws": args.window,
        "epoch": epochs,
        "minCount": args.min_count,
        "minn": args.minn,
        "maxn": args.maxn,
        "neg": args.negatives,
        "t": args.sample,
        "bucket": bucket,
        "thread": args.threads,
        # with one thread fastText is silent until the end
        "verbose": 0 if args.quiet or args.threads == 1 else 2,
    }
    folder = Path(args.output).parent
    with one_file(args.input, folder) as text, atomic_path(args.output) as temporary:
        job = {"output": str(temporary), "seed": args.seed, "options": {"input": text, **options}}
        status, reason = run_worker(job, args.quiet or args.threads > 1)
        if status:
            reason = reason or f"it ended with status {status}"
            remedy = "lower --lr" if "NaN" in reason else "check the options and the memory"
            raise ValueError(f"{', '.join(args.input)}: fastText cannot train: {reason}; {remedy}")
    print(
        f"{args.output}: {epochs} passes over {sum(words.values())} pieces, {len(words)} distinct, "
        f"{bucket} rows for n-grams"
    )


def main(argv=None) -> int:
    return run(train, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
