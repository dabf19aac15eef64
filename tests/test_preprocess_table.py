"""build_table.py: rows aligned by index, repeatable, distinct, with specials that are no hubs."""

import json

import numpy as np
import pytest
import torch
from preprocess_tools import call, fails, snapshot, write_dictionary

from fairseq_contout.target_table import load_table, read_table
from preprocess import drawing, report, shaping

WORDS = {f"word{i}": 1000 // (i + 1) + 1 for i in range(70)}


@pytest.fixture
def files(tmp_path):
    """A dictionary with padding words, and vectors of its words in another order, two missing."""
    dictionary = write_dictionary(tmp_path / "dict.txt", {**WORDS, "madeupword0000": 0, "end": 3})
    rng = np.random.default_rng(7)
    common = 3 * rng.standard_normal(12)  # as real vectors: far from centred
    vectors = {w: common + rng.standard_normal(12) for w in reversed(list(WORDS))}
    del vectors["word3"], vectors["word40"]
    lines = [f"{w} {' '.join(f'{x:.6f}' for x in v)}\n" for w, v in vectors.items()]
    (tmp_path / "v.vec").write_text(f"{len(vectors)} 12\n" + "".join(lines))
    return tmp_path, dictionary, vectors


def build(folder, *options, name="table"):
    path = folder / f"{name}.safetensors"
    assert call("build_table", "--dictionary", folder / "dict.txt", "--output", path, *options) == 0
    return path


def vec_options(folder, *more):
    return ["--source", "vectors", "--vectors", folder / "v.vec", *more]


def unit(vector):
    return np.asarray(vector) / np.linalg.norm(vector)


# ---- rows ----------------------------------------------------------------------------------------


def test_rows_are_aligned_with_the_dictionary_by_index(files):
    folder, dictionary, vectors = files
    table = load_table(build(folder, *vec_options(folder)), dictionary)
    assert table.shape == (len(dictionary), 12) and table.dtype == torch.float32
    for word, vector in vectors.items():
        np.testing.assert_allclose(table[dictionary.index(word)], unit(vector), atol=1e-6)
    _, metadata = read_table(folder / "table.safetensors")
    assert json.loads(metadata["origins"]) == {"pretrained": 68, "random": 3, "special": 5}
    assert "v.vec" in metadata["source"] and str(folder) not in str(metadata)


def test_every_source_follows_the_seed_and_nothing_else(files):
    folder, dictionary, _ = files
    (folder / "text").write_text(" ".join(WORDS))
    vectors = ["--vectors", folder / "v.vec"]
    for source in (
        ["random", "--dim", 10],
        ["hypercube", "--dim", 10],
        ["vectors", *vectors],
        ["vectors", *vectors, "--mix-random", 0.5],
        ["compose", *vectors, "--text", folder / "text"],
    ):
        paths = [
            build(folder, "--source", *source, "--seed", seed, name=name)
            for seed, name in ((1, "one"), (1, "again"), (2, "other"))
        ]
        one, again, other = (load_table(path, dictionary) for path in paths)
        assert one.numpy().tobytes() == again.numpy().tobytes(), source
        assert read_table(paths[0])[1] == read_table(paths[1])[1], source
        assert not torch.equal(one, other), source


def test_a_missing_word_has_its_own_random_row_or_is_an_error(files, capsys):
    folder, dictionary, _ = files
    table = load_table(build(folder, *vec_options(folder)), dictionary)
    missing = [dictionary.index(w) for w in ("word3", "word40", "end")]
    rows = table[missing]
    assert (rows @ rows.t() - torch.eye(3)).abs().max() < 0.95
    # word i of the words without specials has row i of the stream, whatever else is missing
    words = [i for i in range(len(dictionary)) if i >= 4 and not dictionary[i].startswith("made")]
    drawn = load_table(build(folder, "--source", "random", "--dim", 12), dictionary)
    assert torch.equal(rows, drawn[missing])
    assert words.index(missing[0]) == 3
    call_ = ["--dictionary", folder / "dict.txt", "--output", folder / "x.safetensors"]
    text = fails(capsys, folder, "build_table", *call_, *vec_options(folder), "--missing", "error")
    assert "3 (word3, word40, end)" in text and "--missing random" in text


def test_zero_vectors_are_missing_words(files):
    folder, dictionary, _ = files
    with open(folder / "v.vec") as file:
        lines = file.read().replace("68 12\n", "69 12\n") + "word3" + " 0" * 12 + "\n"
    (folder / "v.vec").write_text(lines)
    path = build(folder, *vec_options(folder))
    load_table(path, dictionary)
    assert json.loads(read_table(path)[1]["origins"])["random"] == 3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mixing_follows_the_formula(files, alpha):
    folder, dictionary, _ = files
    pure = load_table(build(folder, *vec_options(folder)), dictionary)
    mixed = load_table(build(folder, *vec_options(folder), "--mix-random", alpha), dictionary)
    alone = load_table(build(folder, *vec_options(folder), "--mix-random", 0), dictionary)
    words = [i for i in range(4, len(dictionary)) if not dictionary[i].startswith("made")]
    expected = alpha * pure[words] + (1 - alpha) * alone[words]
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(mixed[words], expected, rtol=0, atol=1e-6)
    assert (pure[words] * alone[words]).sum(1).abs().mean() < 0.5  # the random rows are others


def test_centring_and_removing_components(files):
    folder, dictionary, vectors = files
    known = [dictionary.index(word) for word in vectors]
    rows = np.stack([unit(v) for v in vectors.values()])
    centred = rows - rows.mean(axis=0)
    table = load_table(build(folder, *vec_options(folder), "--center"), dictionary)
    np.testing.assert_allclose(table[known], [unit(r) for r in centred], atol=1e-5)
    _, _, directions = np.linalg.svd(centred)
    rest = centred - centred @ directions[:2].T @ directions[:2]
    table = load_table(build(folder, *vec_options(folder), "--remove-components", 2), dictionary)
    np.testing.assert_allclose(table[known], [unit(r) for r in rest], atol=1e-5)


def test_hypercube_rows_are_distinct_corners_also_when_all_are_needed(tmp_path, capsys):
    dictionary = write_dictionary(tmp_path / "dict.txt", [f"w{i}" for i in range(28)])
    options = ["--source", "hypercube", "--dim"]
    table = load_table(build(tmp_path, *options, 5), dictionary)  # 28 words + 4 specials = 2^5
    assert torch.allclose(table.abs(), torch.tensor(5**-0.5))
    assert len({tuple(row) for row in table.sign().tolist()}) == 32
    call_ = ["--dictionary", tmp_path / "dict.txt", "--output", tmp_path / "x.safetensors"]
    text = fails(capsys, tmp_path, "build_table", *call_, *options, 4)
    assert "32 symbols" in text and "2^4 = 16" in text and "--dim 5" in text
    table = load_table(build(tmp_path, *options, 300), dictionary)
    assert torch.allclose(table.abs(), torch.tensor(300**-0.5))


def test_hypercube_draws_again_what_coincides():
    corners = drawing.hypercube(30_000, 21, np.random.default_rng(0))
    assert len(np.unique(corners > 0, axis=0)) == 30_000  # about 200 pairs coincide at first


def test_random_rows_are_uniform_on_the_sphere():
    rows = drawing.sphere(20_000, 3, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    # in three dimensions every coordinate is uniform in [-1, 1] (Archimedes)
    for column in np.sort(rows, axis=0).T:
        assert np.abs(column - np.linspace(-1, 1, len(column))).max() < 0.03


# ---- specials ------------------------------------------------------------------------------------


def test_special_symbols_are_distinct_random_and_no_hubs(files):
    folder, dictionary, vectors = files
    table = load_table(build(folder, *vec_options(folder)), dictionary)
    special = [0, 1, 2, 3, dictionary.index("madeupword0000")]
    known = [dictionary.index(word) for word in vectors]
    words = table[known]
    mean = words.mean(0) / words.mean(0).norm()
    # of these vectors the mean is a hub: nearly all words have it among their ten nearest
    others = words @ words.t() - 2 * torch.eye(len(words))
    assert (words @ mean > others.topk(10).values[:, -1]).float().mean() > 0.9
    # while no word has a special symbol among its ten nearest rows
    nearest = (words @ table.t()).topk(11).indices
    assert not torch.isin(nearest, torch.tensor(special)).any()
    rows = table[special]
    assert (rows @ table.t()).fill_diagonal_(0).topk(2).values[:, 1].max() < 0.8
    assert (rows @ mean).max() < 0.2
    assert (rows @ rows.t() - torch.eye(5)).max() < 0.8
    other = load_table(build(folder, *vec_options(folder), "--seed", 2), dictionary)
    assert not torch.isclose(rows, other[special]).all(dim=1).any()


def test_vectors_of_special_names_are_not_used(files):
    folder, dictionary, _ = files
    with open(folder / "v.vec") as file:
        text = file.read().replace("68 12\n", "70 12\n")
    ones = " 1" * 12
    (folder / "v.vec").write_text(f"{text}</s>{ones}\n<unk>{' 2' * 12}\n")
    table = load_table(build(folder, *vec_options(folder)), dictionary)
    assert (table[2:4] @ torch.full((12,), 12**-0.5)).abs().max() < 0.9


def test_choosing_is_greedy_and_avoids_words_and_chosen_rows():
    words = np.array([[1.0, 0.0]], dtype=np.float32)
    angles = np.deg2rad([10, 170, 175, 90])
    candidates = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chosen = drawing.choose_far(candidates, words, 3)
    # 175° is farthest from 0°; then 90° (cosine 0.09 with it) before 170° (0.996)
    np.testing.assert_array_equal(chosen, candidates[[2, 3, 0]][:2].tolist() + [candidates[0]])


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


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_leaves_no_file(files, capsys):
    folder, _, _ = files
    (folder / "table.safetensors").write_text("the table of an earlier run")

    def message(*options, dictionary="dict.txt", output="table.safetensors"):
        arguments = ["--dictionary", folder / dictionary, "--output", folder / output]
        return fails(capsys, folder, "build_table", *arguments, *options)

    random_ = ["--source", "random", "--dim", 8]
    vectors = ["--source", "vectors", "--vectors"]
    fasttext = ["--source", "fasttext", "--vectors"]

    assert "must be at least 2, but is 1" in message("--source", "random", "--dim", 1)
    assert "needs --dim" in message("--source", "random")
    assert "invalid choice: 'glove'" in message("--source", "glove")
    assert "needs --vectors FILE" in message("--source", "vectors")
    assert "needs --text FILE" in message("--source", "compose", *vec_options(folder)[2:])
    assert "at most 1, but is 1.5" in message(*vec_options(folder), "--mix-random", 1.5)
    assert "must be a number (float), but is x" in message(
        *vec_options(folder), "--mix-random", "x"
    )
    assert "must be at least 0, but is nan" in message(*vec_options(folder), "--mix-random", "nan")
    assert "--mix-random needs vectors" in message(*random_, "--mix-random", 0.0)
    assert "--text is for --source compose" in message(*vec_options(folder), "--text", "x")
    assert "--show-words nope" in message(*random_, "--show-words", "word1", "nope")
    assert "less than the dimension (12)" in message(
        *vec_options(folder), "--remove-components", 12
    )
    assert "has 12; --dim is 8" in message(*vec_options(folder), "--dim", 8)

    assert "does not exist; create it" in message(*random_, output="no/table")
    assert "is a folder" in message(*random_, output=".")
    assert "--report" in message(*random_, "--report", folder / "no" / "r.json")

    assert "none: no such file" in message(*random_, dictionary="none")
    (folder / "empty.txt").write_text("")
    assert "must hold symbols, but is empty" in message(*random_, dictionary="empty.txt")
    (folder / "twice.txt").write_text("a 1\na 2\n")
    assert "Duplicate word" in message(*random_, dictionary="twice.txt")
    (folder / "latin.txt").write_bytes("schön 1\n".encode("latin-1"))
    assert "latin.txt" in message(*random_, dictionary="latin.txt")
    (folder / "format.txt").write_text("a\n")
    assert "symbol count" in message(*random_, dictionary="format.txt")

    assert "none.vec: cannot be opened" in message(*vectors, folder / "none.vec")
    assert "is empty" in message(*vectors, folder / "empty.txt")
    (folder / "bad.vec").write_text("word1 1 2\nword2 1 2\nword1 3 4\n")
    text = message(*vectors, folder / "bad.vec")
    assert "bad.vec, line 3" in text and "'word1'" in text and "line 1" in text
    (folder / "bad.vec").write_text("word1 1 2\nword2 nan 2\n")
    assert "bad.vec, line 2" in message(*vectors, folder / "bad.vec")
    (folder / "bad.vec").write_text("other 1 2\n")
    assert "none of the 71" in message(*vectors, folder / "bad.vec")
    (folder / "bad.vec").write_bytes("wörd 1 2\n".encode("latin-1"))
    assert "line 1: text must be UTF-8" in message(*vectors, folder / "bad.vec")

    assert "v.vec: must be a fastText model" in message(*fasttext, folder / "v.vec")
    assert "none.bin: cannot be opened" in message(*fasttext, folder / "none.bin")
    assert "must be a fastText model" in message(*fasttext, folder / "empty.txt")
    compose = ["--source", "compose", "--vectors", folder / "v.vec", "--text"]
    assert "empty.txt: must hold segmented text" in message(*compose, folder / "empty.txt")
    (folder / "text").write_text("quite other words\n")
    assert "none of the 3" in message(*compose, folder / "text")


def test_diverged_fasttext_models_are_refused(files, capsys, monkeypatch):
    folder, _, _ = files
    from preprocess import assemble, sources

    def diverged(symbols, args):
        return sources.Rows(
            np.full((len(symbols), 4), np.nan, np.float32), ["ngrams"] * len(symbols)
        )

    monkeypatch.setitem(assemble.SOURCES, "fasttext", diverged)
    arguments = ["--dictionary", folder / "dict.txt", "--output", folder / "t"]
    text = fails(
        capsys, folder, "build_table", *arguments, "--source", "fasttext", "--vectors", "m.bin"
    )
    assert "m.bin: vectors must be finite, but 71 hold NaN" in text


def test_an_error_while_writing_leaves_the_old_table(files, monkeypatch, capsys):
    folder, _, _ = files
    build(folder, "--source", "random", "--dim", 8)
    before = snapshot(folder)

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device", arguments[1])

    monkeypatch.setattr("fairseq_contout.table_file.save_file", full_disk)
    arguments = ["--dictionary", folder / "dict.txt", "--output", folder / "table.safetensors"]
    assert call("build_table", *arguments, "--source", "random", "--dim", 9) == 1
    assert "No space left" in capsys.readouterr().err
    assert snapshot(folder) == before
