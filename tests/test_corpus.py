"""The bundled corpus: whole, aligned, honest about its origin, and without leaks into training."""

import hashlib
import lzma
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "examples" / "demo" / "data"
PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def corpus():
    return {
        f"{part}.{language}": lzma.decompress((DATA / f"{part}.{language}.xz").read_bytes())
        for part in PARTS
        for language in ("es", "en")
    }


def lines(data):
    text = data.decode("utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def test_files_are_those_that_were_extracted(corpus):
    recorded = dict(
        reversed(line.split("  ")) for line in (DATA / "SHA256SUMS").read_text().splitlines()
    )
    assert recorded == {name: hashlib.sha256(data).hexdigest() for name, data in corpus.items()}


def test_sides_are_aligned_and_of_the_promised_lengths(corpus):
    for part in PARTS:
        spanish, english = lines(corpus[f"{part}.es"]), lines(corpus[f"{part}.en"])
        assert len(spanish) == len(english) > 500
        for pair in zip(spanish, english):
            short, long = sorted(len(line.split()) for line in pair)
            assert 3 <= short and long <= min(40, 2 * short), pair
            assert all(line == " ".join(line.split()) for line in pair)
            assert not any(mark in line for line in pair for mark in "<>{}¶")
    assert len(lines(corpus["train.en"])) > 25000


def test_no_held_out_verse_is_in_train(corpus):
    for language in ("es", "en"):
        train = set(lines(corpus[f"train.{language}"]))
        for part in ("valid", "test"):
            assert not train.intersection(lines(corpus[f"{part}.{language}"]))


def test_notice_names_origin_and_licence():
    notice = (DATA / "NOTICE").read_text()
    for fact in ("Reina-Valera 1909", "sword-text-web", "Public Domain", "not the World English"):
        assert fact in notice
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 3_000_000
