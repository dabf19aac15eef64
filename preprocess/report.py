"""What a table looks like: origins, coverage, angles, neighbours. Rows are compared in blocks."""

import math
from collections import Counter

import torch

from preprocess.common import progress
from preprocess.pieces import BAR

#: Rows that are compared at once: memory is BLOCK · BLOCK doubles.
BLOCK = 2048


def coverage(origin, counts) -> dict:
    """Return the share of the running text that rows of each origin cover.

    Args:
        origin: name for each symbol.
        counts: the dictionary's counts of the symbols.
    """
    total = Counter()
    for name, count in zip(origin, counts):
        total[name] += count
    everything = sum(total.values())
    return {name: count / everything if everything else 0.0 for name, count in total.items()}


def mean_cosine(rows: torch.Tensor) -> float:
    """Return the mean cosine of two different unit rows ``(V, d)``.

    (||Σ e_i||² - V) / (V (V - 1)): no pair is looked at.
    """
    count = len(rows)
    if count < 2:
        return math.nan
    return (rows.double().sum(dim=0).square().sum().item() - count) / (count * (count - 1))


def closest_pairs(rows: torch.Tensor, quiet=True):
    """Find the two rows at the smallest angle and every row's angle to its nearest row.

    Exact, in float64, in blocks of :data:`BLOCK` rows: O(V² d) time, no (V, V) matrix.

    Returns:
        ``(i, j, angles)``: the indices, and ``(V,)`` angles in degrees.
    """
    rows = rows.double()
    best = torch.full((len(rows),), -2.0, dtype=torch.float64)
    where = torch.zeros(len(rows), dtype=torch.long)
    starts = range(0, len(rows), BLOCK)
    pairs = [(a, b) for a in starts for b in starts if a <= b]
    for a, b in progress(pairs, "angles", quiet, unit="blocks"):
        cosines = rows[a : a + BLOCK] @ rows[b : b + BLOCK].t()
        if a == b:
            cosines.fill_diagonal_(-2.0)
        for offset, other, values in ((a, b, cosines), (b, a, cosines.t())):
            top, index = values.max(dim=1)
            part = slice(offset, offset + len(top))
            where[part] = torch.where(top > best[part], index + other, where[part])
            best[part] = torch.maximum(best[part], top)
    # near 0 the angle from a cosine is inaccurate, the one from the distance is not
    distance = (rows - rows[where]).norm(dim=1).clamp(max=2.0)
    angles = torch.rad2deg(2 * torch.asin(distance / 2))
    i = int(angles.argmin())
    return i, int(where[i]), angles


def neighbours(rows: torch.Tensor, symbols, words, count=5) -> dict:
    """Return the nearest rows of some words: ``{word: [[symbol, cosine], …]}``."""
    found = {}
    for word in words:
        index = symbols.index(word)
        cosines = rows @ rows[index]
        cosines[index] = -2.0
        top = cosines.topk(min(count, len(symbols) - 1))
        found[word] = [
            [symbols[i], round(c, 4)] for c, i in zip(top.values.tolist(), top.indices.tolist())
        ]
    return found


def frequent_words(dictionary, count=6) -> list:
    """Return frequent symbols that look like words of four letters or more, for people to judge."""
    words = []
    for symbol in dictionary.symbols[dictionary.nspecial :]:
        word = symbol.removeprefix(BAR)
        if len(word) > 3 and word.isalpha():
            words.append(symbol)
    return words[50 : 50 + count] or words[:count]  # the commonest words say little


def make_report(rows, origin, dictionary, words, *, angles=True, quiet=True) -> dict:
    """Return all numbers of the report as a dict that JSON can hold.

    Args:
        rows: unit rows ``(V, d)``, a float32 tensor.
        origin: name for each row.
        dictionary: the fairseq dictionary.
        words: whose neighbours are shown.
        angles: compare all pairs of rows; left out for very large tables.
    """
    result = {
        "rows": len(rows),
        "dim": rows.size(1),
        "origins": dict(Counter(origin)),
        "coverage": coverage(
            origin[dictionary.nspecial :], dictionary.count[dictionary.nspecial :]
        ),
        "mean_cosine": mean_cosine(rows),
        "smallest_angle_degrees": None,
        "smallest_angle_between": None,
        "median_angle_to_nearest_degrees": None,
        "neighbours": neighbours(rows, dictionary.symbols, words),
    }
    if angles and len(rows) > 1:
        i, j, all_angles = closest_pairs(rows, quiet)
        result["smallest_angle_degrees"] = all_angles[i].item()
        result["smallest_angle_between"] = [dictionary.symbols[i], dictionary.symbols[j]]
        result["median_angle_to_nearest_degrees"] = all_angles.median().item()
    return result


def render(report: dict) -> str:
    """Return the report as lines for people."""
    lines = [f"{report['rows']} rows of dimension {report['dim']}"]
    for name, count in sorted(report["origins"].items()):
        share = report["coverage"].get(name, 0.0)
        lines.append(f"  {name:<11}{count:>9} rows {100 * share:7.2f} % of the running text")
    if report["smallest_angle_degrees"] is not None:
        between = " and ".join(report["smallest_angle_between"])
        lines.append(f"smallest angle {report['smallest_angle_degrees']:.2f}° ({between})")
        median = report["median_angle_to_nearest_degrees"]
        lines.append(f"median angle to the nearest row {median:.2f}°")
    lines.append(f"mean cosine of two rows {report['mean_cosine']:.4f}")
    for word, found in report["neighbours"].items():
        lines.append(f"near {word}: " + ", ".join(f"{w} {c:.2f}" for w, c in found))
    return "\n".join(lines)
