"""The continuous output of a model and its target table, made from the model's options."""

from pathlib import Path

import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models.lstm import LSTMDecoder
from torch import nn

from fairseq_contout.criterions.base import TASK_MARK, ContinuousCriterion
from fairseq_contout.kept_table import KeptTable, fingerprint
from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.models.continuous_output import ContinuousOutput, tie_decoder_input
from fairseq_contout.models.fix_norm import fix_norms
from fairseq_contout.models.freezing import freeze_parts
from fairseq_contout.models.lexical import attach_lexical
from fairseq_contout.models.option_checks import is_tied
from fairseq_contout.models.options import FROZEN_OPTIONS, LEARNED, TABLE_DTYPES
from fairseq_contout.optim import mark_sparse
from fairseq_contout.scores import check_score
from fairseq_contout.target_table import TargetTable, load_table, normalize_rows


def _criterion_of(args):
    """Return the class of the criterion that a model is trained with, None if there is none.

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
    return kind


def _resolve_score(args) -> str:
    """Return the score of a model: its own option, else that of the criterion."""
    kind, score = _criterion_of(args), getattr(args, "score", None)
    if score is None:
        score = kind.score if kind is not None else "cosine"
    return check_score(score)


def _initial_length(args, reader, dim: int):
    """Return the length that predictions begin with: the option, else what suits the criterion."""
    kind, length = _criterion_of(args), getattr(args, "initial_length", None)
    if length is not None or kind is None:
        return length
    # a LayerNorm says the length itself, and an LSTM's features are short: Xavier's initialisation
    # makes predictions of 1 (d = 64) to 2 (d = 512) of them
    if getattr(args, "output_layer_norm", None) or isinstance(reader, LSTMDecoder):
        return None
    return kind.initial_length(dim)


def build_output(args, task, model, feature_dim: int, reader=None) -> ContinuousOutput:
    """Make the continuous output that a model's options ask for, with its target table.

    Args:
        args: the model's options.
        task: the task, whose target dictionary the rows belong to.
        model: fairseq's model.
        feature_dim: dimension of the decoder's features.
        reader: the module whose ``embed_tokens`` a tied table is; the model's decoder by default.

    Raises:
        ValueError: no ``--target-table``, or one that does not fit.
    """
    reader = model.decoder if reader is None else reader
    table = build_table(args, task, reader.embed_tokens, feature_dim)
    prior = getattr(args, "unigram_prior", None)
    if prior:
        table.add_prior("counts" if prior is True else prior)  # True: checkpoints of before kinds
    if getattr(args, "table_lr_scale", None):
        _scale_learning_rate(args, model, reader, table)
    if getattr(args, "sparse_gradients", None):
        _use_sparse_gradients(model, table)
    fix_norms(args, model, reader)
    return ContinuousOutput(
        feature_dim,
        table,
        mlp_dim=getattr(args, "output_mlp_dim", None) or 0,
        layer_norm=getattr(args, "output_layer_norm", None) or False,
        dropout=getattr(args, "output_dropout", None) or 0.0,
        initial_length=_initial_length(args, reader, table.dim),
    )


def attach_output(args, task, model, feature_dim: int, kind=None):
    """Give a model's decoder the continuous output and the input that the options ask for.

    Args:
        args: the model's options.
        task: the task, whose target dictionary the rows belong to.
        model: fairseq's model.
        feature_dim: dimension of the decoder's features.
        kind: the decoder's class from now on, where fairseq makes decoders without a hook.

    Raises:
        ValueError: a table, criterion or input that does not fit.
    """
    output = build_output(args, task, model, feature_dim)
    if kind is not None:
        model.decoder.__class__ = kind
    model.decoder.attach(output)
    tie_decoder_input(args, model, output.table)
    attach_lexical(args, model)
    freeze_parts(args, model)


def _use_sparse_gradients(model, table: TargetTable):
    # before embeddings are tied: those of the encoder, and the table, serve the decoder then, too
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.split(".")[-1] == "embed_tokens":
            module.sparse = True
            mark_sparse(module.weight)
    if table.learned:
        table.sparse = True
        mark_sparse(table.weight)


def _scale_learning_rate(args, model, reader, table: LearnedTable):
    # A row is a direction, so that a step of a given length turns a shorter parameter further. Who
    # reads the parameter as an embedding multiplies it by embed_scale, which makes up for that.
    readers = []
    if is_tied(args) and not getattr(args, "fix_norm", None):  # who reads directions has them
        readers = [reader]
        if getattr(args, "share_all_embeddings", False):
            readers.append(model.encoder)
        if not all(hasattr(reader, "embed_scale") for reader in readers):
            raise ValueError(
                "--table-lr-scale with a tied table needs a model that scales its embeddings, as a "
                f"Transformer, but this is {type(model).__name__}; leave the --share-… flag out"
            )
    for reader in readers:
        reader.embed_scale *= args.table_lr_scale
    with torch.no_grad():
        table.weight.div_(args.table_lr_scale)
        if table.ema is not None:
            table.average.div_(args.table_lr_scale)


def forget_vectors(args):
    """Forget the files of ``--encoder-embed-path`` and ``--decoder-embed-path`` of a checkpoint.

    Its embeddings are in it; fairseq would read the files once more, which may be gone by then.
    """
    if getattr(args, "built_table", None) is not None:
        args.encoder_embed_path = args.decoder_embed_path = None


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
    storage = _frozen_option(args, "table_storage")
    in_file = storage == "file"
    before = getattr(args, "built_storage", None) or "checkpoint"
    if built is not None and path != LEARNED and storage != before:
        raise ValueError(
            f"the model was trained with --table-storage {before}, which says what its checkpoint "
            f"holds, but --model-overrides asks for {storage}; drop table_storage from them"
        )
    if built is not None and path != built[0] and not in_file:
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
    elif built is not None and not in_file:
        weight, mark = torch.zeros(len(dictionary), built[1]), None
    else:
        weight = _file_rows(path, dictionary, built)
        mark = fingerprint(weight) if in_file else None  # before any change of their type
    args.built_table, args.built_storage = [path, weight.size(1)], storage
    setattr(task, TASK_MARK, "learned" if path == LEARNED else "frozen")
    if path != LEARNED:
        weight = weight.to(TABLE_DTYPES[_frozen_option(args, "table_dtype")])
        on_cpu = _frozen_option(args, "table_device") == "cpu"
        if not (in_file or on_cpu):
            return TargetTable(weight, dictionary, args.score, scale)
        return KeptTable(weight, dictionary, args.score, scale, in_file=mark, on_cpu=on_cpu)
    return LearnedTable(
        weight,
        dictionary,
        args.score,
        scale,
        stop_gradient=getattr(args, "stop_gradient_targets", None) or False,
        ema=getattr(args, "table_ema", None),
    )


def _frozen_option(args, name: str) -> str:
    return getattr(args, name, None) or FROZEN_OPTIONS[name]


def _file_rows(path, dictionary, built):
    if built is not None and not Path(path).is_file():
        raise ValueError(
            f"target table {path}: no such file, but the model was trained with --table-storage "
            "file, which keeps the rows there alone; give the file's place now with "
            f"--model-overrides \"{{'target_table': 'FILE'}}\""
        )
    return load_table(path, dictionary)


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
    if is_tied(args):
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
