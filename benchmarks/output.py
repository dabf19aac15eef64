"""What benchmarks share: options NAME=VALUE, and what is done with rows: JSON, and a picture."""

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


def write_json(rows: list, path):
    """Write the rows, a list of objects; nothing without a path."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def draw(path, size: tuple, paint):
    """Let ``paint(axes)`` draw a figure of ``size`` inches and save it; nothing without a path."""
    draw_several(path, size, 1, lambda axes: paint(axes[0]))


def draw_several(path, size: tuple, panels: int, paint):
    """Let ``paint([axes, …])`` draw panels side by side and save them; nothing without a path."""
    if not path:
        return
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq's logging shows it all
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    paint(list(axes[0]))
    figure.savefig(path, dpi=150)
