"""Formulas of maps between spaces: orthogonality, optimality, CSLS, neighbours, precision."""

import sys
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from scipy.linalg import expm, polar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from preprocess import alignment  # noqa: E402
from preprocess.word_translation import Space, precision  # noqa: E402


def unit_rows(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)


def rotation(dim, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]


def noisy(x, size, seed=2):
    """Return rows that are turned away from those of x, by a noise of this length."""
    return torch.nn.functional.normalize(x + size * unit_rows(*x.shape, seed), dim=1)


@pytest.mark.parametrize("pairs", [1, 5, 12, 200])
def test_the_map_is_orthogonal_with_any_number_of_pairs(pairs):
    found = alignment.procrustes(unit_rows(pairs, 12), unit_rows(pairs, 12, 5))
    eye = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found @ found.t(), eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.t() @ found, eye, atol=1e-12, rtol=0)


def test_a_rotation_is_found_again():
    x, turned = unit_rows(60, 16), rotation(16)
    y = alignment.rotate(x, turned)
    torch.testing.assert_close(alignment.procrustes(x, y), turned, atol=1e-6, rtol=0)
    torch.testing.assert_close((y @ y.t()), (x @ x.t()), atol=1e-6, rtol=0)
    distance = []
    for size in (0.1, 0.5):
        found = alignment.procrustes(x, noisy(y, size))
        distance.append(float((found - turned).norm()))
    assert 1e-3 < distance[0] < distance[1] < 1  # two random rotations are sqrt(2 · 16) apart
    assert distance[0] < 0.3


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_rows_are_pulled_to_their_partners(weight):
    x, y = unit_rows(5, 6), unit_rows(7, 6, 3)
    pairs = torch.tensor([[1, 4], [3, 0], [1, 2], [4, 2]])
    found = alignment.pull(x, y, pairs, weight)
    for i, partners in enumerate(([], [4, 2], [], [0], [2])):
        expected = x[i]
        if partners:
            middle = sum(y[j] for j in partners)
            expected = (1 - weight) * x[i] + weight * middle / middle.norm()
        torch.testing.assert_close(found[i], expected / expected.norm())


def test_no_other_rotation_brings_pairs_nearer():
    x, y = unit_rows(40, 8), unit_rows(40, 8, 3)
    found = alignment.procrustes(x, y)

    def residual(mapping):
        return float((x.double() @ mapping - y.double()).square().sum())

    # another way to it: the orthogonal factor of the polar decomposition
    other = torch.from_numpy(polar((x.double().t() @ y.double()).numpy())[0])
    torch.testing.assert_close(found, other, atol=1e-10, rtol=0)
    generator = torch.Generator().manual_seed(4)
    for size in (1e-3, 1e-2, 0.1, 1):
        for _ in range(20):
            skew = torch.randn(8, 8, generator=generator, dtype=torch.float64) * size
            turned = found @ torch.from_numpy(expm((skew - skew.t()).numpy()))
            assert residual(turned) > residual(found)
    assert residual(-found) > residual(found)


def brute_csls(x, y, count):
    cosine = [[float(a @ b) for b in y] for a in x]
    near_x = [sum(sorted(row, reverse=True)[:count]) / count for row in cosine]
    columns = list(zip(*cosine))
    near_y = [sum(sorted(column, reverse=True)[:count]) / count for column in columns]
    return torch.tensor(
        [[2 * c - near_x[i] - near_y[j] for j, c in enumerate(row)] for i, row in enumerate(cosine)]
    )


def test_csls_is_what_its_definition_says(monkeypatch):
    monkeypatch.setattr(alignment, "BLOCK", 7)
    x, y = unit_rows(23, 5), unit_rows(31, 5, 6)
    near = alignment.neighbourhood(x, y, 4), alignment.neighbourhood(y, x, 4)
    expected = brute_csls(x, y, 4)
    torch.testing.assert_close(alignment.csls(x, y, *near), expected, atol=1e-5, rtol=0)
    order = expected.argsort(dim=1, descending=True)
    assert torch.equal(alignment.nearest(x, y, 3, near), order[:, :3])
    cosines = (x @ y.t()).argsort(dim=1, descending=True)
    assert torch.equal(alignment.nearest(x, y, 40), cosines)
    assert not torch.equal(order[:, 0], cosines[:, 0])
    # mutual: each the best of its row and of its column
    best, back = expected.argmax(dim=1), expected.argmax(dim=0)
    mutual = [[i, int(j)] for i, j in enumerate(best) if int(back[j]) == i]
    assert 1 < len(mutual) < 23
    assert alignment.mutual_neighbours(x, y, 4).tolist() == mutual
    # fewer rows than neighbours
    torch.testing.assert_close(alignment.neighbourhood(x, y[:2], 10), (x @ y[:2].t()).mean(dim=1))


def test_precision_counts_a_row_once_for_any_of_its_translations():
    found = torch.tensor([[4, 1, 2], [0, 3, 1], [2, 0, 4]])
    right = [{1, 2}, {0}, {3}]
    for k, expected in ((1, 100 / 3), (2, 200 / 3), (3, 200 / 3)):
        assert alignment.precision_at_k(found, right, k) == pytest.approx(expected)


def test_the_most_frequent_words_are_those_of_the_largest_counts():
    dictionary = Dictionary()
    for word, count in {"a": 3, "b": 9, "c": 5, "d": 5}.items():
        dictionary.add_symbol(word, count)
    space = Space.of(dictionary, [4, 5, 6, 7], torch.eye(4))
    assert space.index == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert space.frequent(3).argmax(dim=1).tolist() == [1, 2, 3]
    assert len(space.frequent(9)) == 4


def test_precision_in_both_directions_is_what_its_definition_says():
    rows = unit_rows(90, 4), unit_rows(50, 4, 8)
    spaces = [
        Space({f"{side}{i}": i for i in range(len(part))}, part, [1] * len(part))
        for side, part in zip("no", rows)
    ]
    pairs = [(f"n{i}", f"o{j}") for i in range(0, 90, 3) for j in (i // 2, i // 3)]
    found = precision(*spaces, pairs, 4)
    cosines, scores = rows[0] @ rows[1].t(), brute_csls(*rows, 4)
    for name, matrix in (("cosine", cosines), ("csls", scores)):
        for direction, square, side in (("new_to_old", matrix, 0), ("old_to_new", matrix.t(), 1)):
            right = {}
            for pair in pairs:
                right.setdefault(int(pair[side][1:]), set()).add(int(pair[1 - side][1:]))
            for k in (1, 5, 10):
                best = {i: set(square[i].argsort(descending=True)[:k].tolist()) for i in right}
                share = 100 * sum(bool(best[i] & right[i]) for i in right) / len(right)
                assert found[direction][name][str(k)] == pytest.approx(share, abs=0.006)
    assert found["new_to_old"]["cosine"] != found["new_to_old"]["csls"]
    assert found["old_to_new"]["cosine"] != found["old_to_new"]["csls"]


def test_refinement_finds_what_a_small_noisy_seed_does_not():
    x = unit_rows(500, 40)
    y = noisy(alignment.rotate(x, rotation(40)), 0.5)
    mapping = alignment.procrustes(x[:20], y[:20])
    asked, right = torch.arange(20, 500), [{i} for i in range(20, 500)]

    def share():
        mapped = alignment.rotate(x, mapping)
        return alignment.precision_at_k(alignment.nearest(mapped[asked], y), right, 1)

    before, sizes = share(), []
    for _ in range(5):
        mapping, pairs = alignment.refine(x, y, mapping)
        sizes.append(len(pairs))
    assert before < 50 and share() > 95
    assert sizes[0] < 400 < sizes[-1] <= 500
