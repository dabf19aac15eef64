"""Random rows: on the sphere, on the hypercube, and those of special symbols.

Every purpose has its own stream of numbers, and row i of a stream belongs to symbol i: what one
option draws does not shift what another one gets.
"""

import numpy as np

#: Streams under one seed.
ROWS, MIX, SPECIALS, PERTURBATION = range(4)
#: Candidates from which the rows of special symbols are chosen.
SPECIAL_CANDIDATES = 256


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return the generator of one stream."""
    return np.random.default_rng([seed, stream])


def unit(rows: np.ndarray) -> np.ndarray:
    """Divide rows ``(n, d)`` by their norms, taken in float64 so that nothing overflows."""
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return (rows / norms[:, None]).astype(np.float32)


def sphere(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(count, dim)`` rows, uniform on the unit sphere: normalised Gaussian vectors."""
    return unit(rng.standard_normal((count, dim), dtype=np.float32))


def check_corners(count: int, dim: int):
    """Check that ``count`` symbols can have corners of their own.

    Raises:
        ValueError: 2^d < count.
    """
    if 2**dim < count:
        raise ValueError(
            f"--dim {dim}: a hypercube must have a corner for each of the {count} symbols, but has "
            f"2^{dim} = {2**dim}; give --dim {(count - 1).bit_length()} or more"
        )


def hypercube(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(count, dim)`` distinct corners of the hypercube: entries ±1/√d.

    Source: Tokarchuk & Niculae, *The Unreasonable Effectiveness of Random Target Embeddings for
    Continuous-Output Neural Machine Translation*, NAACL 2024, https://arxiv.org/abs/2310.20620.

    Raises:
        ValueError: there are fewer than ``count`` corners.
    """
    check_corners(count, dim)
    if dim <= 20:  # few corners: choose without replacement
        numbers = rng.choice(2**dim, size=count, replace=False)
        bits = (numbers[:, None] >> np.arange(dim)) & 1
    else:  # many corners: draw again the few that coincide
        bits = rng.integers(0, 2, (count, dim), dtype=np.uint8)
        while len(again := _repeated(bits)):
            bits[again] = rng.integers(0, 2, (len(again), dim), dtype=np.uint8)
    return ((2.0 * bits - 1) / np.sqrt(dim)).astype(np.float32)


def _repeated(bits: np.ndarray) -> np.ndarray:
    packed = np.packbits(bits, axis=1)
    _, first = np.unique(packed, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(bits)), first)


def choose_far(candidates: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
    """Choose special symbols' rows: those candidates least close to any word or to one another.

    A mean, or the vector that fastText learns for line ends, is close to very many words: a hub
    that attracts predictions. A random direction is not, and the farthest of many is least so.

    Args:
        candidates: unit rows ``(c, d)``, c ≥ count.
        words: unit rows ``(n, d)``.
        count: number of rows to choose.

    Returns:
        ``(count, d)``: greedily, each the candidate whose largest cosine with the words and with
        the rows chosen before is the least.
    """
    closest = np.full(len(candidates), -1.0)
    for start in range(0, len(words), 8192):
        cosines = candidates @ words[start : start + 8192].T
        closest = np.maximum(closest, cosines.max(axis=1))
    chosen = []
    for _ in range(count):
        best = int(closest.argmin())
        chosen.append(best)
        closest = np.maximum(closest, candidates @ candidates[best])
        closest[best] = np.inf
    return candidates[chosen]
