"""What every benchmark does with its rows: JSON, and a picture."""

import json
import logging
from pathlib import Path


def write_json(rows: list, path):
    """Write the rows, a list of objects; nothing without a path."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def draw(path, size: tuple, paint):
    """Let ``paint(axes)`` draw a figure of ``size`` inches and save it; nothing without a path."""
    if not path:
        return
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq's logging shows it all
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    paint(axes)
    figure.savefig(path, dpi=150)
