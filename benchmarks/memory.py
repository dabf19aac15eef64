#!/usr/bin/env python3
"""Memory of an update of an output layer with its loss, over the size of the vocabulary.

Each method and size has a process of its own. ``step_bytes`` is what resident memory grows by in
the first update (the optimizer's state is in it, of rows that have been seen), ``filled_bytes``
the same after so many updates that each row has been seen, ``peak_bytes`` the largest resident
memory of the process less that of one that has imported the same and made nothing. On a GPU they
are what torch allocates. Prints a table; --json and --plot write files.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from layers import GROWING, LAYERS, add_layer_options, draw_tokens, make_dictionary
from output import add_files, curves, draw, write_json

ROOT = Path(__file__).resolve().parent.parent


def resident(field: str) -> int:
    """Return a field of this process's status in bytes: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def weigh_here(name: str, size: int, tokens: int, dim: int, device: str) -> dict:
    """Make an update in this process and return what memory it took."""
    where = torch.device(device)
    # imports, and what torch allocates once
    small = make_dictionary(100)
    warm = torch.randn(8, dim, device=where, requires_grad=True)
    LAYERS[name](small, dim, where)(warm, draw_tokens(small, 8, 1).to(where))
    dictionary = make_dictionary(size)
    features = torch.randn(tokens, dim, device=where, requires_grad=True)
    target = draw_tokens(dictionary, tokens, 1).to(where)
    nothing = resident("VmRSS")
    update = LAYERS[name](dictionary, dim, where)
    if where.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        update(features, target)
        peak = torch.cuda.max_memory_allocated()
        # the state of all rows is allocated at once there
        return {"step_bytes": peak - before, "filled_bytes": peak - before, "peak_bytes": peak}
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is the one of now
    update(features, target)
    peak = resident("VmHWM")
    held = resident("VmRSS")
    for state in update.optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value):
                value.add_(0)  # writes every page
    filled = peak + resident("VmRSS") - held
    return {
        "step_bytes": peak - before,
        "filled_bytes": filled - before,
        "peak_bytes": peak - nothing,
    }


def weigh(name: str, size: int, arguments) -> dict:
    """Return what an update takes in a process of its own, as the module says.

    All are None where the system ended the process, since there was not as much memory.
    """
    given = (name, size, arguments.tokens, arguments.dim, arguments.device)
    if arguments.device == "cuda":  # torch counts there, and a fork would lose the device
        return weigh_here(*given)
    # a fork has imported all of this already
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        try:
            return pool.submit(weigh_here, *given).result()
        except (BrokenProcessPool, MemoryError, RuntimeError) as error:
            print(f"{name} at {size}: {error}", file=sys.stderr)
            return {"step_bytes": None, "filled_bytes": None, "peak_bytes": None}


def paint(axes, rows):
    """Draw a curve for each method."""
    curves(
        axes,
        rows,
        "step_bytes",
        "memory of an update of the output layer, MB",
        dashed=GROWING,
        beside=True,
        unit=2**20,
    )


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_options(parser)
    add_files(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401

    rows = []
    columns = ("update", "all seen", "with its rows")
    print(f"{'method, MB':21} {'vocab':>9} " + " ".join(f"{name:>14}" for name in columns))
    for name in arguments.methods:
        for size in arguments.vocab:
            row = {"method": name, "vocab": size, "dim": arguments.dim, "seconds": None}
            row.update(weigh(name, size, arguments))
            rows.append(row)
            shown = [
                f"{row[key] / 2**20:.0f}" if row[key] is not None else "does not fit"
                for key in ("step_bytes", "filled_bytes", "peak_bytes")
            ]
            print(f"{name:21} {size:9,} " + " ".join(f"{x:>14}" for x in shown), flush=True)
    write_json(rows, arguments.json)
    draw(arguments.plot, (7.5, 4), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
