"""How well rows of two languages in one space translate words: precision on a held-out lexicon."""

from typing import Dict, List, NamedTuple

import numpy as np
import torch

from preprocess import alignment
from preprocess.seed_lexicon import translations

#: How many of the nearest words count.
RANKS = (1, 5, 10)


class Space(NamedTuple):
    """Words with their unit rows.

    Attributes:
        index: word → row.
        rows: ``(n, d)`` float32.
        count: how frequent each word is, ``(n,)``.
    """

    index: Dict[str, int]
    rows: torch.Tensor
    count: List[int]

    @classmethod
    def of(cls, dictionary, indices, rows):
        """Return the space of some symbols of a dictionary."""
        words = {dictionary[i]: row for row, i in enumerate(indices)}
        return cls(words, rows, [dictionary.count[i] for i in indices])

    def frequent(self, number: int) -> torch.Tensor:
        """Return the rows of the most frequent words, most frequent first: ``(≤ number, d)``."""
        order = np.argsort(-np.array(self.count), kind="stable")[:number]
        return self.rows[torch.from_numpy(order)]

    def rotated(self, mapping):
        """Return the same words with mapped rows."""
        return self._replace(rows=alignment.rotate(self.rows, mapping))


def precision(new: Space, old: Space, pairs, neighbours: int) -> dict:
    """Return precision among the first 1, 5 and 10, in per cent.

    ``new_to_old`` asks for the table's words near a new one; ``old_to_new`` is what decoding does:
    the model points at a word of the table, and the nearest new word is written.

    Args:
        new: the new words, mapped.
        old: those of the table.
        pairs: held-out pairs (new word, word of the table).
        neighbours: of a neighbourhood in CSLS.

    Returns:
        ``{direction: {"cosine" or "csls": {"1": …, "5": …, "10": …}}}``
    """
    near = (
        alignment.neighbourhood(new.rows, old.rows, neighbours),
        alignment.neighbourhood(old.rows, new.rows, neighbours),
    )
    back = [(other, one) for one, other in pairs]
    return {
        "new_to_old": _one_way(new, old, pairs, near),
        "old_to_new": _one_way(old, new, back, near[::-1]),
    }


def _one_way(source: Space, target: Space, pairs, near) -> dict:
    asked, right = translations(pairs, source.index, target.index)
    rows = source.rows[asked]
    found = {
        "cosine": alignment.nearest(rows, target.rows, max(RANKS)),
        "csls": alignment.nearest(rows, target.rows, max(RANKS), (near[0][asked], near[1])),
    }
    return {
        name: {str(k): round(alignment.precision_at_k(indices, right, k), 2) for k in RANKS}
        for name, indices in found.items()
    }


def describe_precision(report) -> list:
    """Return the precisions of a report as lines for people."""
    lines = []
    for when, directions in report["precision"].items():
        for direction, scores in directions.items():
            name = direction.replace("_to_", " → ")
            shown = ", ".join(
                f"{score} " + " / ".join(f"{value:.1f}" for value in values.values())
                for score, values in scores.items()
            )
            lines.append(f"{when} refinement, {name}, precision at 1 / 5 / 10: {shown}")
    if lines:
        lines.insert(0, f"held out: {report['held_out_words']} words")
    return lines
