#!/usr/bin/env python3
"""Time of an update of an output layer with its loss, over the size of the vocabulary.

Forward, backward to the features, and the optimizer's step. Layers take turns in one process, so
that whatever else the machine does falls on all of them: those whose cost does not grow in all
sizes, a rival with the bare linear map. Of a criterion it is the loss of the tokens that is timed,
without masking and logging. Memory is weighed in a process for each. Prints a table; --json and
--plot write files.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from layers import GROWING, LAYERS, add_layer_options, draw_tokens, make_dictionary
from output import add_files, at_least, curves, draw, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402

#: Batches of target tokens, which differ.
BATCHES = 4


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
    """Return a row for each method and size, in the order given.

    Those whose cost does not grow take turns, all sizes of them. A rival takes turns with the bare
    linear map alone: several of them would not fit into memory.
    """
    features = torch.randn(arguments.tokens, arguments.dim, device=device, requires_grad=True)
    dictionaries = {size: make_dictionary(size) for size in arguments.vocab}
    batches = {
        size: [
            draw_tokens(dictionary, arguments.tokens, arguments.seed + i).to(device)
            for i in range(BATCHES)
        ]
        for size, dictionary in dictionaries.items()
    }
    seconds, base = {}, {}

    def run(number, made):
        for name, size, update in made:
            spent = timed(update, features, batches[size][number % BATCHES])
            (base if name == "base" else seconds).setdefault((name, size), []).append(spent)

    def make(name, size):
        torch.manual_seed(arguments.seed)
        return LAYERS[name](dictionaries[size], arguments.dim, device)

    together = [name for name in arguments.methods if name not in GROWING]
    made = [("base", size, make("linear", size)) for size in arguments.vocab]
    made += [(name, size, make(name, size)) for size in arguments.vocab for name in together]
    for number in range(arguments.updates + 2):
        run(number, made)
        print(f"\rround {number + 1}/{arguments.updates + 2}", end="", file=sys.stderr, flush=True)
    ratios = {(n, s): against(seconds[n, s], base["base", s]) for n, s, _ in made if n != "base"}
    made.clear()
    gc.collect()
    for name in (name for name in arguments.methods if name in GROWING):
        for size in arguments.vocab:
            base.clear()
            pair = [("base", size, make("linear", size)), (name, size, make(name, size))]
            for number in range(arguments.slow_updates + 2):
                run(number, pair)
            ratios[name, size] = against(seconds[name, size], base["base", size])
            print(f"\r{name} {size}          ", end="", file=sys.stderr, flush=True)
            del pair
            gc.collect()
    print(file=sys.stderr)
    return [
        {
            "method": name,
            "vocab": size,
            "dim": arguments.dim,
            "tokens": arguments.tokens,
            "seconds": statistics.median(seconds[name, size][2:]),
            "ratio_to_linear": ratios[name, size],
            "updates": len(seconds[name, size]) - 2,
            "peak_bytes": None,
        }
        for name in arguments.methods
        for size in arguments.vocab
    ]


def weigh_all(arguments) -> dict:
    """Return what memory.py finds, by method and size."""
    script = Path(__file__).with_name("memory.py")
    # memory that an allocator keeps would hide what is taken anew
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, script, "--json", file, "--methods", *arguments.methods]
        command += ["--vocab", *map(str, arguments.vocab), "--tokens", str(arguments.tokens)]
        command += ["--dim", str(arguments.dim), "--device", arguments.device]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        found = json.loads(file.read_text(encoding="utf-8"))
    keys = ("step_bytes", "filled_bytes", "peak_bytes")
    return {(row["method"], row["vocab"]): {key: row[key] for key in keys} for row in found}


def against(seconds: list, base: list) -> float:
    """Return the median ratio of times that were measured in turns, the first two left out."""
    return statistics.median(a / b for a, b in zip(seconds[2:], base[2:]))


def earlier_rows(path: str) -> list:
    """Read rows that another run of this script wrote: an argparse type."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if all({"method", "vocab", "seconds", "ratio_to_linear"} <= row.keys() for row in rows):
            return rows
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    raise argparse.ArgumentTypeError(f"must be a file that --json of this script wrote: {path}")


def show(rows):
    """Print times relative to the bare linear map, and to each method's smallest vocabulary."""
    print(f"{'method':23} {'vocab':>9} {'s':>9} {'x linear':>9} {'x first V':>9}  memory")
    first = {r["method"]: r["seconds"] for r in reversed(rows)}
    for row in rows:
        memory = f"{row['step_bytes'] / 2**20:7.0f} MB" if row.get("step_bytes") else ""
        print(
            f"{row['method']:23} {row['vocab']:9,} {row['seconds']:9.4f} "
            f"{row['ratio_to_linear']:9.2f} {row['seconds'] / first[row['method']]:9.2f}  {memory}"
        )


def paint(axes, rows):
    """Draw a curve for each method."""
    curves(
        axes,
        rows,
        "ratio_to_linear",
        "update of the output layer, × a bare linear map",
        dashed=GROWING,
        beside=True,
    )


def main(argv=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    positive = {"type": at_least(1), "metavar": "N"}
    add_layer_options(parser)
    parser.add_argument("--updates", default=10, help="that count, after 2", **positive)
    parser.add_argument("--slow-updates", default=3, help="of what grows with V", **positive)
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--no-memory", action="store_true", help="weigh nothing, which is faster")
    parser.add_argument(
        "--add",
        nargs="+",
        type=earlier_rows,
        default=[],
        metavar="FILE",
        help="rows of earlier runs, shown and drawn with these: what needs much memory can have a "
        "run of its own",
    )
    add_files(parser)
    arguments = parser.parse_args(argv)
    if argv is None and not MALLOC.keys() <= os.environ.keys():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401

    weights = {} if arguments.no_memory else weigh_all(arguments)
    rows = measure(arguments, torch.device(arguments.device))
    for row in rows:
        row.update(weights.get((row["method"], row["vocab"]), {}))
    rows = [*(row for earlier in arguments.add for row in earlier), *rows]
    show(rows)
    write_json(rows, arguments.json)
    draw(arguments.plot, (7.5, 4), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
