#!/usr/bin/env python3
"""Draw how spread learned tables were at each validation of several trainings.

Each training is a folder that a recipe made; its train.log has what the criterions log of a learned
table: the mean cosine of two rows, and of the rows of two tokens of the text, the smallest angle
between two, their effective rank, and the hubness. A table that collapses goes to cosine 1, angle 0
and rank 1, that of the tokens first. Prints a table; --json and --plot write files.
"""

import argparse
import re
import sys
from pathlib import Path

from output import add_files, draw_several, named, write_json

#: What is logged, and what the axis is called.
MONITORS = {
    "table_cosine": "mean cosine of two rows",
    "token_cosine": "mean cosine of two tokens' rows",
    "table_angle": "smallest angle (degrees)",
    "table_rank": "effective rank",
    "table_hubness": "hubness (skewness)",
    "accuracy": "accuracy (%)",
}


def read(name: str, folder: Path) -> list:
    """Return one row for each validation that a training's log tells of, in its order."""
    log = folder / "train.log"
    if not log.is_file():
        raise SystemExit(f"error: {log} does not exist; {folder} must be what a recipe made")
    rows = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if " | valid on " in line:
            found = dict(re.findall(r"(\w+) ([-\d.e+]+|nan|inf)(?: \||$)", line))
            if "table_cosine" in found:  # a training that went on says it twice: the last counts
                # older logs have no token_cosine
                row = {key: float(found.get(key, "nan")) for key in [*MONITORS, "ppl"]}
                updates = int(found["num_updates"])
                rows[updates] = {"method": name, "updates": updates, **row}
    if not rows:
        raise SystemExit(f"error: {log} logs no learned table; train with a learned one")
    return [rows[updates] for updates in sorted(rows)]


def paint(axes, rows):
    """Draw a panel for each monitor, a line for each training."""
    styles = ["o-", "s-", "^-", "d-", "v-", "x-", "+-"]
    for panel, (key, title) in zip(axes, MONITORS.items()):
        for number, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
            own = [row for row in rows if row["method"] == name]
            x, y = [row["updates"] for row in own], [row[key] for row in own]
            panel.plot(x, y, styles[number % len(styles)], markersize=4, linewidth=1, label=name)
        panel.set_xlabel("updates")
        panel.set_title(title, fontsize=10)
        if key in ("table_rank", "table_angle", "accuracy"):
            panel.set_ylim(bottom=0)
    lines, names = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=named("OUT_DIR"), action="append", required=True, metavar="NAME=OUT_DIR"
    )
    add_files(parser)
    arguments = parser.parse_args()
    rows = [row for name, folder in arguments.run for row in read(name, Path(folder))]
    columns = ("cosine", "tokens'", "angle", "rank", "hubness", "accuracy")
    print(f"{'training':24} {'updates':>7} " + " ".join(f"{name:>8}" for name in columns))
    for row in rows:
        cells = (f"{row[key]:8.3f}" for key in MONITORS)
        print(f"{row['method']:24} {row['updates']:7} " + " ".join(cells))
    write_json(rows, arguments.json)
    draw_several(arguments.plot, (9, 6), len(MONITORS), lambda axes: paint(axes, rows), rows=2)


if __name__ == "__main__":
    sys.exit(main())
