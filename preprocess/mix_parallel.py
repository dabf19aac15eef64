#!/usr/bin/env python3
"""Interleave the two sides of parallel text, so that fastText sees a word among its translations.

A word at position i of n has the relative position (i + 1/2) / n; the words of both sentences are
written in that order (length-ratio shuffle). Vectors trained on such lines are bilingual: the row
of a word is near those of its translations. They suit a table that one model's encoder and decoder
share (a joined dictionary).

Source: Ivan Vulić and Marie-Francine Moens (2016), Bilingual Distributed Word Representations from
Document-Aligned Comparable Data, https://doi.org/10.1613/jair.4986
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_output,
    progress,
    read_pairs,
    run,
)


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--input",
        nargs=2,
        required=True,
        metavar="FILE",
        help="segmented text of either language, a line for a line (also .gz, .xz)",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="text for train_fasttext.py"
    )
    return parser


def interleave(one: list, other: list) -> list:
    """Return the words of both lists by their relative positions; those of the first at a tie."""
    placed = [
        ((2 * i + 1) * len(theirs), side, word)  # times 2 n m, to compare integers
        for side, (own, theirs) in enumerate([(one, other), (other, one)])
        for i, word in enumerate(own)
    ]
    return [word for _, _, word in sorted(placed, key=lambda entry: entry[:2])]


def mix(args):
    check_output(args.output, inputs=args.input)
    count = 0
    with atomic_text(args.output) as file:
        for one, other in progress(read_pairs(*args.input), "mixing", args.quiet):
            count += 1
            file.write(" ".join(interleave(one.split(), other.split())) + "\n")
    print(f"{args.output}: {count} pairs")


def main(argv=None) -> int:
    return run(mix, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
