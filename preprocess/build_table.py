#!/usr/bin/env python3
"""Build the target table of a dictionary: one unit vector for each symbol, in the order of indices.

Special symbols and padding words get random vectors of their own, far from every word.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402

from preprocess import drawing  # noqa: E402
from preprocess.assemble import load_dictionary, special_rows, word_rows  # noqa: E402
from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_outputs,
    describe_command,
    is_set,
    number,
    run,
    without_notes,
)
from preprocess.report import frequent_words, make_report, render  # noqa: E402
from preprocess.sources import SOURCES  # noqa: E402

FILES = ("dictionary", "vectors", "text")
NOT_OF_THE_ROWS = ("output", "report", "quiet", "show_words", "angle_rows", "no_angles")


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--dictionary", required=True, metavar="dict.LANG.txt", help="fairseq's")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="the table")
    parser.add_argument(
        "--source",
        required=True,
        choices=list(SOURCES),
        help="fasttext: a .bin model; vectors: .vec or word2vec text; compose: pieces from the "
        "vectors of the words that contain them; random: on the sphere; hypercube: its corners",
    )
    parser.add_argument("--vectors", metavar="FILE", help=".bin, .vec, .txt (text also .gz, .xz)")
    parser.add_argument(
        "--text", metavar="FILE", help="compose: text segmented as the dictionary's (also .gz, .xz)"
    )
    parser.add_argument(
        "--dim", type=number(int, 2), help="dimension; with --vectors the file's must be the same"
    )
    parser.add_argument(
        "--mix-random",
        type=number(float, 0, 1),
        metavar="ALPHA",
        help="rows become normalize(ALPHA row + (1 - ALPHA) random)",
    )
    parser.add_argument(
        "--center", action="store_true", help="subtract the mean of the words' rows"
    )
    parser.add_argument(
        "--remove-components",
        type=number(int, 1),
        metavar="K",
        help="subtract the mean and the K main directions of the words' rows",
    )
    parser.add_argument(
        "--missing",
        choices=["random", "error"],
        default="random",
        help="what a word gets that the source has no vector for",
    )
    parser.add_argument(
        "--duplicates",
        choices=["turn", "error"],
        default="turn",
        help="what happens to a row that repeats an earlier one: turned by at most 3 degrees",
    )
    parser.add_argument("--report", metavar="FILE.json", help="write the report there too")
    parser.add_argument("--show-words", nargs="*", metavar="WORD", help="whose neighbours to show")
    parser.add_argument(
        "--angle-rows",
        type=number(int, 1),
        default=16384,
        metavar="N",
        help="the report compares N rows, drawn if there are more, with all rows (N V d products)",
    )
    parser.add_argument("--no-angles", action="store_true", help="the report compares no rows")
    parser.add_seed("of all random rows")
    return parser


def check(args):
    """Check what can be checked before the work.

    Raises:
        ValueError: options that do not go together, or files that cannot be written.
    """
    outputs = {"--output": args.output}
    if args.report is not None:
        outputs["--report"] = args.report
    check_outputs(outputs, (args.dictionary, args.vectors, args.text))
    drawn = args.source in ("random", "hypercube")
    for name in ("vectors", "text", "mix_random", "center", "remove_components"):
        if drawn and is_set(getattr(args, name)):
            raise ValueError(
                f"--{name.replace('_', '-')} needs vectors, but --source is {args.source}; leave "
                "it out, or take --source fasttext, vectors or compose"
            )
    if args.text is not None and args.source != "compose":
        raise ValueError(f"--text is for --source compose, but it is {args.source}; leave it out")


def build(args):
    check(args)
    with without_notes():
        from fairseq_contout.target_table import emittable_rows, save_table

    dictionary = load_dictionary(args.dictionary)
    words_shown = args.show_words if args.show_words is not None else frequent_words(dictionary)
    for word in words_shown:
        if word not in dictionary:
            raise ValueError(
                f"--show-words {word}: must be symbols of {args.dictionary}, but this is none; "
                "spell it as there"
            )
    if args.source == "hypercube" and args.dim is not None:
        drawing.check_corners(len(dictionary), args.dim)

    special = ~emittable_rows(dictionary).numpy()
    special[: dictionary.nspecial] = True
    indices = np.flatnonzero(~special)
    if not len(indices):
        raise ValueError(f"{args.dictionary}: must hold words, but has padding words alone")
    rows, word_origin, spare = word_rows([dictionary[i] for i in indices], args)

    table = np.empty((len(dictionary), rows.shape[1]), dtype=np.float32)
    table[indices] = rows
    table[special] = special_rows(int(special.sum()), rows, spare, args.seed)
    origin = ["special"] * len(dictionary)
    for i, name in zip(indices, word_origin):
        origin[i] = name
    weight = torch.from_numpy(table)

    angles = 0 if args.no_angles else args.angle_rows
    report = make_report(
        weight, origin, dictionary, words_shown, angles=angles, seed=args.seed, quiet=args.quiet
    )
    report["seed"] = args.seed
    report["source"] = describe_source(args)
    report["random_words"] = [dictionary[i] for i in indices if origin[i] == "random"][:20]
    save_table(
        args.output,
        weight,
        dictionary,
        source=report["source"],
        origins=report["origins"],
        command=describe_command("build_table.py", args, FILES, NOT_OF_THE_ROWS),
    )
    if args.report is not None:
        with atomic_text(args.report) as file:
            json.dump(report, file, ensure_ascii=False, indent=2)
            file.write("\n")
    print(f"{args.output}: {report['source']}\n{render(report)}")


def describe_source(args) -> str:
    """Return the source of the rows in words, without folders: they differ between machines."""
    parts = [args.source]
    if args.vectors is not None:
        parts.append(Path(args.vectors).name)
    if args.center or args.remove_components:
        parts.append("centred")
    if args.remove_components:
        parts.append(f"{args.remove_components} components removed")
    if args.mix_random is not None:
        parts.append(f"mixed with random rows, alpha {args.mix_random:g}")
    return ", ".join(parts) + f", seed {args.seed}"


def main(argv=None) -> int:
    return run(build, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
