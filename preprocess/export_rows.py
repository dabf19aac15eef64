#!/usr/bin/env python3
"""Write the target rows of a trained model, or a table's, as a text file of vectors.

Of a checkpoint that fairseq-train wrote they are the rows of a learned or frozen table, or of a
softmax's output layer. ``build_table.py --source vectors`` makes a table of them, for this
dictionary or another: what a model learned can be the frozen table of the next. fairseq's own
``--encoder-embed-path`` reads such files, and gensim does.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import torch  # noqa: E402

from preprocess.assemble import load_dictionary  # noqa: E402
from preprocess.common import (  # noqa: E402
    Parser,
    atomic_text,
    check_outputs,
    describe,
    progress,
    run,
    without_notes,
)

#: Where the rows of a table are in a checkpoint: the mean of --table-ema, before what it is of.
TABLES = ("decoder.continuous_output.table.average", "decoder.continuous_output.table.weight")
#: And those of a softmax: a Transformer's, an LSTM's, an LSTM's that shares its embedding.
SOFTMAXES = ("decoder.output_projection.weight", "decoder.fc_out.weight")
SHARED = "decoder.embed_tokens.weight"


def parser() -> Parser:
    parser = Parser(__doc__)
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--checkpoint", metavar="FILE.pt", help="of fairseq-train")
    rows.add_argument("--table", metavar="FILE.safetensors", help="of build_table.py")
    parser.add_argument("--dictionary", required=True, metavar="dict.LANG.txt", help="of the rows")
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
    for name in TABLES:
        if name in state:  # the rows of a learned table are the directions of its parameter
            return torch.nn.functional.normalize(state[name].float())
    # the output is a table, but its rows are elsewhere: input embeddings must not stand for them
    if any(name.startswith("decoder.continuous_output.") for name in state):
        raise ValueError(
            f"--checkpoint {path}: was trained with --table-storage file, so that the rows are in "
            "that file alone; give it as --table"
        )
    adaptive = any(name.startswith("decoder.adaptive_softmax.") for name in state)
    for name in (*SOFTMAXES, SHARED):
        if name in state and not adaptive:
            return state[name].float()
    raise ValueError(
        f"--checkpoint {path}: must hold a target table or the layer of a softmax, but has "
        "neither; give a checkpoint of such a model (not of an adaptive softmax)"
    )


def rows_of_checkpoint(args, dictionary) -> torch.Tensor:
    """Return the rows of ``--checkpoint``, one for each symbol of the dictionary."""
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
    return rows


def export(args):
    check_outputs({"--output": args.output}, (args.checkpoint, args.table, args.dictionary))
    with without_notes():  # with the plugin, torch loads what fairseq writes
        from fairseq_contout.target_table import emittable_rows, load_table

    dictionary = load_dictionary(args.dictionary)
    if args.table is None:
        rows = rows_of_checkpoint(args, dictionary)
    else:
        rows = load_table(args.table, dictionary)
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
