#!/usr/bin/env python3
"""How well the vectors of words agree with people about which words are alike.

Each file has vectors of words, as ``preprocess/export_rows.py`` writes them: the rows of a learned
table, of a softmax's output layer, or of fastText. Spearman's rank correlation with WordSim-353
(Finkelstein et al. 2002) and SimLex-999 (Hill et al. 2015), over the pairs that all files know, and
the nearest neighbours of some words. Both sets come with gensim: pip install ".[benchmarks]".
"""

import argparse
import sys
from pathlib import Path

from output import add_files, at_least, draw, named, write_json

SETS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}


def existing(path: str) -> str:
    """Return the path of a file.

    Raises:
        ValueError: there is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(path)
    return path


def read_pairs(path) -> list:
    """Return the pairs of a set: first word, second word, how alike people find them."""
    pairs = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            first, second, score = line.lower().split("\t")[:3]
            pairs.append((first, second, float(score)))
    return pairs


def similarity(vectors, pairs) -> float:
    """Return Spearman's ρ × 100 between cosines and what people say."""
    from scipy.stats import spearmanr

    cosines = [vectors.similarity(first, second) for first, second, _ in pairs]
    return round(100 * float(spearmanr(cosines, [score for *_, score in pairs]).statistic), 1)


def measure(models: dict, words: list, neighbours: int) -> list:
    """Return a row for each file: ρ of each set and how many of its pairs, and neighbours."""
    from gensim.test.utils import datapath

    rows = [{"method": name} for name in models]
    for name, file in SETS.items():
        pairs = read_pairs(datapath(file))
        known = [
            pair for pair in pairs if all(word in v for v in models.values() for word in pair[:2])
        ]
        if len(known) < 20:
            raise SystemExit(
                f"error: the files must know 20 pairs of {name} or more, but all of them know "
                f"{len(known)} of {len(pairs)}; give vectors of whole, lower-cased words"
            )
        for row, vectors in zip(rows, models.values()):
            row[name], row[f"{name}_pairs"] = similarity(vectors, known), len(known)
    for row, vectors in zip(rows, models.values()):
        row["neighbours"] = {
            word: [near for near, _ in vectors.most_similar(word, topn=neighbours)]
            for word in words
            if word in vectors
        }
    return rows


def paint(axes, rows):
    """Draw a group of bars for each set."""
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [i + number * width for i in range(len(SETS))]
        axes.bar(places, [row[name] for name in SETS], width, label=row["method"])
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(SETS))], list(SETS))
    axes.set_ylabel("Spearman's ρ × 100")
    axes.legend(frameon=False)


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--vectors",
        type=named("FILE.vec, and the file must exist", existing),
        action="append",
        required=True,
        metavar="NAME=FILE.vec",
    )
    parser.add_argument("--words", nargs="+", default=["king", "river", "wonderful", "three"])
    parser.add_argument("--neighbours", type=at_least(1), default=6)
    add_files(parser)
    arguments = parser.parse_args()
    try:
        from gensim.models import KeyedVectors
    except ImportError:
        raise SystemExit(
            'error: gensim is missing; install it: pip install ".[benchmarks]"'
        ) from None
    models = {
        name: KeyedVectors.load_word2vec_format(path, binary=False)
        for name, path in arguments.vectors
    }
    rows = measure(models, arguments.words, arguments.neighbours)
    print(f"{'vectors':20}" + "".join(f"{name:>12} {'pairs':>6}" for name in SETS))
    for row in rows:
        numbers = "".join(f"{row[name]:12.1f} {row[f'{name}_pairs']:6}" for name in SETS)
        print(f"{row['method']:20}{numbers}")
    for row in rows:
        for word, near in row["neighbours"].items():
            print(f"{row['method']:20}{word}: {', '.join(near)}")
    write_json(rows, arguments.json)
    draw(arguments.plot, (6, 3.5), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    sys.exit(main())
