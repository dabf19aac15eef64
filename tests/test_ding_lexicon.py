"""A lexicon by way of a third language: examples/another-language/ding.py."""

from collections import Counter

import pytest
from recipe_data import load_script

LINES = [
    "# Version :: of something",
    "Hund {m} [zool.]; Köter {m} (ugs.) | Hunde {pl} :: dog; mutt | dogs",
    "laufen; rennen {vi} | rot werden :: to run | to blush",
    "Zwei Wörter :: two words",
    "no translation here",
]


@pytest.fixture
def ding():
    return load_script("another-language", "ding.py")


def test_single_words_of_each_meaning_are_paired(ding):
    assert ding.ding_pairs(LINES) == {
        ("hund", "dog"), ("hund", "mutt"), ("köter", "dog"), ("köter", "mutt"), ("hunde", "dogs"),
        ("laufen", "run"), ("rennen", "run"),
    }  # fmt: skip
    with pytest.raises(ValueError, match="--ding must be a file of the Ding dictionary"):
        ding.ding_pairs(["hund dog"])


def test_the_second_language_is_read_off_parallel_text(ding):
    english = [["the", "dog"], ["the", "cat"], ["a", "dog"], ["a", "cat"]] * 5
    french = [["le", "chien"], ["le", "chat"], ["un", "chien"], ["un", "chat"]] * 5
    english.append(["rare", "cat"])
    french.append(["rare", "chat"])
    found = ding.best_translations(english, french, min_count=5, iterations=20)
    assert {one: other for one, (other, _) in found.items()} == {
        "the": "le", "dog": "chien", "a": "un", "cat": "chat",
    }  # fmt: skip
    assert all(0.9 < probability <= 1 for _, probability in found.values())


def test_votes_are_weighed(ding):
    translations = {"dog": ("chien", 0.9), "mutt": ("bête", 0.9), "hound": ("bête", 0.2)}
    pairs = {("hund", "dog"), ("hund", "mutt"), ("hund", "hound"), ("bracke", "hound")}
    weights = Counter(dog=50, mutt=2, hound=1000)
    found = ding.by_way_of(pairs, translations, weights, min_probability=0.3)
    assert found == {"hund": "chien"}  # what is unlikely has no vote
    weights = Counter(dog=2, mutt=50)
    assert ding.by_way_of(pairs, translations, weights, 0.3) == {"hund": "bête"}


def test_files(ding, tmp_path):
    (tmp_path / "ding").write_text("\n".join(LINES) + "\n")
    (tmp_path / "en").write_text("dog\ndogs\n" * 5)
    (tmp_path / "fr").write_text("chien\nchiens\n" * 5)
    (tmp_path / "de").write_text("hund hunde\n" * 5 + "köter\n")
    output = tmp_path / "lexicon"
    arguments = ["--ding", tmp_path / "ding", "--pivot", tmp_path / "en", tmp_path / "fr"]
    arguments += ["--text", tmp_path / "de", "--output", output]
    ding.main(list(map(str, arguments)))
    assert output.read_text() == "hund chien\nhunde chiens\n"  # köter is too rare
