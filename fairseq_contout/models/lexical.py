"""A shortcut from source words to predictions: what a word is translated with when it is rare.

Where source embeddings and target rows are of one bilingual space, the row of a word's translation
is near the word's own vector. The decoder learns its way from the one to the other for the words
of its training; the shortcut is there for all words, also those whose translation was never a
target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LexicalShortcut(nn.Module):
    """Adds the source embeddings that a decoder attends to, mapped to the table's space.

    h' = b h + U Σ_j α_j e(x_j) / ‖e(x_j)‖

    with α the attention of the decoder's last layer to the source, the mean of its heads. U begins
    as √d times the identity, so that both terms are of one length at first. b is 1; in training it
    is 0 for a share of the target tokens, so that the second term learns to translate by itself.

    Source: Toan Q. Nguyen and David Chiang (2018), Improving Lexical Choice in Neural Machine
    Translation, NAACL, https://arxiv.org/abs/1710.01329 (there with a hidden layer, a bias for each
    word, and a softmax).

    Args:
        embed_dim: dimension of the source embeddings.
        dim: d, the dimension of predictions.
        alone: share of the tokens whose b is 0 in training, 0 ≤ x < 1.
    """

    def __init__(self, embed_dim: int, dim: int, alone: float = 0.0):
        super().__init__()
        self.projection = nn.Linear(embed_dim, dim, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(dim**0.5 * torch.eye(dim, embed_dim))
        self.alone = alone

    def forward(self, predicted: Tensor, attention: Tensor, source: Tensor) -> Tensor:
        """Return predictions with the shortcut, ``(B, T, d)``.

        Args:
            predicted: h, ``(B, T, d)``.
            attention: α, ``(B, T, S)``.
            source: e(x), at any scale, ``(B, S, embed_dim)``.
        """
        # in float32: the sum of squares of scaled embeddings may not fit into float16
        words = F.normalize(source.float(), dim=-1).to(predicted.dtype)
        if self.training and self.alone > 0:
            kept = torch.rand(predicted.shape[:-1], device=predicted.device) >= self.alone
            predicted = predicted * kept.unsqueeze(-1).to(predicted.dtype)
        return predicted + self.projection(torch.bmm(attention.to(words.dtype), words))


class WithLexicalShortcut:
    """Mixin that gives fairseq's Transformer decoder a :class:`LexicalShortcut`: ``lexical``."""

    def forward(self, prev_output_tokens, encoder_out=None, *args, features_only=False, **kwargs):
        hidden, extra = super().forward(
            prev_output_tokens, encoder_out, *args, features_only=features_only, **kwargs
        )
        lexical = getattr(self, "lexical", None)
        if features_only or lexical is None:
            return hidden, extra
        source = encoder_out["encoder_embedding"][0]
        return lexical(hidden, extra["attn"][0], source), extra


def attach_lexical(args, model):
    """Give a model's decoder the shortcut, where ``--lexical-shortcut`` asks for it.

    Raises:
        ValueError: the decoder does not attend to the source.
    """
    if not getattr(args, "lexical_shortcut", None):
        return
    if getattr(args, "no_cross_attention", False):
        raise ValueError(
            "--lexical-shortcut adds the source words that the decoder attends to, but with "
            "--no-cross-attention it attends to none; leave one of them out"
        )
    decoder = model.decoder
    decoder.lexical = LexicalShortcut(
        model.encoder.embed_tokens.embedding_dim,
        decoder.continuous_output.table.dim,
        getattr(args, "lexical_alone", None) or 0.0,
    )


def add_lexical_args(parser):
    """Add the options of the shortcut to a translation model's parser."""
    parser.add_argument(
        "--lexical-shortcut",
        action="store_true",
        help="add the source embeddings that the decoder's last layer attends to to its "
        "predictions, through a linear map: for rare and new words, with --encoder-embed-path of "
        "the target table's space",
    )
    parser.add_argument(
        "--lexical-alone",
        type=float,
        metavar="P",
        help="share of the tokens that the shortcut predicts alone in training, 0 <= x < 1",
    )
