"""Which options of the continuous output go together, and their ranges."""

import math

import torch

from fairseq_contout.models.options import FROZEN_OPTIONS, LEARNED

#: Optimizers under which a parameter stored X times smaller learns X times faster.
SCALE_FREE = ("adam", "adamax", "adagrad", "cpu_adam", "row_adam")


def is_tied(args) -> bool:
    # --share-all-embeddings sets the second flag in fairseq's Transformer, not before it is built
    return any(
        getattr(args, flag, False)
        for flag in ("share_all_embeddings", "share_decoder_input_output_embed")
    )


def _is_set(args, option: str) -> bool:
    value = getattr(args, option, None)
    return value is not None and value is not False  # 0.0 is a value, and equal to False


def _processes(args) -> int:
    # with a launcher the option is that of one machine; models are made after processes have met
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return getattr(args, "distributed_world_size", None) or 1


def check_options(args):
    """Check the options, alone and beside each other.

    Raises:
        ValueError: options that contradict each other, or a value out of its range, with the
            remedy.
    """
    learned = getattr(args, "target_table", None) == LEARNED
    if is_tied(args) and not learned:
        raise ValueError(
            "--share-all-embeddings and --share-decoder-input-output-embed tie the output to "
            "embeddings that are learned, but a table from a file is frozen; give --target-table "
            "learned (and --table-init FILE to start from that table), or let the decoder read the "
            "frozen table through a projection with --decoder-input table"
        )
    if is_tied(args) and getattr(args, "decoder_input", None):
        raise ValueError(
            "--share-all-embeddings and --share-decoder-input-output-embed say what the decoder "
            f"reads, and so does --decoder-input {args.decoder_input}; give one of them"
        )
    replaced = getattr(args, "decoder_input", None)
    vectors = getattr(args, "decoder_embed_path", None)
    from_file = getattr(args, "built_table", None) is None  # not a checkpoint of before this check
    if replaced in ("encoder", "table") and vectors and from_file:
        raise ValueError(
            f"--decoder-embed-path {vectors} is what the decoder's own embeddings begin with, but "
            f"--decoder-input {replaced} replaces them; leave one of them out"
        )
    for option in (
        "table_init",
        "table_dim",
        "table_ema",
        "table_lr_scale",
        "stop_gradient_targets",
        "fix_norm",
    ):
        if _is_set(args, option) and not learned:
            raise ValueError(
                f"--{option.replace('_', '-')} {getattr(args, option)} shapes a learned table, but "
                f"--target-table is {getattr(args, 'target_table', None)}; give --target-table "
                "learned, or leave it out"
            )
    for option in FROZEN_OPTIONS:
        if _is_set(args, option) and learned:
            raise ValueError(
                f"--{option.replace('_', '-')} {getattr(args, option)} is for a table that stays "
                "as it is, but --target-table is learned; leave it out"
            )
    reads = is_tied(args) or getattr(args, "decoder_input", None) == "table"
    for option in ("table_ema", "stop_gradient_targets"):
        if _is_set(args, option) and not reads:
            raise ValueError(
                f"with --{option.replace('_', '-')} a table learns as the decoder's input alone, "
                "but the decoder does not read it; give --share-decoder-input-output-embed, "
                "--share-all-embeddings or --decoder-input table"
            )
    many = _processes(args) > 1
    if learned and not reads and many and getattr(args, "find_unused_parameters", False):
        raise ValueError(
            "--find-unused-parameters takes a learned table that the decoder does not read for "
            "unused, since the criterion alone reads it; leave the flag out, or tie the table with "
            "--share-decoder-input-output-embed"
        )
    _check_ranges(args)
    if _is_set(args, "lexical_alone") and not _is_set(args, "lexical_shortcut"):
        raise ValueError(
            f"--lexical-alone {args.lexical_alone} is of the shortcut from source words, but there "
            "is none; give --lexical-shortcut, or leave it out"
        )
    if _is_set(args, "initial_length") and getattr(args, "output_layer_norm", None):
        raise ValueError(
            f"--initial-length {args.initial_length} is of predictions whose length is free, but "
            "--output-layer-norm fixes it; leave one of them out"
        )
    if getattr(args, "sparse_gradients", None):
        _check_sparse(args)
    optimizer = getattr(args, "optimizer", None)
    if getattr(args, "table_lr_scale", None) and optimizer not in (None, *SCALE_FREE):
        raise ValueError(
            "--table-lr-scale needs an optimizer whose steps depend neither on the size of the "
            f"gradient nor on that of the parameter, but --optimizer is {optimizer}; choose one of "
            f"{', '.join(SCALE_FREE)}, or leave it out"
        )


def _check_sparse(args):
    optimizer = getattr(args, "optimizer", None)  # None when a model is made to decode
    if optimizer not in (None, "row_adam"):
        raise ValueError(
            "--sparse-gradients needs an optimizer that reads the rows of a batch alone, but "
            f"--optimizer is {optimizer}; give --optimizer row_adam"
        )
    if _is_set(args, "table_ema"):
        raise ValueError(
            f"--table-ema {args.table_ema} moves every row in each update, but --sparse-gradients "
            "is there so that only the rows of a batch are visited; leave one of them out"
        )
    if (getattr(args, "ddp_backend", None) or "pytorch_ddp") not in ("pytorch_ddp", "c10d"):
        raise ValueError(
            f"--ddp-backend {args.ddp_backend} sums gradients in one dense buffer, but those of "
            "--sparse-gradients are sparse; give --ddp-backend pytorch_ddp"
        )
    if getattr(args, "amp", False):
        raise ValueError(
            "--amp looks for overflows in dense gradients, but those of --sparse-gradients are "
            "sparse; give --memory-efficient-fp16 with --fp16, or leave --sparse-gradients out"
        )
    for half in ("fp16", "bf16"):
        if getattr(args, half, False) and not getattr(args, f"memory_efficient_{half}", False):
            raise ValueError(
                f"with --{half} fairseq keeps all parameters in one flat copy, which has no sparse "
                f"gradients; give --memory-efficient-{half}, or leave --sparse-gradients out"
            )


def _check_ranges(args):
    rules = {
        "table_dim": (lambda value: value >= 1, "1 or more"),
        "input_words": (lambda value: value >= 5, "5 (the special symbols and a word) or more"),
        "table_lr_scale": (lambda value: 0 < value < math.inf, "greater than 0 and finite"),
        "initial_length": (lambda value: 0 < value < math.inf, "greater than 0 and finite"),
        "output_mlp_dim": (lambda value: value >= 0, "0 (no hidden layer) or more"),
        "output_dropout": (lambda value: 0 <= value < 1, "0 or more and less than 1"),
        "lexical_alone": (lambda value: 0 <= value < 1, "0 or more and less than 1"),
    }
    for option, (kept, rule) in rules.items():
        value = getattr(args, option, None)
        if value is not None and not kept(value):
            raise ValueError(f"--{option.replace('_', '-')} must be {rule}, but is {value}")
