"""The continuous output, written once: what turns a fairseq decoder's softmax into a vector.

:class:`ContinuousOutput` is the layer (projection and table), :class:`ContinuousDecoder` a mixin
that puts it on top of any fairseq decoder, :func:`add_continuous_args` and
:func:`build_continuous_output` are what a model class calls.
"""

import torch
from fairseq.criterions import CRITERION_REGISTRY
from torch import Tensor, nn

from fairseq_contout.criterions.base import ContinuousCriterion
from fairseq_contout.scores import DEFAULT_SCALE, check_score
from fairseq_contout.target_table import TargetTable, load_table


def add_continuous_args(parser):
    """Add the options of the continuous output to a model's parser."""
    # no defaults: fairseq's architecture functions and old checkpoints fill in what is unset
    parser.add_argument(
        "--target-table",
        metavar="FILE",
        help="target table (safetensors, made by preprocess/build_table.py for the target "
        "dictionary); needed to start a training, never to decode: it is in the checkpoint",
    )
    parser.add_argument(
        "--decoder-input",
        choices=["separate", "encoder", "table"],
        help="embeddings that the decoder reads: learned ones of its own (separate, the default), "
        "those of the encoder (encoder; needs a joined dictionary), or the frozen rows of the "
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


def check_sharing(args):
    """Refuse fairseq's flags that tie the output to a learned embedding.

    Raises:
        ValueError: one of the flags is set.
    """
    for flag in ("share_all_embeddings", "share_decoder_input_output_embed"):
        if getattr(args, flag, False):
            raise ValueError(
                f"--{flag.replace('_', '-')} ties the output layer to embeddings that are learned, "
                "but a target table is frozen; leave it out, or let the decoder read the table "
                "through a projection with --decoder-input table"
            )


def build_table(args, dictionary) -> TargetTable:
    """Make the target table of a model: from its file to train, empty to load a checkpoint into.

    The dimension is written into ``args``, which fairseq saves with the checkpoint, so that the
    file is needed at the start of a training alone.

    Raises:
        ValueError: no ``--target-table``, or one that does not fit.
    """
    args.score = _resolve_score(args)
    scale = getattr(args, "scale", None)
    built = getattr(args, "built_table", None)  # (file, dimension), when from a checkpoint
    path = getattr(args, "target_table", None)
    if built is not None:
        file, dim = built
        if path != file:
            raise ValueError(
                f"the checkpoint holds the table of {file}, and --model-overrides asks for {path}: "
                "a model decodes with the table it was trained with; drop target_table from the "
                "overrides"
            )
        return TargetTable(torch.zeros(len(dictionary), dim), dictionary, args.score, scale)
    if not path:
        raise ValueError(
            "--target-table must name the table to predict, but is not set; make one with "
            "preprocess/build_table.py --dictionary DATA/dict.<lang>.txt --output FILE"
        )
    table = TargetTable(load_table(path, dictionary), dictionary, args.score, scale)
    args.built_table = [path, table.dim]
    return table


class ContinuousOutput(nn.Module):
    """A decoder's last layer: features ``(…, f)`` → predictions h ``(…, d)``, and the table.

    Its cost is f × d per token, whatever the size of the vocabulary.

    Args:
        feature_dim: f, the dimension of the decoder's features.
        table: the target table.
    """

    def __init__(self, feature_dim: int, table: TargetTable):
        super().__init__()
        self.projection = nn.Linear(feature_dim, table.dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.table = table

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(features)


class TableEmbedding(nn.Module):
    """Decoder input tied to the table: frozen rows through a learned projection.

    E_in(w) = P e_w. Token indices ``(B, T)`` → ``(B, T, embed_dim)``.

    Source: ``tie_emb`` of Kumar and Tsvetkov (2019), https://arxiv.org/abs/1812.04616
    """

    def __init__(self, table: TargetTable, embed_dim: int, padding_idx: int):
        super().__init__()
        # a list hides the table from state_dict: it is there once already, with the output
        self._table = [table]
        self.embedding_dim = embed_dim
        self.padding_idx = padding_idx
        self.projection = nn.Linear(table.dim, embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=embed_dim**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self._table[0].weight[tokens].to(self.projection.weight.dtype)
        return self.projection(rows).masked_fill(tokens.eq(self.padding_idx).unsqueeze(-1), 0)


def tie_decoder_input(args, model, table: TargetTable):
    """Replace the decoder's embeddings as ``--decoder-input`` says.

    Raises:
        ValueError: the encoder's embeddings are asked for and do not fit.
    """
    choice = getattr(args, "decoder_input", None) or "separate"
    own = model.decoder.embed_tokens
    if choice == "table":
        model.decoder.embed_tokens = TableEmbedding(table, own.embedding_dim, own.padding_idx)
    elif choice == "encoder":
        encoder = model.encoder
        if encoder.dictionary != model.decoder.dictionary or (
            encoder.embed_tokens.embedding_dim != own.embedding_dim
        ):
            raise ValueError(
                "--decoder-input encoder needs one dictionary and one embedding dimension on both "
                f"sides, but there are {len(encoder.dictionary)} and "
                f"{len(model.decoder.dictionary)} symbols and dimensions "
                f"{encoder.embed_tokens.embedding_dim} and {own.embedding_dim}; run "
                "fairseq-preprocess with --joined-dictionary, or take --decoder-input separate"
            )
        model.decoder.embed_tokens = encoder.embed_tokens


class ContinuousDecoder:
    """Mixin that gives any fairseq decoder a continuous output: put it before the decoder's class.

    ``forward`` returns predictions h ``(B, T, d)``. In incremental generation it returns
    ``(B, T, d + 1)``: fairseq's generator divides a decoder's output by ``--temperature`` before
    it asks for probabilities, which would only shorten a vector. A last coordinate of 1 goes
    through the same division and tells :meth:`get_normalized_probs` what to divide the logits by.
    """

    def attach(self, output: ContinuousOutput):
        """Put the output on top of the decoder, in place of any softmax layer."""
        for name in ("output_projection", "fc_out", "adaptive_softmax"):
            if getattr(self, name, None) is not None:
                delattr(self, name)
                setattr(self, name, None)
        self.continuous_output = output

    def forward(self, *args, incremental_state=None, **kwargs):
        hidden, extra = super().forward(*args, incremental_state=incremental_state, **kwargs)
        if incremental_state is not None and not kwargs.get("features_only", False):
            hidden = torch.cat((hidden, hidden.new_ones(hidden.shape[:-1] + (1,))), dim=-1)
        return hidden, extra

    def output_layer(self, features: Tensor, **kwargs) -> Tensor:
        """Predict vectors: features ``(B, T, f)`` → ``(B, T, d)``."""
        return self.continuous_output(features)

    def split_temperature(self, predictions: Tensor):
        """Undo the generator's division: returns h ``(N, d)`` and the temperature ``(N, 1)``."""
        flat = predictions.reshape(-1, predictions.size(-1))
        if flat.size(1) == self.continuous_output.table.dim:
            return flat, 1.0
        inverse = flat[:, -1:].float()
        return flat[:, :-1].float() / inverse, 1 / inverse

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """Return (log-)probabilities over the whole dictionary, ``(B, T, V)``, in float32."""
        hidden, temperature = self.split_temperature(net_output[0])
        scored = self.continuous_output.table.log_probs(hidden, temperature)
        scored = scored.view(*net_output[0].shape[:-1], -1)
        return scored if log_probs else scored.exp()

    def upgrade_state_dict_named(self, state_dict, name):
        """Drop the softmax layer that fairseq would add to a state dict with tied embeddings."""
        state_dict = super().upgrade_state_dict_named(state_dict, name)
        state_dict.pop(f"{name}.output_projection.weight", None)
        return state_dict
