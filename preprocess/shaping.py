"""What is done to the rows of words: filling, centring, mixing, telling duplicates apart.

All functions take and return rows ``(n, d)`` as float32 arrays; unit rows where they say so.
"""

import numpy as np

from preprocess import drawing

#: Rows nearer than this (distance of unit rows) are taken for the same row: float32 products
#: cannot rank them reliably.
SAME = 1e-4
#: Angle, in radians, by which a duplicate is turned: above the rounding of bfloat16 (about 1e-3)
#: and far below the angles between different words.
TURN = 0.05


def find_components(rows: np.ndarray, count: int):
    """Return the mean ``(d,)`` of unit rows and their ``count`` main directions ``(d, count)``.

    Raises:
        ValueError: ``count`` ≥ d.
    """
    if count >= rows.shape[1]:
        raise ValueError(
            f"--remove-components must be less than the dimension ({rows.shape[1]}), but is "
            f"{count}; the paper takes dimension / 100"
        )
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not count:
        return mean, np.zeros((rows.shape[1], 0), dtype=np.float32)
    centred = rows - mean
    covariance = centred.T.astype(np.float64) @ centred
    return mean, np.linalg.eigh(covariance)[1][:, -count:].astype(np.float32)


def remove_components(rows: np.ndarray, mean: np.ndarray, main: np.ndarray) -> np.ndarray:
    """Subtract from unit rows a mean and then the part along some directions; unit rows again.

    x ← x - μ;  x ← x - Σ_k (x · u_k) u_k, where u_k are the first principal components.

    Source: Mu & Viswanath, *All-but-the-Top: Simple and Effective Postprocessing for Word
    Representations*, ICLR 2018, https://arxiv.org/abs/1702.01417.

    Raises:
        ValueError: a row lies within what is removed.
    """
    centred = rows - mean
    if main.shape[1]:
        centred = centred - (centred @ main) @ main.T
    norms = np.linalg.norm(centred, axis=1)
    if (norms < 1e-6).any():
        raise ValueError(
            f"--center and --remove-components leave nothing of {int((norms < 1e-6).sum())} rows; "
            "remove less, or use more words"
        )
    return drawing.unit(centred)


def mix(rows: np.ndarray, alpha: float, seed: int, skip: int = 0) -> np.ndarray:
    """Mix unit rows with random ones: normalize(α e + (1 - α) r), r uniform on the sphere.

    Args:
        rows: ``(n, d)``.
        alpha: α.
        seed: of the random rows.
        skip: how many of them other words have: row i is mixed with number skip + i.

    Source: Tokarchuk & Niculae, *The Unreasonable Effectiveness of Random Target Embeddings for
    Continuous-Output Neural Machine Translation*, NAACL 2024, https://arxiv.org/abs/2310.20620.
    """
    rng = drawing.generator(seed, drawing.MIX)
    drawn = drawing.sphere(skip + len(rows), rows.shape[1], rng)[skip:]
    return drawing.unit(alpha * rows + (1 - alpha) * drawn)


def find_duplicates(rows: np.ndarray) -> np.ndarray:
    """Return the indices of unit rows that repeat an earlier one (distance below :data:`SAME`).

    Rows that are near one another have near projections on any direction, so only rows that stand
    close together in the order of a random projection are compared: O(n log n) where few are.
    """
    directions = np.random.default_rng(0).standard_normal((rows.shape[1], 8))
    directions /= np.linalg.norm(directions, axis=0)
    projected = rows @ directions.astype(np.float32)
    order = np.argsort(projected[:, 0], kind="stable")
    sketch = projected[order]
    repeated, bound = set(), 2 * SAME
    for shift in range(1, len(rows)):
        near = np.flatnonzero(sketch[shift:, 0] - sketch[:-shift, 0] <= bound)
        if not len(near):
            break
        near = near[(np.abs(sketch[near + shift] - sketch[near]) <= bound).all(axis=1)]
        first, second = order[near], order[near + shift]
        same = np.linalg.norm(rows[first] - rows[second], axis=1) < SAME
        repeated.update(np.maximum(first, second)[same].tolist())
    return np.array(sorted(repeated), dtype=np.int64)


def turn_apart(rows: np.ndarray, seed: int):
    """Turn every row that repeats an earlier one by at most :data:`TURN` in a random direction.

    The nearest row of a prediction must be one word. Returns the new rows and the turned indices.

    Raises:
        ValueError: there is no room for so many rows in so few dimensions.
    """
    rng = drawing.generator(seed, drawing.PERTURBATION)
    rows, turned = rows.copy(), set()
    for _ in range(20):
        again = find_duplicates(rows)
        if not len(again):
            return rows, sorted(turned)
        turned.update(again.tolist())
        away = rng.standard_normal((len(again), rows.shape[1]))
        away -= (away * rows[again]).sum(axis=1, keepdims=True) * rows[again]
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        angle = rng.uniform(TURN / 2, TURN, (len(again), 1))
        rows[again] = drawing.unit(np.cos(angle) * rows[again] + np.sin(angle) * away)
    raise ValueError(
        f"--dim {rows.shape[1]}: all rows must differ, but {len(again)} still repeat others; there "
        "is no room for them, give a larger dimension"
    )
