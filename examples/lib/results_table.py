"""Turn results (results.jsonl of several OUT_DIRs) into a Markdown table.

usage: results_table.py RUNS/*/results.jsonl > RESULTS.md
"""

import argparse
import json
import sys
from pathlib import Path

HEADER = (
    "| recipe | table | length penalty | BLEU beam 5 | BLEU greedy | chrF beam 5 | chrF greedy | "
    "updates | "
    "s / update | × softmax | training s | CPU s | peak GB | seed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def read_results(paths: list) -> list:
    """Return the results in all files.

    Raises:
        ValueError: a line is no result.
    """
    results = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                result = json.loads(line)
                result["recipe"], result["bleu"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{path}, line {number}: must be a JSON object as run.sh prints it, but is "
                    f"{line[:60]!r}; run the recipe again"
                ) from None
            results.append(result)
    return results


def row(result: dict, softmax: dict) -> str:
    """Return one row; ``softmax`` maps (test set, seed) to seconds an update."""
    speed = softmax.get((result["test_set"], result["seed"]))
    cells = [
        result["recipe"],
        result.get("table") or "-",  # a softmax has none
        f"{result.get('lenpen', 1):g}",
        f"{result['bleu']:.2f}",
        f"{result['greedy_bleu']:.2f}",
        f"{result['chrf']:.2f}",
        f"{result['greedy_chrf']:.2f}",
        str(result["updates"]),
        f"{result['seconds_per_update']:.3f}",
        f"{result['seconds_per_update'] / speed:.2f}" if speed else "–",
        f"{result['train_seconds']:.0f}",
        f"{result.get('train_cpu_seconds', 0):.0f}",
        f"{result['peak_memory_bytes'] / 1e9:.2f}",
        str(result["seed"]),
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: list) -> str:
    """Return Markdown: a table for each test set, its signatures and the commands."""
    softmax = {
        (r["test_set"], r["seed"]): r["seconds_per_update"]
        for r in results
        if r["recipe"] == "softmax"
    }
    blocks = []
    for name in dict.fromkeys(result["test_set"] for result in results):
        chosen = [result for result in results if result["test_set"] == name]
        signatures = dict.fromkeys(r[f"{m}_signature"] for r in chosen for m in ("bleu", "chrf"))
        lines = [f"## {name}", "", HEADER, *(row(result, softmax) for result in chosen), ""]
        lines += [f"- signature `{signature}`" for signature in signatures]
        commands = dict.fromkeys(r["command"] for r in chosen if r.get("command"))
        lines += [f"- command `{command}`" for command in commands]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="results.jsonl files")
    print(table(read_results(parser.parse_args(argv).results)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
