"""Index files: kept, found again, never used for other rows; and what is said of them."""

import builtins
import logging
import os
import sys

import faiss
import pytest
import torch
from searching import FOUND, WHOLE, large_table

from fairseq_contout import faiss_index
from fairseq_contout.scores import make_query
from fairseq_contout.search_options import SearchOptions, make_searcher

INDICES = ["hnsw", "ivf", "ivfpq"]


def search(table, hidden, name, folder, **more):
    options = SearchOptions(**{**WHOLE[name], "knn_cache": str(folder), **more})
    return make_searcher(options, table).search(make_query(hidden, "cosine", 3.0), FOUND)


@pytest.fixture
def built(monkeypatch):
    """Count the indices that are built."""
    made, build = [], faiss_index.build_index

    def count(faiss, shape, *arguments):
        made.append(shape.kind)
        return build(faiss, shape, *arguments)

    monkeypatch.setattr(faiss_index, "build_index", count)
    return made


@pytest.mark.parametrize("name", INDICES)
def test_an_index_is_built_once(name, tmp_path, built, caplog):
    caplog.set_level(logging.INFO)
    table, hidden = large_table()
    first = search(table, hidden, name, tmp_path)
    assert built == [name] and "recall@1 1.0000, recall@10 1.0000" in caplog.text
    (path,) = tmp_path.iterdir()  # and no temporary file
    assert path.name.startswith(f"{name}-") and path.suffix == ".index"
    content = path.read_bytes()
    caplog.clear()
    again = search(table, hidden, name, tmp_path)
    assert built == [name] and f"{path}: {name} index of 270 rows read" in caplog.text
    assert "recall" not in caplog.text
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == content


@pytest.mark.parametrize(
    "name, shapes, searches",
    [
        ("hnsw", [{"hnsw_links": 9}, {"hnsw_ef_construction": 9}], [{"hnsw_ef": 50}]),
        ("ivf", [{"ivf_lists": 10}], [{"ivf_probes": 2}, {"normalizer_sample": 60}]),
        ("ivfpq", [{"pq_bytes": 2}], [{"ivf_probes": 2}]),
    ],
)
def test_what_shapes_an_index_is_in_its_name(name, shapes, searches, tmp_path, built):
    table, hidden = large_table()
    search(table, hidden, name, tmp_path)
    for options in searches:
        search(table, hidden, name, tmp_path, **options)
    assert len(built) == 1
    for options in shapes:
        search(table, hidden, name, tmp_path, **options)
    with torch.no_grad():
        table.weight[40] = -table.weight[40]
    search(table, hidden, name, tmp_path)
    assert len(built) == len(set(tmp_path.iterdir())) == 2 + len(shapes)


def test_an_index_of_other_rows_is_built_again_and_the_log_says_so(tmp_path, built, caplog):
    table, hidden = large_table()
    expected = search(table, hidden, "ivf", tmp_path)
    (path,) = tmp_path.iterdir()
    with torch.no_grad():
        table.weight.copy_(table.weight.flip(0))
    search(table, hidden, "ivf", tmp_path)
    (other,) = set(tmp_path.iterdir()) - {path}
    content = path.read_bytes()
    other.replace(path)  # a file that says what it is not
    with torch.no_grad():
        table.weight.copy_(table.weight.flip(0))
    found = search(table, hidden, "ivf", tmp_path)
    assert "index of other rows or parameters" in caplog.text and "built again" in caplog.text
    assert len(built) == 3 and path.read_bytes() == content
    assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("spoil", ["truncated", "bit", "header", "empty", "text", "foreign"])
def test_a_damaged_file_is_refused(spoil, tmp_path):
    table, hidden = large_table()
    search(table, hidden, "hnsw", tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if spoil == "truncated":
        content = content[:-20]
    elif spoil == "bit":
        content[len(content) // 2] ^= 1
    elif spoil == "header":
        content[3] ^= 1
    elif spoil == "empty":
        content = b""
    elif spoil == "text":
        content = b"no index at all, but long enough to hold a checksum at its end\n"
    else:  # whole, by its checksum, but no index
        import hashlib

        body = content[: content.index(b"\n") + 1] + b"rubbish"
        content = body + hashlib.sha256(body).digest()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a whole index file, .*delete it") as error:
        search(table, hidden, "hnsw", tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.unlink()
    search(table, hidden, "hnsw", tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    table, hidden = large_table()
    with pytest.raises(ValueError, match="--knn-cache .*none: no such folder; create it"):
        search(table, hidden, "hnsw", tmp_path / "none")


def test_a_failed_write_leaves_nothing_but_the_index_in_memory(tmp_path, monkeypatch, caplog):
    table, hidden = large_table()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faiss, "write_index", fail)
    options = SearchOptions(**WHOLE["hnsw"])
    expected = make_searcher(options, table).search(make_query(hidden, "cosine", 3.0), FOUND)
    with caplog.at_level(logging.WARNING):
        found = search(table, hidden, "hnsw", tmp_path)
    assert found.indices.equal(expected.indices) and not [*tmp_path.iterdir()]
    assert "No space left on device" in caplog.text and str(tmp_path) in caplog.text
    assert " -> None" not in caplog.text


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_index_is_built(
    tmp_path, monkeypatch
):
    table, hidden = large_table()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(faiss_index, "build_index", lambda *_: pytest.fail("built"))
    with pytest.raises(ValueError, match="--knn-cache .*: must be a folder that can be written"):
        search(table, hidden, "hnsw", tmp_path)


def test_faiss_is_optional(monkeypatch):
    monkeypatch.delitem(sys.modules, "faiss")
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    table, hidden = large_table()
    for name in INDICES:
        with pytest.raises(ValueError, match=f"--knn-search {name} needs the package faiss.*pip"):
            make_searcher(SearchOptions(name), table)
    make_searcher(SearchOptions(), table).search(make_query(hidden, "cosine", 3.0), FOUND)


def test_recall_is_that_of_what_is_returned(caplog):
    caplog.set_level(logging.INFO)
    table, hidden = large_table()
    options = SearchOptions("ivf", ivf_lists=30, ivf_probes=1)
    make_searcher(options, table).search(make_query(hidden, "cosine", 3.0), 5)
    (line,) = [r.getMessage() for r in caplog.records if "recall@1 " in r.getMessage()]
    words = line.replace(",", "").split()
    one, ten = (float(words[words.index(name) + 1]) for name in ("recall@1", "recall@10"))
    assert 0.1 < ten < one < 1
    assert "1000 rows with noise" in line


@pytest.mark.parametrize("name", INDICES)
def test_recall_needs_no_larger_a_sample_than_the_steps(name, caplog):
    """It looks for 10 words, where each step may look for fewer."""
    caplog.set_level(logging.INFO)
    table, hidden = large_table()
    sample = 33 if name == "ivfpq" else 5  # one more than the rows found for 4 words
    searcher = make_searcher(SearchOptions(**WHOLE[name], normalizer_sample=sample), table)
    searcher.check(4, 4)
    assert searcher.search(make_query(hidden, "cosine", 3.0), 4).logits.shape == (20, 4)
    assert "recall@1 1.0000, recall@10 1.0000" in caplog.text


@pytest.mark.parametrize("name", INDICES)
def test_only_words_that_may_be_emitted_are_in_an_index(name):
    table, hidden = large_table()
    searcher = make_searcher(SearchOptions(**WHOLE[name], knn_frequent=0), table)
    never = (~table.emittable).nonzero().squeeze(1)
    never = never[never >= 4]
    assert len(never) == 4
    found = searcher.search(make_query(table.rows(never), "cosine", 3.0), FOUND)
    assert searcher.index.ntotal == 300 and not torch.isin(found.indices, never).any()


def test_the_clusters_are_learned_from_all_of_the_table(monkeypatch):
    table, _ = large_table()
    monkeypatch.setattr(faiss_index, "_TRAINING_ROWS", 1)
    monkeypatch.setattr(faiss_index, "_PQ_VALUES", 8)
    seen, train = [], faiss.IndexIVFFlat.train

    def record(index, rows):
        seen.append(torch.from_numpy(rows.copy()))
        return train(index, rows)

    monkeypatch.setattr(faiss.IndexIVFFlat, "train", record)
    chunks = lambda: iter(table.rows()[4:304].split(100))  # noqa: E731
    shape = faiss_index.Shape("ivf", 8, lists=30)
    index = faiss_index.build_index(faiss, shape, 300, chunks)
    assert index.ntotal == 300 and torch.equal(seen[0], table.rows()[4:304:10])


@pytest.mark.parametrize("name", INDICES)
def test_the_same_rows_are_the_same_index_with_any_number_of_threads(name):
    version = tuple(int(part) for part in faiss.__version__.split(".")[:3])
    if name == "hnsw" and version < (1, 15, 1):
        pytest.skip("earlier releases of FAISS add rows in no fixed order")
    rows = torch.nn.functional.normalize(torch.randn(3000, 16), dim=1)
    shape = faiss_index.Shape(name, 16, 8, 30, 40, 4)
    threads, built = faiss.omp_get_max_threads(), []
    for count in (1, 2, 4, 4):
        faiss.omp_set_num_threads(count)
        try:  # in several parts, as a large table's
            index = faiss_index.build_index(faiss, shape, 3000, lambda: iter(rows.split(1200)))
        finally:
            faiss.omp_set_num_threads(threads)
        built.append(faiss.serialize_index(index).tobytes())
    assert len(set(built)) == 1
