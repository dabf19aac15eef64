#!/usr/bin/env python3
"""Time of an update of an output layer with its loss, over the size of the vocabulary.

Forward, backward to the features, and the optimizer's step. The layers of all sizes take turns in
one process, so that whatever else the machine does falls on all of them; memory is weighed in a
process for each. Prints a table; --json and --plot write files.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from layers import GROWING, LAYERS, draw_tokens, make_dictionary
from memory import weigh
from output import draw, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402


def timed(update, features, target) -> float:
    """Make one update and return its seconds."""
    features.grad = None
    if features.is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    update(features, target)
    if features.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(arguments, device):
    """Return a row for each method and size, in the order given."""
    features = torch.randn(arguments.tokens, arguments.dim, device=device, requires_grad=True)
    seconds = {}
    # those whose cost does not grow stay in memory together, and take turns
    together = [name for name in arguments.methods if name not in GROWING]
    made = []
    dictionaries = {size: make_dictionary(size) for size in arguments.vocab}
    batches = {
        size: draw_tokens(dictionary, arguments.tokens, arguments.seed).to(device)
        for size, dictionary in dictionaries.items()
    }
    for size, dictionary in dictionaries.items():
        for name in together:
            torch.manual_seed(arguments.seed)
            made.append((name, size, LAYERS[name](dictionary, arguments.dim, device)))
    for number in range(arguments.updates + 2):
        for name, size, update in made:
            seconds.setdefault((name, size), []).append(timed(update, features, batches[size]))
        print(f"\rround {number + 1}/{arguments.updates + 2}", end="", file=sys.stderr, flush=True)
    made.clear()
    gc.collect()
    for name in (name for name in arguments.methods if name in GROWING):
        for size, dictionary in dictionaries.items():
            torch.manual_seed(arguments.seed)
            update = LAYERS[name](dictionary, arguments.dim, device)
            seconds[name, size] = [
                timed(update, features, batches[size]) for _ in range(2 + arguments.slow_updates)
            ]
            print(f"\r{name} {size}          ", end="", file=sys.stderr, flush=True)
            del update
            gc.collect()
    print(file=sys.stderr)
    rows = []
    for name in arguments.methods:
        for size in arguments.vocab:
            found = seconds[name, size][2:]
            rows.append(
                {
                    "method": name,
                    "vocab": size,
                    "dim": arguments.dim,
                    "tokens": arguments.tokens,
                    "seconds": statistics.median(found),
                    "updates": len(found),
                    "peak_bytes": None,
                }
            )
    return rows


def show(rows, sizes):
    """Print times relative to the bare linear map, and to the smallest vocabulary."""
    base = {r["vocab"]: r["seconds"] for r in rows if r["method"] == "linear"}
    print(
        f"{'method':19} {'vocab':>9} {'s':>9} {'x linear':>9} {'x V=' + str(sizes[0]):>11}  memory"
    )
    first = {r["method"]: r["seconds"] for r in rows if r["vocab"] == sizes[0]}
    for row in rows:
        linear = f"{row['seconds'] / base[row['vocab']]:9.2f}" if base else " " * 9
        memory = f"{row['step_bytes'] / 2**20:7.0f} MB" if row.get("step_bytes") else ""
        print(
            f"{row['method']:19} {row['vocab']:9,} {row['seconds']:9.4f} {linear} "
            f"{row['seconds'] / first[row['method']]:11.2f}  {memory}"
        )


def paint(axes, rows):
    """Draw a curve for each method: time over V."""
    for name in dict.fromkeys(row["method"] for row in rows):
        points = [(r["vocab"], r["seconds"]) for r in rows if r["method"] == name]
        style = "--" if name in GROWING else "-"
        axes.plot(*zip(*points), style, marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("vocabulary V")
    axes.set_ylabel("seconds of an update of the output layer")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def main(argv=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    positive = {"type": int, "metavar": "N"}
    parser.add_argument("--methods", nargs="+", choices=list(LAYERS), default=list(LAYERS)[:-1])
    parser.add_argument(
        "--vocab", nargs="+", default=[1000, 10_000, 100_000, 1_000_000], **positive
    )
    parser.add_argument("--tokens", default=4096, **positive)
    parser.add_argument("--dim", default=256, **positive)
    parser.add_argument("--updates", default=10, help="that count, after 2", **positive)
    parser.add_argument("--slow-updates", default=1, help="of what grows with V", **positive)
    parser.add_argument("--seed", default=1, **positive)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-memory", action="store_true", help="weigh nothing, which is faster")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args(argv)
    for name in ("vocab", "tokens", "dim", "updates", "slow_updates"):
        values = getattr(arguments, name)
        if min(values if isinstance(values, list) else [values]) < (10 if name == "vocab" else 1):
            parser.error(f"--{name.replace('_', '-')} is too small: {values}")
    if argv is None and not MALLOC.keys() <= os.environ.keys():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401

    weights = {}
    if not arguments.no_memory:  # first: memory that this process has freed would hide some
        for name in arguments.methods:
            for size in arguments.vocab:
                weights[name, size] = weigh(name, size, arguments)
    rows = measure(arguments, torch.device(arguments.device))
    for row in rows:
        row.update(weights.get((row["method"], row["vocab"]), {}))
    show(rows, arguments.vocab)
    write_json(rows, arguments.json)
    draw(arguments.plot, (7.5, 4), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
