"""Input embeddings of fewer words than the dictionary has: the others are read as ``<unk>``.

What a model reads and what it predicts are two sizes: the target table has a row for every word of
the dictionary, which costs nothing in training, and the input an embedding for the frequent ones.
So a word that the input does not know still is a target.
"""

import torch
from torch import Tensor, nn

from fairseq_contout.symbols import has_mask


class ShortlistEmbedding(nn.Embedding):
    """Embedding of the first n symbols of a dictionary, and of a ``<mask>`` at its end.

    Token indices ``(…)`` → ``(…, dim)``; a token ≥ n is read as ``<unk>``.

    Args:
        dictionary: the fairseq dictionary, ordered by frequency as fairseq's are.
        words: n, special symbols included.
        dim: dimension of the vectors.
    """

    def __init__(self, dictionary, words: int, dim: int):
        # the row after those of the words is that of <mask>
        super().__init__(words + has_mask(dictionary), dim, dictionary.pad())
        self.words, self.unknown = words, dictionary.unk()
        self.mask = len(dictionary) - 1 if has_mask(dictionary) else None

    def forward(self, tokens: Tensor) -> Tensor:
        read = tokens.masked_fill(tokens.ge(self.words), self.unknown)
        if self.mask is not None:
            read = read.masked_fill(tokens.eq(self.mask), self.words)
        return super().forward(read)


def add_input_args(parser):
    """Add the options of the input of a language model to its parser."""
    parser.add_argument(
        "--input-words",
        type=int,
        metavar="N",
        help="read only the first N symbols of the dictionary, its most frequent; others are read "
        "as <unk>, but predicted as themselves; by default all are read",
    )


def read_fewer_words(args, dictionary, reader):
    """Replace the ``embed_tokens`` of a module as ``--input-words`` says.

    Raises:
        ValueError: the embeddings are tied to those of all words.
    """
    words = getattr(args, "input_words", None)
    if not words or words >= len(dictionary) - has_mask(dictionary):
        return
    if getattr(args, "share_decoder_input_output_embed", False):
        raise ValueError(
            f"--input-words {words} embeds fewer words than the {len(dictionary)} that are "
            "predicted, so the two cannot be tied; leave the sharing out, or --input-words"
        )
    if getattr(args, "decoder_input", None) == "table":
        raise ValueError(
            f"--input-words {words} embeds some words alone, but --decoder-input table reads rows "
            "of the target table, which has all; leave one of them out"
        )
    whole = reader.embed_tokens.weight
    reader.embed_tokens = ShortlistEmbedding(dictionary, words, whole.size(1))
    with torch.no_grad():  # as they were initialised, or read from a file
        reader.embed_tokens.weight[:words] = whole[:words]
        if has_mask(dictionary):
            reader.embed_tokens.weight[-1] = whole[-1]
