"""How many of some words translations have found.

A word counts as found as often as it is in both the hypothesis and the reference of a sentence:
recall is that number by the words of the reference, precision by those of the hypotheses.
"""

from collections import Counter
from pathlib import Path

from score import read_lines


def dictionary_words(path: Path) -> set:
    """Return the words of a fairseq dictionary, without its padding words of count 0."""
    pairs = (line.rsplit(" ", 1) for line in read_lines(path))
    return {word for word, count in pairs if count != "0"}


def found_words(hypotheses: list, references: list, words: set) -> dict:
    """Return recall and precision of some words in per cent, and the numbers they are made of.

    Precision is None where no hypothesis has such a word.

    Raises:
        ValueError: no reference has such a word.
    """
    right = told = wanted = 0
    for hypothesis, reference in zip(hypotheses, references):
        there = Counter(word for word in hypothesis.split() if word in words)
        expected = Counter(word for word in reference.split() if word in words)
        right += sum((there & expected).values())
        told, wanted = told + sum(there.values()), wanted + sum(expected.values())
    if not wanted:
        raise ValueError(
            "the references must have words that were no targets, but have none; train with fewer "
            "(TRAINED_WORDS)"
        )
    return {
        "recall": round(100 * right / wanted, 2),
        "precision": round(100 * right / told, 2) if told else None,
        "found": right,
        "produced": told,
        "wanted": wanted,
    }
