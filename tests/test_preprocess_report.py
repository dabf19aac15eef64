"""build_table.py: rows that repeat others are told apart; the report's numbers."""

import json

import numpy as np
import pytest
import torch
from preprocess_tools import (
    WORDS,
    build,
    fails,
    make_files,
    unit,
    vec_options,
    write_dictionary,
)

from fairseq_contout.target_table import load_table, read_table
from preprocess import drawing, report, shaping


@pytest.fixture
def files(tmp_path):
    return make_files(tmp_path)


# ---- duplicates ----------------------------------------------------------------------------------


def test_words_that_share_a_vector_get_rows_of_their_own(files, capsys):
    folder, dictionary, vectors = files
    with open(folder / "v.vec") as file:
        lines = {line.split()[0]: line for line in file.read().splitlines()[1:]}
    first, second, scaled = "word5", "word6", "word7"
    numbers = lines[first].split()[1:]
    lines[second] = " ".join([second, *numbers])
    lines[scaled] = " ".join([scaled, *(str(3 * float(x)) for x in numbers)])  # the same direction
    (folder / "v.vec").write_text("".join(f"{line}\n" for line in lines.values()))
    path = build(folder, *vec_options(folder))
    table = load_table(path, dictionary)
    a, b, c = (table[dictionary.index(w)] for w in (first, second, scaled))
    np.testing.assert_allclose(a, unit(vectors[first]), atol=1e-6)  # the first is untouched
    for one, two in ((a, b), (a, c), (b, c)):
        angle = 2 * torch.asin((one - two).norm() / 2)
        assert 0.01 < angle < 0.1
    assert json.loads(read_table(path)[1]["origins"])["perturbed"] == 2
    assert torch.equal(table, load_table(build(folder, *vec_options(folder)), dictionary))
    call_ = ["--dictionary", folder / "dict.txt", "--output", folder / "x.safetensors"]
    text = fails(
        capsys, folder, "build_table", *call_, *vec_options(folder), "--duplicates", "error"
    )
    assert "2 repeat others (word6, word7)" in text


def test_duplicates_are_found_as_by_brute_force():
    rng = np.random.default_rng(0)
    rows = drawing.sphere(600, 5, rng)
    rows[rng.integers(0, 600, 80)] = rows[rng.integers(0, 600, 80)]
    rows = drawing.unit(rows + rng.uniform(-1e-6, 1e-6, rows.shape).astype(np.float32))
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    expected = [i for i in range(600) if (distance[i, :i] < shaping.SAME).any()]
    assert len(expected) > 30
    assert shaping.find_duplicates(rows).tolist() == expected
    apart, turned = shaping.turn_apart(rows, seed=1)
    assert turned == expected and not len(shaping.find_duplicates(apart))


def test_too_many_rows_for_the_dimension_is_an_error(monkeypatch):
    monkeypatch.setattr(shaping, "SAME", 0.05)  # a circle has room for 126 rows at this distance
    with pytest.raises(ValueError, match="larger dimension"):
        shaping.turn_apart(drawing.sphere(300, 2, np.random.default_rng(0)), seed=1)


# ---- report --------------------------------------------------------------------------------------


def test_report_against_brute_force(files, capsys, monkeypatch):
    monkeypatch.setattr(report, "BLOCK", 13)  # several blocks, the last one smaller
    folder, dictionary, _ = files
    options = ["--report", folder / "r.json", "--show-words", "word9", "word3"]
    table = load_table(build(folder, *vec_options(folder), *options), dictionary).double()
    result = json.loads((folder / "r.json").read_text())
    count = len(dictionary)

    cosines = table @ table.t()
    pairs = cosines[~torch.eye(count, dtype=bool)]
    assert result["mean_cosine"] == pytest.approx(pairs.mean().item(), abs=1e-6)
    cosines.fill_diagonal_(-2)
    nearest = torch.rad2deg(torch.acos(cosines.max(1).values))
    assert result["smallest_angle_degrees"] == pytest.approx(nearest.min().item(), abs=1e-4)
    assert result["median_angle_to_nearest_degrees"] == pytest.approx(
        nearest.median().item(), abs=1e-4
    )
    i, j = divmod(int(cosines.argmax()), count)
    assert set(result["smallest_angle_between"]) == {dictionary[i], dictionary[j]}

    assert result["origins"] == {"pretrained": 68, "random": 3, "special": 5}
    missing = WORDS["word3"] + WORDS["word40"] + 3
    total = sum(WORDS.values()) + 3
    assert result["coverage"]["random"] == pytest.approx(missing / total)
    assert result["coverage"]["pretrained"] == pytest.approx(1 - missing / total)
    assert result["random_words"] == ["word3", "word40", "end"]

    for word in ("word9", "word3"):
        expected = cosines[dictionary.index(word)].topk(5)
        assert [w for w, _ in result["neighbours"][word]] == [
            dictionary[k] for k in expected.indices
        ]
        for (_, found), value in zip(result["neighbours"][word], expected.values):
            assert found == pytest.approx(value.item(), abs=1e-4)

    printed = capsys.readouterr().out
    for part in (f"{count} rows", "68 rows", "smallest angle", "mean cosine", "near word9: "):
        assert part in printed


def test_small_angles_are_measured_accurately():
    rows = torch.tensor(
        [[1.0, 0, 0], [0, 1, 0], [np.cos(1e-5), 0, np.sin(1e-5)]], dtype=torch.float64
    )
    i, j, angles = report.closest_pairs(rows)
    assert {i, j} == {0, 2}
    assert angles[0].item() == pytest.approx(np.rad2deg(1e-5), rel=1e-6)


def test_report_without_comparing_all_pairs(files):
    folder, _, _ = files
    build(folder, *vec_options(folder), "--no-angles", "--report", folder / "r.json")
    result = json.loads((folder / "r.json").read_text())
    assert result["smallest_angle_degrees"] is None and result["mean_cosine"] > 0.5
    assert len(result["neighbours"]) == 0  # "word12" is no word of letters alone


def test_frequent_words_are_shown_by_default(tmp_path):
    names = ["the", "dogs@@", ",", "horse", "walks", "\u2581cats", "\u2581of"]
    dictionary = write_dictionary(tmp_path / "dict.txt", names)
    assert report.frequent_words(dictionary) == ["horse", "walks", "\u2581cats"]


def test_rows_that_are_drawn_are_compared_with_all(files, capsys, monkeypatch):
    monkeypatch.setattr(report, "BLOCK", 13)
    folder, dictionary, _ = files
    options = ["--report", folder / "r.json", "--angle-rows", 20, "--seed", 3]
    table = load_table(build(folder, *vec_options(folder), *options), dictionary).double()
    result = json.loads((folder / "r.json").read_text())
    drawn = report.drawn_rows(len(dictionary), 20, 3)
    assert len(drawn.unique()) == 20 and not drawn.equal(torch.arange(20))
    cosines = table @ table.t()
    cosines.fill_diagonal_(-2)
    nearest = torch.rad2deg(torch.acos(cosines.max(1).values[drawn]))
    assert result["smallest_angle_degrees"] == pytest.approx(nearest.min().item(), abs=1e-4)
    assert result["median_angle_to_nearest_degrees"] == pytest.approx(
        nearest.median().item(), abs=1e-4
    )
    i = int(drawn[nearest.argmin()])
    pair = [dictionary[i], dictionary[int(cosines[i].argmax())]]
    assert result["smallest_angle_between"] == pair and result["angle_rows"] == 20
    assert "of 20 rows drawn" in capsys.readouterr().out
    assert report.drawn_rows(20, 20, 3) is None
