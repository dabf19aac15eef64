#!/usr/bin/env python3
"""Add words to a target table: a trained model can produce them, without further training.

The table's own rows stay as they are, and so do their places; new words come after them. The
dictionary of both is written beside the table. fairseq-generate takes the two as ``--new-table``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402

from preprocess import shaping  # noqa: E402
from preprocess.added_rows import SOURCES  # noqa: E402
from preprocess.added_words import read_words  # noqa: E402
from preprocess.assemble import check_pair, load_dictionary, save_pair, some  # noqa: E402
from preprocess.common import Parser, number, run, without_notes  # noqa: E402
from preprocess.report import neighbours  # noqa: E402


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--table", required=True, metavar="FILE.safetensors", help="to extend")
    parser.add_argument("--dictionary", required=True, metavar="dict.LANG.txt", help="of the table")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="the new table")
    parser.add_argument(
        "--output-dictionary",
        metavar="FILE.txt",
        help="its dictionary; by default FILE.dict.txt beside the table, where --new-table looks",
    )
    parser.add_argument(
        "--source",
        required=True,
        choices=list(SOURCES),
        help="original: the vectors that made the table, treated as they were then; vectors: a "
        "text file of vectors of the table's own space, as export_rows.py writes; compose: the sum "
        "of rows of the table",
    )
    parser.add_argument(
        "--words",
        metavar="FILE",
        help="a word a line (also .gz, .xz); with compose, symbols of the table after it. With "
        "vectors, by default all words of that file",
    )
    parser.add_argument("--vectors", metavar="FILE", help="of original and vectors")
    parser.add_argument(
        "--known",
        choices=["error", "skip"],
        default="error",
        help="what happens to a word that the table has",
    )
    parser.add_argument(
        "--missing",
        choices=["error", "skip"],
        default="error",
        help="what happens to a word that the source has no vector for",
    )
    parser.add_argument(
        "--duplicates",
        choices=["turn", "error"],
        default="turn",
        help="what happens to a row that repeats another: turned by at most 3 degrees",
    )
    parser.add_argument(
        "--show",
        type=number(int, 0),
        default=5,
        metavar="N",
        help="new words whose neighbours to show",
    )
    parser.add_seed("of the directions in which rows are turned")
    return parser


def check(args, dictionary_path):
    """Check what can be checked before the work.

    Raises:
        ValueError: options that do not go together, or files that cannot be written.
    """
    check_pair(args, dictionary_path, (args.table, args.dictionary, args.words, args.vectors))
    if args.source != "vectors" and args.words is None:
        raise ValueError(f"--source {args.source} needs --words FILE, but it was not given")
    if args.source == "compose" and args.vectors is not None:
        raise ValueError(
            f"--vectors {args.vectors}: --source compose adds up rows of the table; leave it out"
        )
    if args.source != "compose" and args.vectors is None:
        raise ValueError(f"--source {args.source} needs --vectors FILE, but it was not given")


def extend(args):
    with without_notes():
        from fairseq_contout.table_file import dictionary_beside, load_table, read_table
    dictionary_path = args.output_dictionary or dictionary_beside(args.output)
    check(args, dictionary_path)
    dictionary = load_dictionary(args.dictionary)
    table = load_table(args.table, dictionary)
    command = read_table(args.table)[1].get("command", "")
    words = None if args.words is None else read_words(args, dictionary)
    words, rows = SOURCES[args.source](args, dictionary, table, command, words)
    words, rows = _without_missing(args, words, rows)
    weight, turned = _tell_apart(args, table, rows, words)
    for word in words:
        dictionary.add_symbol(word)
    record = f"extend_table.py --source {args.source} --words {len(words)}"
    save_pair(
        args.output,
        dictionary_path,
        weight,
        dictionary,
        source=f"{Path(args.table).name}, extended",
        origins={"table": len(table), "added": len(words)},
        command=f"{command} ; {record}",
    )
    print(f"{args.output}: {len(words)} words added to {len(table)} rows; {dictionary_path}")
    if turned:
        print(f"turned away from an equal row: {some(words, turned)}")
    for word, found in neighbours(weight, dictionary.symbols, words[: args.show]).items():
        print(f"near {word}: " + ", ".join(f"{w} {c:.2f}" for w, c in found))


def _without_missing(args, words, rows: np.ndarray):
    there = rows.any(axis=1)
    missing = np.flatnonzero(~there)
    if len(missing) and args.missing == "error":
        raise ValueError(
            f"{args.vectors or args.table}: must have a vector for every new word, but has none "
            f"for {len(missing)} ({some(words, missing)}); give --missing skip, or leave them out"
        )
    words = [word for word, known in zip(words, there) if known]
    if not words:
        raise ValueError(
            f"{args.words or args.vectors}: must hold words that the table does not have, but has "
            "none with a vector; give others"
        )
    return words, rows[there]


def _tell_apart(args, table: torch.Tensor, rows: np.ndarray, words):
    """Return all rows, and which of the new words' had to be turned."""
    old = table.numpy()
    every = np.concatenate((old, rows)).astype(np.float32)
    again = [i - len(old) for i in shaping.find_duplicates(every).tolist() if i >= len(old)]
    if again and args.duplicates == "error":
        raise ValueError(
            f"{args.words or args.vectors}: a new word must not share the row of another, but "
            f"{len(again)} do ({some(words, again)}); give --duplicates turn, or leave them out"
        )
    if again:
        every, turned = shaping.turn_apart(every, args.seed)
        again = [i - len(old) for i in turned if i >= len(old)]
        every[: len(old)] = old
    return torch.from_numpy(every), again


def main(argv=None) -> int:
    return run(extend, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
