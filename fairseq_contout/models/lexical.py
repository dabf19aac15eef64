"""A shortcut from source words to predictions: what a word is translated with when it is rare.

Where source embeddings and target rows are of one bilingual space, the row of a word's translation
is near the word's own vector. The decoder learns its way from the one to the other for the words
of its training; the shortcut is there for all words, also those whose translation was never a
target.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LexicalShortcut(nn.Module):
    """Adds source embeddings that an attention of its own picks, mapped to the table's space.

    h' = b h + U Σ_j α_j e(x_j) / ‖e(x_j)‖,    α = softmax_j((Q y) · (K z_j) / √f)

    with y the decoder's features and z_j what the encoder makes of word j. U begins as the
    identity times the first length of h, so that both terms are of one length. b is 1; in training
    it is 0 for a share of the target tokens, so that the second term learns to translate by itself,
    and α to align.

    Source: Toan Q. Nguyen and David Chiang (2018), Improving Lexical Choice in Neural Machine
    Translation, NAACL, https://arxiv.org/abs/1710.01329 (there with the decoder's attention, a
    hidden layer, a bias for each word, and a softmax).

    Args:
        feature_dim: f, the dimension of the decoder's features.
        encoder_dim: dimension of the encoder's output.
        embed_dim: dimension of the source embeddings.
        dim: d, the dimension of predictions.
        alone: share of the tokens whose b is 0 in training, 0 ≤ x < 1.
        length: ‖h‖ before training; √d by default.
    """

    def __init__(
        self,
        feature_dim: int,
        encoder_dim: int,
        embed_dim: int,
        dim: int,
        alone: float = 0.0,
        length: Optional[float] = None,
    ):
        super().__init__()
        self.query = nn.Linear(feature_dim, feature_dim)
        self.key = nn.Linear(encoder_dim, feature_dim)
        self.projection = nn.Linear(embed_dim, dim)
        with torch.no_grad():
            self.projection.weight.copy_((length or dim**0.5) * torch.eye(dim, embed_dim))
            self.projection.bias.zero_()
        self.alone = alone

    def attention(self, features: Tensor, encoded: Tensor, padding: Optional[Tensor]) -> Tensor:
        """Return α, ``(B, T, S)``, of which padding ``(B, S)`` has nothing."""
        weights = self.query(features) @ self.key(encoded).transpose(1, 2)
        weights = weights.float() / features.size(-1) ** 0.5
        if padding is not None:
            weights = weights.masked_fill(padding.unsqueeze(1), -torch.inf)
        return weights.softmax(dim=-1).to(features.dtype)

    def forward(
        self,
        predicted: Tensor,
        features: Tensor,
        encoded: Tensor,
        source: Tensor,
        padding: Optional[Tensor] = None,
    ) -> Tensor:
        """Return predictions with the shortcut, ``(B, T, d)``.

        Args:
            predicted: h, ``(B, T, d)``.
            features: y, ``(B, T, f)``.
            encoded: z, ``(B, S, encoder_dim)``.
            source: e(x), at any scale, ``(B, S, embed_dim)``.
            padding: whether a source token is padding, ``(B, S)``.
        """
        # in float32: the sum of squares of scaled embeddings may not fit into float16
        words = F.normalize(source.float(), dim=-1).to(predicted.dtype)
        if self.training and self.alone > 0:
            kept = torch.rand(predicted.shape[:-1], device=predicted.device) >= self.alone
            predicted = predicted * kept.unsqueeze(-1).to(predicted.dtype)
        mixed = torch.bmm(self.attention(features, encoded, padding), words)
        return predicted + self.projection(mixed)


class WithLexicalShortcut:
    """Mixin that gives fairseq's Transformer decoder a :class:`LexicalShortcut`: ``lexical``."""

    def forward(self, prev_output_tokens, encoder_out=None, *args, features_only=False, **kwargs):
        lexical = getattr(self, "lexical", None)
        hidden, extra = super().forward(
            prev_output_tokens,
            encoder_out,
            *args,
            features_only=features_only or lexical is not None,
            **kwargs,
        )
        if features_only or lexical is None:
            return hidden, extra
        padding = encoder_out["encoder_padding_mask"]
        predicted = lexical(
            self.output_layer(hidden),
            hidden,
            encoder_out["encoder_out"][0].transpose(0, 1),
            encoder_out["encoder_embedding"][0],
            padding[0] if len(padding) else None,
        )
        return predicted, extra


def attach_lexical(args, model):
    """Give a model's decoder the shortcut, where ``--lexical-shortcut`` asks for it.

    Raises:
        ValueError: the decoder does not attend to the source.
    """
    if not getattr(args, "lexical_shortcut", None):
        return
    if getattr(args, "no_cross_attention", False):
        raise ValueError(
            "--lexical-shortcut adds source words to the predictions of a decoder that attends to "
            "them, but with --no-cross-attention it does not; leave one of them out"
        )
    decoder, embed_dim = model.decoder, model.encoder.embed_tokens.embedding_dim
    decoder.lexical = LexicalShortcut(
        decoder.output_embed_dim,
        embed_dim,  # of which the encoder's layers are, too
        embed_dim,
        decoder.continuous_output.table.dim,
        getattr(args, "lexical_alone", None) or 0.0,
        decoder.continuous_output.initial_length,
    )


def add_lexical_args(parser):
    """Add the options of the shortcut to a translation model's parser."""
    parser.add_argument(
        "--lexical-shortcut",
        action="store_true",
        help="add source embeddings, picked by an attention of their own, to the decoder's "
        "predictions, through a linear map: for rare and new words, with --encoder-embed-path of "
        "the target table's space",
    )
    parser.add_argument(
        "--lexical-alone",
        type=float,
        metavar="P",
        help="share of the tokens that the shortcut predicts alone in training, 0 <= x < 1",
    )
