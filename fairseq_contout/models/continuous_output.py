"""The continuous output, written once: what turns a fairseq decoder's softmax into a vector.

:class:`ContinuousOutput` is the layer (projection and table), :class:`ContinuousDecoder` a mixin
that puts it on top of any fairseq decoder. Options: ``options.py``; the table: ``build.py``.
"""

from typing import Optional

import torch
from fairseq.modules import LayerNorm
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor, nn

from fairseq_contout.scores import finite
from fairseq_contout.target_table import TargetTable


class ContinuousOutput(nn.Module):
    """A decoder's last layers: features x ``(…, f)`` → predictions h ``(…, d)``, and the table.

    h = dropout(LN(W ReLU(U x + b) + c)), of which the linear map to d alone is always there. The
    cost is that of these layers, whatever the size of the vocabulary.

    Args:
        feature_dim: f, the dimension of the decoder's features.
        table: the target table.
        mlp_dim: dimension of the hidden layer; 0 leaves U and the ReLU out.
        layer_norm: whether h is normalised.
        dropout: probability that a coordinate of h is dropped in training.
        initial_length: root mean square of ‖h‖ before training, for features whose coordinates
            have variance 1; by default Xavier's initialisation of W, about √d.
    """

    def __init__(
        self,
        feature_dim: int,
        table: TargetTable,
        *,
        mlp_dim: int = 0,
        layer_norm: bool = False,
        dropout: float = 0.0,
        initial_length: Optional[float] = None,
    ):
        super().__init__()
        self.hidden = _linear(feature_dim, mlp_dim) if mlp_dim else None
        self.projection = _linear(mlp_dim or feature_dim, table.dim)
        self.layer_norm = LayerNorm(table.dim) if layer_norm else None
        self.dropout = FairseqDropout(dropout, module_name=type(self).__name__)
        self.table = table
        self.initial_length = initial_length
        if initial_length is not None:
            self._begin_with_length(initial_length, feature_dim)

    def _begin_with_length(self, length: float, feature_dim: int):
        # E ‖W x‖² = d · inputs · Var(W) · E x_i². Of coordinates of variance 1, those of ReLU(U x)
        # have half of f · Var(U) = 2f / (f + m) as their mean square.
        weight = self.projection.weight
        square = 1.0
        if self.hidden is not None:
            square = feature_dim / (feature_dim + self.hidden.out_features)
        bound = length * (3 / (weight.numel() * square)) ** 0.5  # variance of U(-b, b): b² / 3
        nn.init.uniform_(weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        if self.hidden is not None:
            features = torch.relu(self.hidden(features))
        predicted = self.projection(features)
        if self.layer_norm is not None:
            predicted = self.layer_norm(predicted)
        return self.dropout(predicted)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class TableEmbedding(nn.Module):
    """Decoder input tied to the table: its rows through a learned projection.

    E_in(w) = P e_w. Token indices ``(B, T)`` → ``(B, T, embed_dim)``.

    Source: ``tie_emb`` of Kumar and Tsvetkov (2019), https://arxiv.org/abs/1812.04616
    """

    def __init__(self, table: TargetTable, embed_dim: int, padding_idx: int):
        super().__init__()
        self.read_from(table)
        self.embedding_dim = embed_dim
        self.padding_idx = padding_idx
        self.projection = nn.Linear(table.dim, embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=embed_dim**-0.5)

    def read_from(self, table: TargetTable):
        """Read the rows of a table of the same dimension."""
        # a list hides the table from state_dict: it is there once already, with the output
        self._table = [table]

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self._table[0].input_rows(tokens).to(self.projection.weight.dtype)
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
        """Undo the generator's division: returns h ``(N, d)`` and the temperature ``(N, 1)``.

        Raises:
            ValueError: predictions that are not finite.
        """
        flat = finite(predictions.reshape(-1, predictions.size(-1)))
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
