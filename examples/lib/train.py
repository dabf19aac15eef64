"""Run a training and keep its wall time and peak memory over all its interruptions.

usage: train.py --stats FILE --save-dir DIR -- fairseq-train …
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

#: Seconds between notes of the time so far: at most that much is lost when we are killed.
INTERVAL = 2.0
#: On a CPU, glibc gives the memory of a big tensor back to the kernel and asks for it anew each
#: time, which costs most where the logits of a softmax are made. These keep it.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def mend_checkpoint(folder: Path):
    """Replace a ``checkpoint_last.pt`` that was cut off while it was copied.

    fairseq writes ``checkpoint_best.pt`` and copies it over ``checkpoint_last.pt``; a kill during
    the copy leaves half a file, which would stop every later start.
    """
    last, best = folder / "checkpoint_last.pt", folder / "checkpoint_best.pt"
    if not last.exists() or zipfile.is_zipfile(last):
        return
    if best.exists() and zipfile.is_zipfile(best):
        print(f"{last} was cut off: going on from {best}", file=sys.stderr)
        temporary = last.with_name(last.name + ".tmp")
        shutil.copyfile(best, temporary)
        os.replace(temporary, last)
    else:
        print(f"{last} was cut off: starting anew", file=sys.stderr)
        last.unlink()


def read_stats(path: Path) -> dict:
    """Return the times, peak bytes and runs so far (of runs that were killed, wall time alone)."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_bytes": 0, "runs": 0}


def write_stats(path: Path, stats: dict):
    """Write the statistics atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(stats) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def peak_memory() -> int:
    """Return the peak resident memory in bytes of the largest process waited for."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run(command: list, path: Path) -> int:
    """Run the command to its end, keep its statistics and return its exit status."""
    before = read_stats(path)
    start, parent = time.monotonic(), os.getppid()

    def keep(**more):
        seconds = before["seconds"] + time.monotonic() - start
        write_stats(path, {**before, "runs": before["runs"] + 1, "seconds": seconds, **more})

    process = subprocess.Popen(command, env={**MALLOC, **os.environ})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: process.send_signal(received))
    while True:
        try:
            status = process.wait(timeout=INTERVAL)
            break
        except subprocess.TimeoutExpired:
            keep()
            if os.getppid() != parent:  # the script that started us was killed: do not live on
                process.terminate()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    keep(
        peak_memory_bytes=max(before["peak_memory_bytes"], peak_memory()),
        cpu_seconds=before.get("cpu_seconds", 0.0) + used.ru_utime + used.ru_stime,
    )
    return status if status >= 0 else 128 - status


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True, help="JSON file to add to")
    parser.add_argument("--save-dir", type=Path, required=True, help="checkpoints")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --, the training")
    args = parser.parse_args(argv)
    mend_checkpoint(args.save_dir)
    return run([word for word in args.command if word != "--"], args.stats)


if __name__ == "__main__":
    sys.exit(main())
