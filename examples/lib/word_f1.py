"""F1 of words by how often they are in the training text: how well rare words are translated."""

from collections import Counter

#: (name, fewest, most occurrences in the training text)
BUCKETS = (
    ("0", 0, 0),
    ("1", 1, 1),
    ("2-4", 2, 4),
    ("5-9", 5, 9),
    ("10-99", 10, 99),
    ("100-999", 100, 999),
    ("1000-", 1000, float("inf")),
)


def word_f1(hypotheses, references, counts) -> dict:
    """Return the F1 of each bucket, in per cent, or None for one without words.

    A word of a hypothesis is right as often as it is in its reference at most. Over the words of a
    bucket in all sentences: precision = right / in hypotheses, recall = right / in references,
    F1 = 2 · right / (in hypotheses + in references).

    Args:
        hypotheses: sentences, tokens separated by blanks.
        references: their references, tokenised in the same way.
        counts: occurrences of words in the training text.

    Source: Graham Neubig, Zi-Yi Dou, Junjie Hu, Paul Michel, Danish Pruthi and Xinyi Wang (2019),
    compare-mt: A Tool for Holistic Comparison of Language Generation Systems,
    https://aclanthology.org/N19-4007
    """
    right, total = Counter(), Counter()
    for hypothesis, reference in zip(hypotheses, references):
        found, wanted = Counter(hypothesis.split()), Counter(reference.split())
        right.update(found & wanted)
        total.update(found)
        total.update(wanted)
    result = {}
    for name, fewest, most in BUCKETS:
        words = [word for word in total if fewest <= counts.get(word, 0) <= most]
        size = sum(total[word] for word in words)
        share = 200 * sum(right[word] for word in words) / size if size else None
        result[name] = None if share is None else round(share, 2)
    return result
