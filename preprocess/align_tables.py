#!/usr/bin/env python3
"""Map the vectors of another language into a target table's space: a trained model can write it.

The map is a rotation that brings the words of a seed lexicon near their translations; mutual
neighbours refine it. The new words' table takes the place of the training's: fairseq-generate
--new-table, or exchange_table.py for further training.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402

from preprocess import alignment  # noqa: E402
from preprocess.assemble import (  # noqa: E402
    check_pair,
    load_dictionary,
    save_pair,
    special_rows,
    tell_apart,
)
from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    describe_command,
    number,
    progress,
    run,
    without_notes,
)
from preprocess.new_words import load_words, new_rows, treat_as_table  # noqa: E402
from preprocess.report import mean_cosine  # noqa: E402
from preprocess.seed_lexicon import IDENTICAL, read_lexicon  # noqa: E402
from preprocess.word_translation import Space, describe_precision, precision  # noqa: E402

FILES = ("table", "dictionary", "vectors", "new_dictionary", "words", "lexicon", "held_out")
NOT_OF_THE_ROWS = ("output", "output_dictionary", "report", "quiet")
#: How far the mean cosines of the two sets of rows may be apart before the log says so.
_APART = 0.1


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--table", required=True, metavar="FILE.safetensors", help="the model's")
    parser.add_argument("--dictionary", required=True, metavar="dict.LANG.txt", help="of the table")
    parser.add_argument(
        "--vectors",
        required=True,
        metavar="FILE",
        help="of the new words: fastText .bin, or .vec or .txt (also .gz, .xz), of the table's "
        "dimension",
    )
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--new-dictionary", metavar="dict.NEW.txt", help="fairseq's, new words")
    words.add_argument(
        "--words", metavar="FILE", help="the new words, one a line, the most frequent first"
    )
    parser.add_argument(
        "--lexicon",
        required=True,
        metavar=f"FILE|{IDENTICAL}",
        help="pairs to begin with, 'new-word table-word' a line, a word as often as it has "
        f"translations; {IDENTICAL}: words that are spelled the same",
    )
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="the new table")
    parser.add_argument(
        "--output-dictionary",
        metavar="FILE.txt",
        help="its dictionary; by default FILE.dict.txt beside the table, where --new-table looks",
    )
    parser.add_argument(
        "--refinements",
        type=number(int, 0),
        default=5,
        metavar="K",
        help="how often the words that are each other's nearest become the lexicon",
    )
    parser.add_argument(
        "--frequent",
        type=number(int, 1),
        default=10000,
        metavar="N",
        help="the refinement looks at the N most frequent words of each side",
    )
    parser.add_argument(
        "--neighbours",
        type=number(int, 1),
        default=alignment.NEIGHBOURS,
        metavar="K",
        help="that make a word's neighbourhood in CSLS",
    )
    parser.add_argument(
        "--lexicon-weight",
        type=number(float, 0, 1),
        default=0.0,
        metavar="A",
        help="rows of the lexicon's new words become normalize((1 - A) mapped + A mean of their "
        "translations' rows) in the end; held out ones do not",
    )
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        "--held-out", metavar="FILE", help="measure with the pairs of this file, in their place"
    )
    measured.add_argument(
        "--held-out-share",
        type=number(float, 0, 1),
        metavar="X",
        help="measure with this share of the lexicon's new words, drawn",
    )
    parser.add_argument(
        "--center",
        action="store_true",
        help="subtract the mean of the new words' rows; always so where --table was made so",
    )
    parser.add_argument(
        "--remove-components",
        type=number(int, 1),
        metavar="K",
        help="subtract their mean and K main directions; by default as --table was made",
    )
    parser.add_argument(
        "--mix-random",
        type=number(float, 0, 1),
        metavar="ALPHA",
        help="rows become normalize(ALPHA row + (1 - ALPHA) random) in the end",
    )
    parser.add_argument(
        "--missing",
        choices=["random", "error"],
        default="random",
        help="what a new word gets that the vectors do not have",
    )
    parser.add_argument(
        "--duplicates",
        choices=["turn", "error"],
        default="turn",
        help="what happens to a row that repeats an earlier one: turned by at most 3 degrees",
    )
    parser.add_argument("--report", metavar="FILE.json", help="write what is measured there, too")
    parser.add_seed("of all that is drawn")
    return parser


def fit(args, new: Space, old: Space, pairs, held_out, report):
    """Return the map from new to old, and fill the report with what is measured on the way."""

    def measure(when):
        if held_out:
            mapped = new.rotated(mapping)
            report["precision"][when] = precision(mapped, old, held_out, args.neighbours)

    index = torch.tensor([(new.index[one], old.index[other]) for one, other in pairs])
    mapping = alignment.procrustes(new.rows[index[:, 0]], old.rows[index[:, 1]])
    report.update(refinements=[], precision={})
    measure("before")
    frequent = [space.frequent(args.frequent) for space in (new, old)]
    for _ in progress(range(args.refinements), "refining", args.quiet, unit="refinements"):
        mapping, found = alignment.refine(*frequent, mapping, args.neighbours)
        report["refinements"].append(len(found))
    if args.refinements:
        measure("after")
    return mapping


def align(args):
    with without_notes():
        from fairseq_contout.symbols import emittable_rows
        from fairseq_contout.table_file import dictionary_beside, load_table, read_table
    dictionary_path = args.output_dictionary or dictionary_beside(args.output)
    given = args.new_dictionary
    if given is not None and Path(given).resolve() == Path(dictionary_path).resolve():
        given = None  # it stays as it is
    inputs = [getattr(args, name) for name in FILES if name != "new_dictionary"]
    check_pair(args, dictionary_path, [*inputs, given], args.report)
    trained = load_dictionary(args.dictionary)
    table = load_table(args.table, trained)
    treat_as_table(args, read_table(args.table)[1].get("command", ""))
    dictionary = load_words(args)
    usable = emittable_rows(dictionary).numpy()
    usable[: dictionary.nspecial] = False
    indices = np.flatnonzero(usable)
    words = [dictionary[i] for i in indices]
    rows, mixed, origin, known = new_rows(args, words, table.size(1))

    emitted = emittable_rows(trained)
    emitted[: trained.nspecial] = False
    old = Space.of(trained, emitted.nonzero().flatten().tolist(), table[emitted])
    new = Space.of(dictionary, indices[known].tolist(), torch.from_numpy(rows[known]))
    pairs, held_out, given = read_lexicon(args, new.index, old.index)
    report = {
        "given_pairs": given,
        "pairs": len(pairs),
        "held_out_pairs": len(held_out),
        "held_out_words": len({word for word, _ in held_out}),
        "mean_cosine": {"table": mean_cosine(old.rows), "new": mean_cosine(new.rows)},
    }
    mapping = fit(args, new, old, pairs, held_out, report)

    weight = torch.empty(len(dictionary), table.size(1))
    # the model learned to point at these for the end of a sentence
    special = torch.from_numpy(~usable)
    weight[special] = torch.from_numpy(special_rows(int(special.sum()), rows, None, args.seed))
    weight[: trained.nspecial] = table[: trained.nspecial]
    weight[indices] = alignment.rotate(torch.from_numpy(mixed), mapping)
    if args.lexicon_weight:
        partners = [(dictionary.index(one), trained.index(other)) for one, other in pairs]
        weight = alignment.pull(weight, table, torch.tensor(partners), args.lexicon_weight)
        # words with the same translations are at one place then
        apart, _ = tell_apart(words, weight[indices].numpy(), args)
        weight[indices] = torch.from_numpy(apart)
    names = [*origin, *["special"] * int(special.sum())]
    report.update(rows=len(weight), dim=weight.size(1), seed=args.seed)
    report["origins"] = {name: names.count(name) for name in sorted(set(names))}
    _save(args, dictionary_path, dictionary, weight, report)
    print(f"{args.output}: {len(words)} words of {Path(args.vectors).name}; {dictionary_path}")
    print(render(args, report))


def _save(args, dictionary_path, dictionary, weight, report):
    with nullcontext() if args.report is None else atomic_text(args.report) as file:
        if file is not None:
            json.dump(report, file, ensure_ascii=False, indent=2)
            file.write("\n")
        save_pair(
            args.output,
            dictionary_path,
            weight,
            dictionary,
            source=f"{Path(args.vectors).name}, aligned with {Path(args.table).name}",
            origins=report["origins"],
            command=describe_command("align_tables.py", args, FILES, NOT_OF_THE_ROWS),
        )


def render(args, report) -> str:
    """Return the report as lines for people."""
    lines = [f"{report['pairs']} of {report['given_pairs']} pairs of {args.lexicon} were used"]
    if report["pairs"] < report["dim"]:
        lines[0] += f", fewer than the {report['dim']} dimensions: give more where there are"
    cosines = report["mean_cosine"]
    if abs(cosines["table"] - cosines["new"]) > _APART:
        lines.append(
            f"mean cosine of two rows {cosines['table']:.2f} in the table, {cosines['new']:.2f} "
            "of new words: they should be alike, try --center or other vectors"
        )
    if report["refinements"]:
        found = ", ".join(map(str, report["refinements"]))
        lines.append(f"mutual neighbours in each refinement: {found}")
    lines += describe_precision(report)
    return "\n".join(lines)


def main(argv=None) -> int:
    return run(align, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
