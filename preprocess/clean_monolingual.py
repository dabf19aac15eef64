#!/usr/bin/env python3
"""Clean text of one language as clean_parallel.py cleans both sides: blanks, case, Moses tokens.

Several files are joined in their order; empty lines are left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.clean_parallel import Cleaner, add_cleaning_args  # noqa: E402
from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_output,
    number,
    progress,
    read_lines,
    run,
)


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("input", metavar="FILE", nargs="+", help="text (also .gz, .xz), UTF-8")
    parser.add_argument("--output", required=True, metavar="FILE", help="cleaned text")
    parser.add_argument("--language", "-l", required=True, help="of the text, like de")
    parser.add_argument("--max-length", type=number(int, 1), help="in tokens")
    add_cleaning_args(parser)
    return parser


def clean(args):
    check_output(args.output, inputs=args.input)
    cleaner = Cleaner(args.language, args)
    read = kept = 0
    with atomic_text(args.output) as file:
        for path in args.input:
            name = f"cleaning {Path(path).name}"
            for line in progress(read_lines(path), name, args.quiet):
                read += 1
                line = cleaner(line)
                length = len(line.split())
                if length and (args.max_length is None or length <= args.max_length):
                    print(line, file=file)
                    kept += 1
        if not kept:
            raise ValueError(
                f"{', '.join(args.input)}: at least one line must be left, but all {read} were "
                "empty or longer than --max-length; check the files"
            )
    print(f"{args.output}: {kept} lines kept, {read - kept} left out")


def main(argv=None) -> int:
    return run(clean, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
