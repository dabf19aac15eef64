"""build_table.py: rows aligned by index, repeatable, distinct, with specials that are no hubs."""

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
from preprocess import drawing


@pytest.fixture
def files(tmp_path):
    return make_files(tmp_path)


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


def test_a_zero_vector_is_refused_where_it_is_wanted(files, capsys):
    folder, _, _ = files
    text = (folder / "v.vec").read_text().replace("68 12\n", "69 12\n")
    (folder / "v.vec").write_text(text + "nobody" + " 0" * 12 + "\n")
    build(folder, *vec_options(folder))
    (folder / "v.vec").write_text(text + "word3" + " 0" * 12 + "\n")
    call_ = ["--dictionary", folder / "dict.txt", "--output", folder / "x.safetensors"]
    message = fails(capsys, folder, "build_table", *call_, *vec_options(folder))
    expected = "v.vec, line 70: the vector of 'word3' must be finite numbers, but: all are 0"
    assert expected in message and "delete or mend the line" in message


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
