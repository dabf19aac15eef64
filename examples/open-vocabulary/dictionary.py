"""Write a fairseq dictionary of a text's words, and after them those of other texts.

Words of the other texts have a count of 0 in the first, and get 1: fairseq takes words of count 0
for padding.
"""

import argparse
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import atomic_text, read_lines  # noqa: E402


def words(paths):
    """Yield the words of some texts."""
    for path in paths:
        yield from chain.from_iterable(line.split() for line in read_lines(path))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="tokens with blanks between them")
    parser.add_argument("--more", type=Path, nargs="+", required=True, help="other texts")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    own = Counter(words([args.text]))
    order = sorted(own, key=lambda word: (-own[word], word))
    others = dict.fromkeys(word for word in words(args.more) if word not in own)
    with atomic_text(args.output) as file:
        file.writelines(f"{word} {own.get(word, 1)}\n" for word in chain(order, others))
    print(f"{args.output}: {len(order)} words, and {len(others)} of other texts", file=sys.stderr)


if __name__ == "__main__":
    main()
