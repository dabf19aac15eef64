"""From one space of vectors to another by a seed of pairs: formulas alone, tensors in, tensors out.

Rows are unit vectors ``(n, d)``, float32: x of the new words, y of a table's words.
"""

import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

#: Rows whose scores with all others are held at once.
BLOCK = 1024
#: Neighbours that make a word's neighbourhood, as in the paper of CSLS.
NEIGHBOURS = 10


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """Return the orthogonal map from rows to their partners: W ``(d, d)``, in float64.

    W = argmin ‖x W - y‖_F over W Wᵀ = I; W = U Vᵀ where U Σ Vᵀ = xᵀ y. Lengths and angles stay as
    they are. Fewer pairs than dimensions leave W free where they do not reach.

    Source: Xing et al., *Normalized Word Embedding and Orthogonal Transform for Bilingual Word
    Translation*, NAACL 2015, https://aclanthology.org/N15-1104; after Peter Schönemann 1966.

    Args:
        x: ``(n, d)``.
        y: row i is the partner of row i of x, ``(n, d)``.
    """
    return torch.from_numpy(orthogonal_procrustes(x.double().numpy(), y.double().numpy())[0])


def neighbourhood(x: Tensor, y: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Return the mean cosine of each row of x with its nearest rows of y: ``(n,)``.

    r(x) = 1/K Σ cos(x, y) over the K nearest y; of a hub it is large. O(n m d) time.
    """
    count = min(count, len(y))
    return torch.cat([(part @ y.t()).topk(count).values.mean(dim=1) for part in x.split(BLOCK)])


def csls(x: Tensor, y: Tensor, near_x: Tensor, near_y: Tensor) -> Tensor:
    """Return how near rows are for how near they are to anything, ``(n, m)``.

    CSLS(x, y) = 2 cos(x, y) - r(x) - r(y).

    Source: Conneau et al., *Word Translation Without Parallel Data*, ICLR 2018,
    https://arxiv.org/abs/1710.04087

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        near_x: r of x among all y, :func:`neighbourhood`, ``(n,)``.
        near_y: r of y among all x, ``(m,)``.
    """
    return 2 * x @ y.t() - near_x.unsqueeze(1) - near_y


def nearest(x: Tensor, y: Tensor, count: int = 1, near=None) -> Tensor:
    """Return for each row of x the rows of y with the largest scores: ``(n, count)``, best first.

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        count: how many; m where that is less.
        near: neighbourhoods of x and y, for CSLS; None compares cosines.
    """
    found = []
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        if near is None:
            scores = part @ y.t()
        else:
            scores = csls(part, y, near[0][start : start + BLOCK], near[1])
        found.append(scores.topk(min(count, len(y))).indices)
    return torch.cat(found)


def mutual_neighbours(x: Tensor, y: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Return the pairs that are each other's nearest under CSLS: indices ``(p, 2)`` of x and y."""
    near_x, near_y = neighbourhood(x, y, count), neighbourhood(y, x, count)
    forward = nearest(x, y, 1, (near_x, near_y)).squeeze(1)
    back = nearest(y, x, 1, (near_y, near_x)).squeeze(1)
    own = torch.arange(len(x))
    mutual = back[forward] == own
    return torch.stack((own[mutual], forward[mutual]), dim=1)


def refine(x: Tensor, y: Tensor, mapping: Tensor, count: int = NEIGHBOURS):
    """Return the map that the mutual neighbours of mapped rows ask for, and those pairs.

    Source: the refinement of Conneau et al. 2018; after Artetxe, Labaka & Agirre, *Learning
    bilingual word embeddings with (almost) no bilingual data*, ACL 2017,
    https://aclanthology.org/P17-1042
    """
    pairs = mutual_neighbours(rotate(x, mapping), y, count)
    return procrustes(x[pairs[:, 0]], y[pairs[:, 1]]), pairs


def rotate(x: Tensor, mapping: Tensor) -> Tensor:
    """Return mapped rows, x W, of norm 1 also after rounding: ``(n, d)`` float32."""
    return torch.nn.functional.normalize(x.double() @ mapping, dim=1).float()


def pull(x: Tensor, y: Tensor, pairs: Tensor, weight: float) -> Tensor:
    """Return rows of which those with partners are pulled towards them: ``(n, d)``, of norm 1.

    x'_i = normalize((1 - a) x_i + a normalize(Σ_j y_j)) over the partners j of i; the others stay.
    A word that the lexicon knows is then where its translations are, whatever its own text says.

    Source: after Faruqui et al., *Retrofitting Word Vectors to Semantic Lexicons*, NAACL 2015,
    https://aclanthology.org/N15-1184

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        pairs: indices of x and y, ``(p, 2)``.
        weight: a, 0 ≤ a ≤ 1.
    """
    partners = torch.zeros_like(x).index_add_(0, pairs[:, 0], y[pairs[:, 1]].to(x.dtype))
    pulled = (1 - weight) * x + weight * torch.nn.functional.normalize(partners, dim=1)
    own = pairs[:, 0].unique()
    result = x.clone()
    result[own] = torch.nn.functional.normalize(pulled[own], dim=1)
    return result


def precision_at_k(found: Tensor, right, k: int) -> float:
    """Return the share of rows that have a right index among their first k, in per cent.

    Args:
        found: indices ``(n, K)``, best first, K ≥ k unless there are fewer to find.
        right: for each row the set of indices that are right, at least one.
        k: how many count.
    """
    hits = sum(not own.isdisjoint(row) for row, own in zip(found[:, :k].tolist(), right))
    return 100 * hits / len(right)
