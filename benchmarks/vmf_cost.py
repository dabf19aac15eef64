#!/usr/bin/env python3
"""Time the von Mises-Fisher normaliser with its gradient beside scipy's Bessel functions.

scipy's route is log C = v log κ - log ive(v, κ) - κ with slope -ive(v+1, κ)/ive(v, κ), v = d/2 - 1,
without its constant. It always runs on one thread. The methods take turns in one process, so that
whatever else the machine does falls on all of them; seconds are medians, and so are the ratios of
(scipy / method). κ is spread evenly in its logarithm from d to 100 d: up to d = 4096 scipy's
functions do not underflow there. Errors are against mpmath, relative to max(1, |log C|) and to the
slope, the larger of the two. Prints a table; --json and --plot write files.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from output import add_files, at_least, draw, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402


class Scipy:
    """log C less its constant, and its slope, by scipy's exponentially scaled Bessel functions."""

    threads = 1

    def __init__(self, kappas, dim: int):
        self.kappas, self.order = kappas, dim / 2 - 1

    def run(self) -> tuple:
        from scipy.special import ive

        low, high = ive(self.order, self.kappas), ive(self.order + 1, self.kappas)
        with np.errstate(divide="ignore", invalid="ignore"):  # where low is 0, errors say so
            value = self.order * np.log(self.kappas) - np.log(low) - self.kappas
            return value, -high / low

    def results(self) -> tuple:
        """Return the κ that were used, log C and its slope, as float64."""
        value, slope = self.run()
        return self.kappas, value - (self.order + 1) * math.log(2 * math.pi), slope

    def peak_bytes(self) -> int:
        tracemalloc.start()
        self.run()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak


class Ours:
    """log C and its gradient by fairseq_contout.vmf."""

    def __init__(self, kappas, dim: int, dtype=torch.float64, device: str = "cpu"):
        self.kappas = torch.from_numpy(kappas).to(device, dtype).requires_grad_()
        self.dim, self.device, self.threads = dim, device, torch.get_num_threads()

    def run(self) -> tuple:
        from fairseq_contout.vmf import log_normalizer

        value = log_normalizer(self.kappas, self.dim)
        (slope,) = torch.autograd.grad(value.sum(), self.kappas)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return value, slope

    def results(self) -> tuple:
        """Return the κ that were used, log C and its slope, as float64."""
        return tuple(x.detach().double().cpu().numpy() for x in (self.kappas, *self.run()))

    def peak_bytes(self) -> int:
        if self.device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.run()
            return torch.cuda.max_memory_allocated() - before
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.run()
        events = profiler.profiler.kineto_results.events()
        changes = [event.nbytes() for event in events if event.name() == "[memory]"]
        return max(itertools.accumulate(changes))


def reference(kappa: float, dim: int) -> tuple:
    """Return log C and its slope at one κ as mpmath numbers."""
    import mpmath

    order, kappa = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
    # The default maxterms ends the series too early for large κ and orders.
    low, high = (mpmath.besseli(order + i, kappa, maxterms=10**7) for i in (0, 1))
    value = order * mpmath.log(kappa) - (order + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(low)
    return value, -high / low


def worst_error(results: tuple, dim: int, sample: int):
    """Return the largest relative error at ``sample`` κ, None where a result is not finite."""
    import mpmath

    picked = np.linspace(0, len(results[0]) - 1, min(sample, len(results[0]))).astype(int)
    errors = []
    with mpmath.workdps(40):
        for kappa, value, slope in zip(*(x[picked].tolist() for x in results)):
            if not (math.isfinite(value) and math.isfinite(slope)):
                return None
            exact = reference(kappa, dim)
            errors.append(abs(value - exact[0]) / max(1, abs(exact[0])))
            errors.append(abs((slope - exact[1]) / exact[1]))
        return float(max(errors))


def measure(dim: int, values: int, repeats: int, sample: int) -> list:
    """Return a row for each method at one dim."""
    kappas = np.geomspace(dim, 100 * dim, values)
    methods = {
        "scipy": Scipy(kappas, dim),
        "ours": Ours(kappas, dim),
        "ours float32": Ours(kappas, dim, torch.float32),
    }
    if torch.cuda.is_available():
        methods["ours cuda"] = Ours(kappas, dim, device="cuda")
    seconds = {name: [] for name in methods}
    for number in range(repeats + 1):
        for name, method in methods.items():
            begin = time.perf_counter()
            method.run()
            seconds[name].append(time.perf_counter() - begin)
        print(f"\rdim {dim}: turn {number}/{repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [
        {
            "method": name,
            "vocab": None,
            "dim": dim,
            "values": values,
            "threads": method.threads,
            "seconds": statistics.median(seconds[name][1:]),  # the first turn warms up
            "ratio": statistics.median(
                a / b for a, b in zip(seconds["scipy"][1:], seconds[name][1:])
            ),
            "peak_bytes": method.peak_bytes(),
            "max_relative_error": worst_error(method.results(), dim, sample),
        }
        for name, method in methods.items()
    ]


def paint(axes, rows):
    """Draw how many times faster than scipy's route each method is, a group of bars a dim."""
    dims = sorted({row["dim"] for row in rows})
    names = [name for name in dict.fromkeys(row["method"] for row in rows) if name != "scipy"]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        ratios = {row["dim"]: row["ratio"] for row in rows if row["method"] == name}
        places = [i + number * width for i in range(len(dims))]
        axes.bar(places, [ratios[dim] for dim in dims], width, label=name)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(dims))], [f"d = {d}" for d in dims])
    axes.set_ylabel("times faster than scipy's route")
    axes.legend(frameon=False)


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=at_least(2), nargs="+", default=[300, 1024])
    parser.add_argument("--values", type=at_least(1), default=10**6, help="how many κ")
    parser.add_argument("--repeats", type=at_least(1), default=9, help="turns that count, after 1")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of torch")
    parser.add_argument("--sample", type=at_least(1), default=25, help="κ compared with mpmath")
    add_files(parser)
    arguments = parser.parse_args()
    for module in ("scipy", "mpmath"):
        try:
            __import__(module)
        except ImportError:
            raise SystemExit(
                f'error: {module} is missing; install it: pip install ".[benchmarks]"'
            ) from None
    if not MALLOC.keys() <= os.environ.keys():  # as the recipes train; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(arguments.threads)
    rows = []
    for dim in dict.fromkeys(arguments.dims):
        rows += measure(dim, arguments.values, arguments.repeats, arguments.sample)
    print(f"{'method':14} {'dim':>6} {'seconds':>9} {'ratio':>7} {'peak MB':>8} {'error':>8}")
    for row in rows:
        error = row["max_relative_error"]
        print(
            f"{row['method']:14} {row['dim']:6} {row['seconds']:9.5f} {row['ratio']:7.1f} "
            f"{row['peak_bytes'] / 1e6:8.1f} {'none' if error is None else format(error, '.1e'):>8}"
        )
    write_json(rows, arguments.json)
    draw(arguments.plot, (6, 3.5), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    sys.exit(main())
