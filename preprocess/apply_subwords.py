#!/usr/bin/env python3
"""Segment text with the subwords of learn_subwords.py: one output line for each input line."""

import io
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_output,
    describe,
    number,
    progress,
    read_lines,
    run,
    tokens,
)


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--method", choices=["bpe", "sentencepiece"], default="bpe", help="library")
    parser.add_argument(
        "--model", required=True, metavar="FILE", help="PREFIX.codes (bpe) or PREFIX.model"
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="text (also .gz, .xz), UTF-8"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="segmented text")
    parser.add_argument(
        "--dropout",
        type=number(float, 0, 1),
        default=0.0,
        help="bpe: leave a merge out with this probability (Provilkov et al. 2020); for training "
        "data alone",
    )
    parser.add_seed("of --dropout")
    return parser


def load_bpe(path):
    """Return a function from a line to its pieces, marked ``@@``.

    Raises:
        ValueError: not a codes file of subword-nmt.
    """
    from subword_nmt.apply_bpe import BPE

    codes = list(read_lines(path))
    merges = codes[1:] if codes and codes[0].startswith("#version:") else codes
    # checked here: the library prints two lines and leaves the process
    for index, line in enumerate(merges, start=1 + len(codes) - len(merges)):
        if len(line.split(" ")) != 2:
            raise ValueError(
                f"{path}, line {index}: a BPE codes file has a line '#version: …' and then pairs "
                f"of pieces, but this is {line[:40]!r}; make one with learn_subwords.py"
            )
    if not merges:
        raise ValueError(
            f"{path}: a BPE codes file must hold merges, but there is none; learn it from more text"
        )
    return BPE(io.StringIO("\n".join(codes))).process_line


def load_sentencepiece(path):
    """Return a function from a line to its pieces, marked ``▁``.

    Raises:
        ValueError: not a model of SentencePiece.
    """
    import sentencepiece

    proto = Path(path).read_bytes()
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: must be a SentencePiece model, but: {describe(error)}; make one with "
            "learn_subwords.py --method sentencepiece"
        ) from error
    return lambda line, dropout: " ".join(model.encode(line, out_type=str))


def apply(args):
    if args.dropout and args.method != "bpe":
        raise ValueError(
            f"--dropout {args.dropout} is defined for --method bpe alone; leave it out or use bpe"
        )
    check_output(args.output, inputs=(args.input, args.model))
    segment = load_bpe(args.model) if args.method == "bpe" else load_sentencepiece(args.model)
    random.seed(args.seed)  # the library draws from the global generator
    lines = pieces = 0
    with atomic_text(args.output) as file:
        name = Path(args.input).name
        for line in progress(read_lines(args.input), f"segmenting {name}", args.quiet):
            segmented = segment(tokens(line), args.dropout)
            print(segmented, file=file)
            lines, pieces = lines + 1, pieces + segmented.count(" ") + bool(segmented)
        if not lines:
            raise ValueError(f"{args.input}: must hold text, but is empty; give another file")
    print(f"{args.output}: {lines} lines, {pieces} pieces")


def main(argv=None) -> int:
    return run(apply, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
