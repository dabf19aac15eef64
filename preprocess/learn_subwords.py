#!/usr/bin/env python3
"""Learn subwords jointly over text files, with subword-nmt (BPE) or SentencePiece."""

import io
import sys
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.common import (  # noqa: E402
    Parser,
    atomic_path,
    atomic_text,
    check_output,
    describe,
    number,
    progress,
    read_lines,
    read_text,
    run,
)


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="text (also .gz, .xz), UTF-8")
    parser.add_argument("--method", choices=["bpe", "sentencepiece"], default="bpe", help="library")
    parser.add_argument(
        "--size",
        type=number(int, 1),
        required=True,
        help="bpe: number of merges; sentencepiece: number of pieces",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="PREFIX",
        help="writes PREFIX.codes (bpe), or PREFIX.model and PREFIX.vocab (sentencepiece)",
    )
    parser.add_argument(
        "--min-frequency",
        type=number(int, 1),
        default=2,
        help="bpe: merge no pair that occurs less often",
    )
    parser.add_argument(
        "--model-type",
        choices=["unigram", "bpe"],
        default="unigram",
        help="sentencepiece: its algorithm",
    )
    parser.add_seed("both algorithms are deterministic without it; taken as in the other scripts")
    return parser


def learn_bpe(args):
    """Write ``PREFIX.codes`` (Sennrich, Haddow & Birch 2016, https://aclanthology.org/P16-1162)."""
    from subword_nmt import learn_bpe as library

    output = f"{args.output}.codes"
    check_output(output, inputs=args.inputs)
    words = Counter(word for line in read_text(args.inputs, args.quiet) for word in line.split(" "))
    if all(len(word) < 2 for word in words):
        raise ValueError(
            f"{', '.join(args.inputs)}: BPE needs words of two or more characters, but the longest "
            "has one; give other text, or do without subwords"
        )
    # its own bar knows neither --quiet nor that a log file wants few lines
    library.tqdm = partial(progress, what="merging", quiet=args.quiet, unit="merges")
    with atomic_text(output) as file:
        library.learn_bpe(
            [f"{word} {count}" for word, count in words.items()],
            file,
            args.size,
            min_frequency=args.min_frequency,
            is_dict=True,
        )
    report(output, sum(1 for _ in read_lines(output)) - 1, "merges")


def learn_sentencepiece(args):
    """Write ``PREFIX.model`` and ``PREFIX.vocab`` (Kudo & Richardson 2018, arXiv 1808.06226)."""
    import sentencepiece

    for suffix in (".model", ".vocab"):
        check_output(args.output + suffix, inputs=args.inputs)
    # all errors of the text come out here: inside the library they would be wrapped
    lines = list(read_text(args.inputs, args.quiet))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=args.size,
            model_type=args.model_type,
            character_coverage=1.0,  # no character of the text may become <unk>
            max_sentence_length=1 << 20,  # the default leaves longer lines out
            num_threads=1,  # sums of floats depend on how many threads share them
            minloglevel=2 if args.quiet else 1,
        )
    except RuntimeError as error:
        raise ValueError(
            f"{', '.join(args.inputs)}: SentencePiece cannot learn --size {args.size} pieces: "
            f"{describe(error).rpartition('] ')[2]}"  # without its place in the library
        ) from error
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with atomic_path(f"{args.output}.model") as temporary:
        temporary.write_bytes(model.getvalue())
    with atomic_text(f"{args.output}.vocab") as file:
        for index in range(len(pieces)):
            print(pieces.id_to_piece(index), f"{pieces.get_score(index):g}", sep="\t", file=file)
    report(f"{args.output}.model", len(pieces), "pieces")


def report(path, count, unit):
    print(f"{path}: {count} {unit}")


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    return run(learn_bpe if args.method == "bpe" else learn_sentencepiece, args)


if __name__ == "__main__":
    sys.exit(main())
