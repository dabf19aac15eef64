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


def closest_pairs(rows: torch.Tensor, quiet=True, queries=None):
    """Find the nearest row of every row, or of some, and the two rows at the smallest angle.

    Exact, in float64, in blocks of :data:`BLOCK` rows: O(Q V d) time, no (Q, V) matrix.

    Args:
        rows: unit rows ``(V, d)``.
        quiet: without a progress bar.
        queries: whose nearest rows are looked for, ``(Q,)``; None: all.

    Returns:
        ``(i, j, angles)``: the indices, and ``(Q,)`` angles in degrees.
    """
    queries = torch.arange(len(rows)) if queries is None else queries
    best = torch.full((len(queries),), -2.0, dtype=torch.float64)
    where = torch.zeros(len(queries), dtype=torch.long)
    starts = range(0, len(queries), BLOCK)
    pairs = [(a, b) for a in starts for b in range(0, len(rows), BLOCK)]
    for a, b in progress(pairs, "angles", quiet, unit="blocks"):
        part = slice(a, a + BLOCK)
        cosines = rows[queries[part]].double() @ rows[b : b + BLOCK].double().t()
        own = queries[part] - b  # a row is not its own neighbour
        here = ((own >= 0) & (own < cosines.size(1))).nonzero().squeeze(1)
        cosines[here, own[here]] = -2.0
        top, index = cosines.max(dim=1)
        where[part] = torch.where(top > best[part], index + b, where[part])
        best[part] = torch.maximum(best[part], top)
    # near 0 the angle from a cosine is inaccurate, the one from the distance is not
    distance = (rows[queries].double() - rows[where].double()).norm(dim=1).clamp(max=2.0)
    angles = torch.rad2deg(2 * torch.asin(distance / 2))
    i = int(angles.argmin())
    return int(queries[i]), int(where[i]), angles


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


def drawn_rows(rows: int, number: int, seed: int):
    """Return which rows' angles are measured: ``(number,)`` drawn ones, None for all of them."""
    if number >= rows:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(rows, generator=generator)[:number].sort().values


def make_report(rows, origin, dictionary, words, *, angles=None, seed=1, quiet=True) -> dict:
    """Return all numbers of the report as a dict that JSON can hold.

    Args:
        rows: unit rows ``(V, d)``, a float32 tensor.
        origin: name for each row.
        dictionary: the fairseq dictionary.
        words: whose neighbours are shown.
        angles: rows whose nearest row is looked for, drawn where there are more; 0 looks for none,
            None for those of all.
        seed: of the draw.
        quiet: without a progress bar.
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
        "angle_rows": 0,
        "neighbours": neighbours(rows, dictionary.symbols, words),
    }
    if angles != 0 and len(rows) > 1:
        queries = None if angles is None else drawn_rows(len(rows), angles, seed)
        i, j, measured = closest_pairs(rows, quiet, queries)
        result["smallest_angle_degrees"] = measured.min().item()
        result["smallest_angle_between"] = [dictionary.symbols[i], dictionary.symbols[j]]
        result["median_angle_to_nearest_degrees"] = measured.median().item()
        result["angle_rows"] = len(measured)
    return result


def render(report: dict) -> str:
    """Return the report as lines for people."""
    lines = [f"{report['rows']} rows of dimension {report['dim']}"]
    for name, count in sorted(report["origins"].items()):
        share = report["coverage"].get(name, 0.0)
        lines.append(f"  {name:<11}{count:>9} rows {100 * share:7.2f} % of the running text")
    if report["smallest_angle_degrees"] is not None:
        between = " and ".join(report["smallest_angle_between"])
        some = f", of {report['angle_rows']} rows drawn"
        drawn = some if report["angle_rows"] < report["rows"] else ""
        lines.append(f"smallest angle {report['smallest_angle_degrees']:.2f}° ({between}){drawn}")
        median = report["median_angle_to_nearest_degrees"]
        lines.append(f"median angle to the nearest row {median:.2f}°{drawn}")
    lines.append(f"mean cosine of two rows {report['mean_cosine']:.4f}")
    for word, found in report["neighbours"].items():
        lines.append(f"near {word}: " + ", ".join(f"{w} {c:.2f}" for w, c in found))
    return "\n".join(lines)
