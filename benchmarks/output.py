"""What benchmarks share: types of options, and what is done with rows: JSON, and a picture."""

import argparse
import json
import logging
from pathlib import Path


def named(what: str, parse=str):
    """Return an argparse type: NAME=VALUE becomes a pair of the name and ``parse`` of the value.

    Args:
        what: the value as error messages call it.
        parse: raises ValueError for a value that it does not take.
    """

    def split(text: str) -> tuple:
        name, _, value = text.partition("=")
        try:
            if name and value:
                return name, parse(value)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be NAME={what}, but is {text}")

    return split


def at_least(least: int):
    """Return a type for argparse: an integer that is not below ``least``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {least}, but is {text!r}"
            )
        return int(text)

    return number


def add_files(parser: argparse.ArgumentParser):
    """Add the options that name the files which a benchmark writes."""
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--plot", metavar="FILE", help="draw them there")


def write_json(rows: list, path):
    """Write the rows, a list of objects; nothing without a path."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def draw(path, size: tuple, paint):
    """Let ``paint(axes)`` draw a figure of ``size`` inches and save it; nothing without a path."""
    draw_several(path, size, 1, lambda axes: paint(axes[0]))


def draw_several(path, size: tuple, panels: int, paint, rows: int = 1):
    """Let ``paint([axes, …])`` draw panels in rows and save them; nothing without a path."""
    if not path:
        return
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq's logging shows it all
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        rows, -(-panels // rows), figsize=size, layout="constrained", squeeze=False
    )
    paint(list(axes.flatten()))
    figure.savefig(path, dpi=150)


def curves(axes, rows: list, key: str, label: str, *, dashed=(), unit=1.0, beside=False):
    """Draw a curve for each method: ``row[key] / unit`` over the vocabulary, both logarithmic.

    Args:
        axes: where to draw.
        rows: with ``method``, ``vocab`` and ``key``; where that is None there is no point.
        key: what is drawn.
        label: what it is called.
        dashed: methods whose curves are dashed.
        unit: what a value is divided by.
        beside: whether the legend is at the right of the axes, not in them.
    """
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name and row[key] is not None]
        sizes, values = [row["vocab"] for row in own], [row[key] / unit for row in own]
        style = "--" if name in dashed else "-"
        axes.plot(sizes, values, style, marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("vocabulary V")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}
    axes.legend(fontsize=7, **place)
