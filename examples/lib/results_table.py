"""Turn results (results.jsonl of several OUT_DIRs) into a Markdown table.

usage: results_table.py RUNS/*/results.jsonl > RESULTS.md
"""

import argparse
import json
import sys
from pathlib import Path

#: Columns: heading → field and its format. Those of a translation and of a language model differ.
TRANSLATION = {
    "length penalty": ("lenpen", "g"),
    "temperature": ("temperature", "g"),
    "BLEU beam 5": ("bleu", ".2f"),
    "BLEU greedy": ("greedy_bleu", ".2f"),
    "chrF beam 5": ("chrf", ".2f"),
    "chrF greedy": ("greedy_chrf", ".2f"),
}
LANGUAGE_MODEL = {
    "perplexity, validation": ("valid_ppl", ".1f"),
    "perplexity, test": ("test_ppl", ".1f"),
}
COST = ("updates", "s / update", "× softmax", "training s", "CPU s", "peak GB", "seed")


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
                result["recipe"], [result[field] for field, _ in measures(result).values()]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{path}, line {number}: must be a JSON object as run.sh prints it, but is "
                    f"{line[:60]!r}; run the recipe again"
                ) from None
            results.append(result)
    return results


def measures(result: dict) -> dict:
    """Return the columns that say how good a result is."""
    result.setdefault("lenpen", 1)
    result.setdefault("temperature", 1)
    return LANGUAGE_MODEL if "test_ppl" in result else TRANSLATION


def row(result: dict, softmax: dict) -> str:
    """Return one row; ``softmax`` maps (test set, seed) to seconds an update."""
    speed = softmax.get((result["test_set"], result["seed"]))
    cells = [
        result["recipe"],
        result.get("table") or "-",  # a softmax has none
        *(format(result[field], form) for field, form in measures(result).values()),
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
        named = [f"{metric}_signature" for metric in ("bleu", "chrf")]
        signatures = dict.fromkeys(r[name] for r in chosen for name in named if name in r)
        columns = ["recipe", "table", *measures(chosen[0]), *COST]
        lines = [f"## {name}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [*(row(result, softmax) for result in chosen), ""]
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
