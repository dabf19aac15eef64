"""The options of the continuous output; which of them go together: ``option_checks.py``."""

import torch

from fairseq_contout.prior import KINDS
from fairseq_contout.scores import DEFAULT_SCALE

#: The value of --target-table that asks for a learned one. A file of that name: ./learned
LEARNED = "learned"
#: --table-dtype → how the rows of a frozen table are kept
TABLE_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
#: Options of a frozen table, with what they are when nothing is given.
FROZEN_OPTIONS = {"table_storage": "checkpoint", "table_dtype": "float32", "table_device": "model"}


def add_continuous_args(parser):
    """Add the options of the continuous output to a model's parser."""
    # no defaults: fairseq's architecture functions and old checkpoints fill in what is unset
    parser.add_argument(
        "--target-table",
        metavar="FILE|learned",
        help="target table: a file (safetensors, made by preprocess/build_table.py for the target "
        "dictionary) whose rows stay as they are, or the word learned for one that is trained with "
        "the model; a file is needed to start a training, never to decode: the table is in the "
        "checkpoint",
    )
    parser.add_argument(
        "--table-init",
        metavar="FILE",
        help="a table file that a learned table starts from; random rows by default",
    )
    parser.add_argument(
        "--table-storage",
        choices=["checkpoint", "file"],
        help="where a frozen table is kept: in the checkpoint, so that decoding needs no other "
        "file (checkpoint, the default), or in its own file alone, mapped into memory (file), so "
        "that checkpoints stay small and processes share the rows",
    )
    parser.add_argument(
        "--table-dtype",
        choices=sorted(TABLE_DTYPES),
        help="how a frozen table's rows are kept in memory; float32 by default. Rows of 16 bits "
        "are computed with in float32",
    )
    parser.add_argument(
        "--table-device",
        choices=["model", "cpu"],
        help="where a frozen table's rows are: with the model (the default), or on the CPU while "
        "the model is on a GPU; a batch's rows follow the model",
    )
    parser.add_argument(
        "--table-dim",
        type=int,
        metavar="D",
        help="dimension of a learned table's rows; by default that of --table-init, else of the "
        "decoder",
    )
    parser.add_argument(
        "--stop-gradient-targets",
        action="store_true",
        help="rows of a learned table are targets that send no gradient back: the table learns as "
        "the decoder's input alone (tied, or --decoder-input table)",
    )
    parser.add_argument(
        "--table-ema",
        type=float,
        metavar="DECAY",
        help="rows of a learned table are the moving average of its parameter over the updates, "
        "which learns as the decoder's input alone, 0 <= x < 1",
    )
    parser.add_argument(
        "--table-lr-scale",
        type=float,
        metavar="X",
        help="a learned table's learning rate, in learning rates of the model, > 0; with an "
        "optimizer whose steps do not depend on the size of the gradient, such as adam",
    )
    parser.add_argument(
        "--fix-norm",
        action="store_true",
        help="embeddings that a learned table is tied to are read as its rows, of norm 1 "
        "(FixNorm), so that words cannot grow against their positions",
    )
    parser.add_argument(
        "--sparse-gradients",
        action="store_true",
        help="gradients of embeddings and of a learned table hold the rows of the batch alone, so "
        "that time and memory of an update do not grow with the vocabulary; with --optimizer "
        "row_adam",
    )
    parser.add_argument(
        "--output-mlp-dim",
        type=int,
        metavar="D",
        help="put a hidden layer of this dimension with a ReLU before the projection to the "
        "table's dimension; 0, the default, is none",
    )
    parser.add_argument(
        "--initial-length",
        type=float,
        metavar="X",
        help="length of the predictions when a training begins, > 0 (targets have 1), for features "
        "of variance 1 as a LayerNorm's; by default Xavier's initialisation of the projection, a "
        "length of about the square root of their dimension d, but for a Transformer 1 with "
        "--criterion l2 and d with power_spherical",
    )
    parser.add_argument(
        "--output-layer-norm",
        action="store_true",
        help="normalise predictions with a LayerNorm (for scores that are cosines: it fixes ||h||)",
    )
    parser.add_argument(
        "--output-dropout",
        type=float,
        metavar="P",
        help="dropout of the predictions' coordinates, 0 <= x < 1",
    )
    parser.add_argument(
        "--decoder-input",
        choices=["separate", "encoder", "table"],
        help="embeddings that the decoder reads: learned ones of its own (separate, the default), "
        "those of the encoder (encoder; needs a joined dictionary), or the rows of the "
        "target table through a learned projection (table)",
    )
    parser.add_argument(
        "--freeze",
        metavar="PARTS",
        help="parts of the model that stay as they are in training, with commas between them: "
        "encoder, decoder.layers, decoder.layers.0, …; for instance after --finetune-from-model",
    )
    parser.add_argument(
        "--score",
        choices=sorted(DEFAULT_SCALE),
        help="how decoding scores rows; the default is the one that belongs to the criterion",
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="X",
        help="inverse temperature of the score in decoding, > 0; by default it is calibrated on "
        "the validation data and kept in the checkpoint",
    )
    parser.add_argument(
        "--unigram-prior",
        nargs="?",
        const="counts",
        choices=KINDS,
        help="in decoding, add to a word's score the logarithm of its share of training's target "
        "tokens, times a weight that is calibrated; seen: all that were targets have one share",
    )
