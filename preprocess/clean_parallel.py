#!/usr/bin/env python3
"""Clean parallel text: blanks, case, Moses tokens; for training data also length and ratio.

Reads IN_PREFIX.<lang> (or .<lang>.gz, .<lang>.xz) and writes OUT_PREFIX.<lang> for both languages.
Without --min-length, --max-length and --ratio no pair is left out: the way for test data.
"""

import argparse
import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.common import (  # noqa: E402
    OPENERS,
    Parser,
    atomic_text,
    check_output,
    number,
    progress,
    read_pairs,
    run,
    tokens,
)


def add_cleaning_args(parser: Parser):
    """Add what :class:`Cleaner` reads."""
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--lowercase", action=flag, default=False, help="lower-case the text")
    parser.add_argument(
        "--tokenize",
        action=flag,
        default=True,
        help="tokenise as Moses does (sacremoses), the same as --tokenizer moses in fairseq",
    )
    parser.add_argument(
        "--normalize-punctuation",
        action=flag,
        default=True,
        help="before tokenising, normalise quotes, dashes and blanks as Moses does",
    )
    parser.add_argument(
        "--escape", action=flag, default=True, help="when tokenising, write & as &amp; and so on"
    )


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("input", metavar="IN_PREFIX", help="of the two files to read")
    parser.add_argument("output", metavar="OUT_PREFIX", help="of the two files to write")
    parser.add_argument("--source-lang", "-s", required=True, help="suffix and language, like de")
    parser.add_argument("--target-lang", "-t", required=True, help="suffix and language, like en")
    parser.add_argument("--min-length", type=number(int, 0), help="in tokens, on both sides")
    parser.add_argument("--max-length", type=number(int, 1), help="in tokens, on both sides")
    parser.add_argument(
        "--ratio", type=number(float, 1), help="longer side over shorter side, at most this"
    )
    add_cleaning_args(parser)
    parser.add_argument("--workers", type=number(int, 1), default=1, help="processes that tokenise")
    return parser


class Cleaner:
    """A function from a line to a cleaned line, in one language; it can be sent to a process."""

    def __init__(self, language: str, args):
        self.language, self.lowercase = language, args.lowercase
        self.tokenize, self.escape = args.tokenize, args.escape
        self.normalize = args.tokenize and args.normalize_punctuation
        self.tools = None

    def __call__(self, line: str) -> str:
        line = tokens(line)
        if self.tokenize and line:
            normalizer, tokenizer = self._tools()
            if self.normalize:
                line = normalizer.normalize(line)
            line = tokenizer.tokenize(
                line, aggressive_dash_splits=True, return_str=True, escape=self.escape
            )
        return tokens(line.lower() if self.lowercase else line)

    def _tools(self):
        if self.tools is None:
            from sacremoses import MosesPunctNormalizer, MosesTokenizer

            self.tools = MosesPunctNormalizer(self.language), MosesTokenizer(self.language)
        return self.tools


class PairCleaner:
    """Clean a (source, target) pair of lines."""

    def __init__(self, args):
        self.cleaners = [Cleaner(lang, args) for lang in (args.source_lang, args.target_lang)]

    def __call__(self, pair):
        return tuple(clean(line) for clean, line in zip(self.cleaners, pair))


def find(prefix: str, language: str) -> Path:
    """Return the file of one side.

    Raises:
        ValueError: there is none, or several.
    """
    candidates = [Path(f"{prefix}.{language}{suffix}") for suffix in ("", *OPENERS)]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        raise ValueError(
            f"{prefix}.{language}: exactly one of {', '.join(map(str, candidates))} must exist, "
            f"but {len(found)} do; check IN_PREFIX and the languages"
        )
    return found[0]


def reason_to_drop(pair, args) -> str:
    """Return the reason why a pair is left out, or an empty string."""
    lengths = [len(line.split()) for line in pair]
    if args.min_length is not None and min(lengths) < args.min_length:
        return "too short"
    if args.max_length is not None and max(lengths) > args.max_length:
        return "too long"
    if args.ratio is not None and max(lengths) > args.ratio * min(lengths):
        return "ratio"
    return ""


def clean(args):
    if args.source_lang == args.target_lang:
        raise ValueError(
            f"--source-lang and --target-lang must differ, but both are {args.source_lang}"
        )
    languages = (args.source_lang, args.target_lang)
    inputs = [find(args.input, language) for language in languages]
    outputs = [f"{args.output}.{language}" for language in languages]
    for path in outputs:
        check_output(path, "OUT_PREFIX", inputs)
    counts = Counter()
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_text(path)) for path in outputs]
        pairs = read_pairs(*inputs)
        if args.workers > 1:
            # spawned, since a fork beside the progress bar's thread can hang
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(args.workers, mp_context=spawn))
            # in blocks: imap would read the whole corpus ahead of the workers
            blocks = iter(lambda: list(islice(pairs, 2000 * args.workers)), [])
            cleaned = chain.from_iterable(
                pool.map(PairCleaner(args), block, chunksize=500) for block in blocks
            )
        else:
            cleaned = map(PairCleaner(args), pairs)
        for pair in progress(
            cleaned, f"cleaning {Path(args.input).name}", args.quiet, unit="pairs"
        ):
            reason = reason_to_drop(pair, args)
            counts[reason] += 1
            if not reason:
                for line, file in zip(pair, files):
                    print(line, file=file)
        if not counts[""]:
            raise ValueError(
                f"{args.input}: at least one pair must be left, but all {sum(counts.values())} "
                "were left out; loosen --min-length, --max-length or --ratio"
            )
    kept = counts.pop("")
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    print(
        f"{args.output}: {kept} pairs kept, {sum(counts.values())} left out"
        + (f" ({reasons})" if reasons else "")
    )


def main(argv=None) -> int:
    return run(clean, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
