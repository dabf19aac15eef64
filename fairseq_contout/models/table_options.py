"""The options of the continuous output, and the target table that they ask for."""

import torch
from fairseq.criterions import CRITERION_REGISTRY
from torch import nn

from fairseq_contout.criterions.base import TASK_MARK, ContinuousCriterion
from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.scores import DEFAULT_SCALE, check_score
from fairseq_contout.target_table import TargetTable, load_table, normalize_rows

#: The value of --target-table that asks for a learned one. A file of that name: ./learned
LEARNED = "learned"


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
        "--decoder-input",
        choices=["separate", "encoder", "table"],
        help="embeddings that the decoder reads: learned ones of its own (separate, the default), "
        "those of the encoder (encoder; needs a joined dictionary), or the rows of the "
        "target table through a learned projection (table)",
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


def _resolve_score(args) -> str:
    """Return the score of a model: its own option, else that of the criterion.

    Raises:
        ValueError: the criterion is not one on embeddings.
    """
    criterion = getattr(args, "criterion", None)
    kind = CRITERION_REGISTRY.get(criterion)
    if criterion is not None and not (
        isinstance(kind, type) and issubclass(kind, ContinuousCriterion)
    ):
        known = sorted(
            name
            for name, cls in CRITERION_REGISTRY.items()
            if isinstance(cls, type) and issubclass(cls, ContinuousCriterion)
        )
        raise ValueError(
            f"--arch {getattr(args, 'arch', 'continuous_transformer')} predicts embeddings and "
            f"needs one of the criterions {', '.join(known)}, but --criterion is {criterion}; "
            "choose one of them, or a softmax architecture such as transformer"
        )
    score = getattr(args, "score", None)
    if score is None:
        score = kind.score if kind is not None else "cosine"
    return check_score(score)


def _is_tied(args) -> bool:
    # --share-all-embeddings sets the second flag in fairseq's Transformer, not before it is built
    return any(
        getattr(args, flag, False)
        for flag in ("share_all_embeddings", "share_decoder_input_output_embed")
    )


def check_sharing(args):
    """Refuse options of a learned table beside a frozen one, and two ways to tie the input.

    Raises:
        ValueError: options that contradict each other, with the remedy.
    """
    learned = getattr(args, "target_table", None) == LEARNED
    if _is_tied(args) and not learned:
        raise ValueError(
            "--share-all-embeddings and --share-decoder-input-output-embed tie the output to "
            "embeddings that are learned, but a table from a file is frozen; give --target-table "
            "learned (and --table-init FILE to start from that table), or let the decoder read the "
            "frozen table through a projection with --decoder-input table"
        )
    if _is_tied(args) and getattr(args, "decoder_input", None):
        raise ValueError(
            "--share-all-embeddings and --share-decoder-input-output-embed say what the decoder "
            f"reads, and so does --decoder-input {args.decoder_input}; give one of them"
        )
    for option in ("table_init", "table_dim", "table_ema", "stop_gradient_targets"):
        if getattr(args, option, None) not in (None, False) and not learned:
            raise ValueError(
                f"--{option.replace('_', '-')} {getattr(args, option)} shapes a learned table, but "
                f"--target-table is {getattr(args, 'target_table', None)}; give --target-table "
                "learned, or leave it out"
            )
    reads = _is_tied(args) or getattr(args, "decoder_input", None) == "table"
    for option in ("table_ema", "stop_gradient_targets"):
        if getattr(args, option, None) not in (None, False) and not reads:
            raise ValueError(
                f"with --{option.replace('_', '-')} a table learns as the decoder's input alone, "
                "but the decoder does not read it; give --share-decoder-input-output-embed, "
                "--share-all-embeddings or --decoder-input table"
            )
    dim = getattr(args, "table_dim", None)
    if dim is not None and dim < 1:
        raise ValueError(f"--table-dim must be 1 or more, but is {dim}")


def build_table(args, task, embedding: nn.Module, feature_dim: int) -> TargetTable:
    """Make the target table of a model: to start a training, or to load a checkpoint into.

    The dimension is written into ``args``, which fairseq saves with the checkpoint, so that files
    are needed at the start of a training alone.

    Args:
        args: the model's options.
        task: the task, whose target dictionary the rows belong to.
        embedding: the decoder's input embedding, which a tied table shares.
        feature_dim: dimension of the decoder's features, a learned table's by default.

    Raises:
        ValueError: no ``--target-table``, or one that does not fit.
    """
    dictionary = task.target_dictionary
    args.score = _resolve_score(args)
    scale = getattr(args, "scale", None)
    built = getattr(args, "built_table", None)  # (file, dimension), when from a checkpoint
    path = getattr(args, "target_table", None)
    if built is not None and path != built[0]:
        raise ValueError(
            f"the checkpoint holds the table of {built[0]}, and --model-overrides asks for {path}: "
            "a model decodes with the table it was trained with; drop target_table from the "
            "overrides"
        )
    if not path:
        raise ValueError(
            "--target-table must name the table to predict, but is not set; make one with "
            "preprocess/build_table.py --dictionary DATA/dict.<lang>.txt --output FILE, or give "
            "--target-table learned"
        )
    if path == LEARNED:
        weight = _learned_weight(args, dictionary, embedding, feature_dim)
    elif built is not None:
        weight = torch.zeros(len(dictionary), built[1])
    else:
        weight = load_table(path, dictionary)
    args.built_table = [path, weight.size(1)]
    setattr(task, TASK_MARK, True)
    if path != LEARNED:
        return TargetTable(weight, dictionary, args.score, scale)
    return LearnedTable(
        weight,
        dictionary,
        args.score,
        scale,
        stop_gradient=getattr(args, "stop_gradient_targets", None) or False,
        ema=getattr(args, "table_ema", None),
    )


def _learned_weight(args, dictionary, embedding: nn.Module, feature_dim: int) -> nn.Parameter:
    """Return the parameter of a learned table: the decoder's own embedding where they are tied."""
    built, path = getattr(args, "built_table", None), getattr(args, "table_init", None)
    start = load_table(path, dictionary) if path and built is None else None
    dim = built[1] if built else getattr(args, "table_dim", None)
    if dim is None and start is not None:
        dim = start.size(1)
    if start is not None and start.size(1) != dim:
        raise ValueError(
            f"--table-dim is {dim}, but the rows of --table-init {path} have dimension "
            f"{start.size(1)}; leave --table-dim out"
        )
    if _is_tied(args):
        weight = embedding.weight
        if dim not in (None, weight.size(1)):
            raise ValueError(
                f"a table tied to the decoder's embeddings has their dimension, {weight.size(1)}, "
                f"but --table-init or --table-dim asks for {dim}; change --decoder-embed-dim or "
                "leave the --share-… flag out"
            )
    else:
        # of norm 1, as random directions: what fairseq's embeddings are, too
        rows = torch.randn(len(dictionary), dim or feature_dim)
        weight = nn.Parameter(normalize_rows(rows, "random table"))
    if start is not None:
        with torch.no_grad():
            weight.copy_(start)
    return weight
