#!/usr/bin/env python3
"""Write the target rows of a trained model as a text file of vectors, for build_table.py or gensim.

Rows are those of a learned or frozen table, or of a softmax's output layer, of a checkpoint that
fairseq-train wrote. ``build_table.py --source vectors`` makes a table of them, for this dictionary
or another: what a model learned can be the frozen table of the next.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import torch  # noqa: E402

from preprocess.assemble import load_dictionary  # noqa: E402
from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_output,
    describe,
    progress,
    run,
)

#: Where rows are in a checkpoint, first a table's, then a softmax's.
NAMES = ("decoder.continuous_output.table.weight", "decoder.output_projection.weight")


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE.pt", help="of fairseq-train")
    parser.add_argument(
        "--dictionary", required=True, metavar="dict.LANG.txt", help="that it was trained with"
    )
    parser.add_argument("--output", required=True, metavar="FILE.vec", help="vectors as text")
    return parser


def load_rows(path) -> torch.Tensor:
    """Return the target rows of a checkpoint, ``(V, d)`` float32.

    Raises:
        ValueError: not a checkpoint of fairseq, or of a model without such rows.
    """
    if not Path(path).is_file():
        raise ValueError(f"--checkpoint {path}: no such file; train with fairseq-train")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except Exception as error:  # torch.load raises whatever the file makes it raise
        raise ValueError(
            f"--checkpoint {path}: must be a checkpoint of fairseq, but {describe(error)}; give a "
            "checkpoint_*.pt of fairseq-train"
        ) from error
    for name in NAMES:
        if name in state:
            return state[name].float()
    raise ValueError(
        f"--checkpoint {path}: must hold {' or '.join(NAMES)}, but has neither; give a checkpoint "
        "of a model that has a target table or a softmax (not an adaptive one)"
    )


def export(args):
    check_output(args.output)
    # the plugin brings fairseq's tasks along, which tell of optional packages; with it, torch loads
    # what fairseq writes
    logging.disable(logging.INFO)
    from fairseq_contout.target_table import emittable_rows

    logging.disable(logging.NOTSET)
    dictionary = load_dictionary(args.dictionary)
    rows = load_rows(args.checkpoint)
    if len(rows) != len(dictionary):
        raise ValueError(
            f"--checkpoint {args.checkpoint}: must have a row for each of the {len(dictionary)} "
            f"symbols of {args.dictionary}, but has {len(rows)}; give the target dictionary that "
            "the model was trained with"
        )
    if not torch.isfinite(rows).all():
        raise ValueError(
            f"--checkpoint {args.checkpoint}: rows must be finite, but some hold NaN or infinity; "
            "the training diverged"
        )
    emittable = emittable_rows(dictionary).tolist()
    words = [i for i in range(dictionary.nspecial, len(dictionary)) if emittable[i]]
    with atomic_text(args.output) as file:
        file.write(f"{len(words)} {rows.size(1)}\n")
        for i in progress(words, "writing", args.quiet, unit="rows"):
            file.write(dictionary[i] + " " + " ".join(f"{x:.9g}" for x in rows[i].tolist()) + "\n")
    print(f"{args.output}: {len(words)} rows of dimension {rows.size(1)}")


def main(argv=None) -> int:
    return run(export, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
