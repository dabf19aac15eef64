"""Another target table in a trained model: more words, or others, without training.

A decoder with a continuous output points into a space; which words stand in it may change. What
the model learned stays: its layers, the calibrated scale, and the rows of the special symbols, at
which it learned to point for the end of a sentence. With a unigram prior words keep their counts.
"""

import logging
from typing import Tuple

import torch
from torch import Tensor, nn

from fairseq_contout.kept_table import KeptTable
from fairseq_contout.messages import some
from fairseq_contout.models.continuous_output import TableEmbedding
from fairseq_contout.target_table import TargetTable, emittable_rows

logger = logging.getLogger(__name__)


class RenumberedEmbedding(nn.Module):
    """An embedding that is read by the indices of another dictionary: ``(…)`` → ``(…, dim)``.

    E_new(w) = E(index_w).

    Args:
        embedding: the embedding E.
        index: for each symbol of the new dictionary that of the embedding's, ``(V,)``.
    """

    def __init__(self, embedding: nn.Module, index: Tensor):
        super().__init__()
        self.embedding = embedding
        self.embedding_dim, self.padding_idx = embedding.embedding_dim, embedding.padding_idx
        self.register_buffer("index", index, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(self.index[tokens])


def match_symbols(symbols, dictionary) -> Tuple[Tensor, Tensor]:
    """Return the index of each symbol in a dictionary, that of ``<unk>`` where it has none.

    Returns:
        indices ``(V,)``, and whether the dictionary has the symbol, bool ``(V,)``.
    """
    index = torch.tensor([dictionary.index(symbol) for symbol in symbols])
    return index, torch.tensor([symbol in dictionary for symbol in symbols])


def exchange_table(model, weight: Tensor, trained, dictionary, *, new_as_unk: bool = False):
    """Put another target table into a model, in place of that which it was trained with.

    The rows of words are the new ones, those of the special symbols are the trained ones, and so
    are the score and the scale. What the decoder reads follows:

    ======================  ==================================================================
    decoder input           a word that training did not have
    ======================  ==================================================================
    ``table``               P e_w: its row through the trained projection
    tied to a learned one   e_w · mean_u ‖E_u‖, u the trained words: as long as those are
    others                  has no vector: an error, or ``<unk>``'s
    ======================  ==================================================================

    Args:
        model: an encoder-decoder model with a continuous output, its weights loaded.
        weight: unit-norm rows ``(V, d)``, aligned with ``dictionary``; its first rows are changed.
        trained: the target dictionary of the training.
        dictionary: that of the rows.
        new_as_unk: whether a word without a vector is read as ``<unk>``.

    Raises:
        ValueError: no continuous output, another dimension, or words that the decoder cannot read.
    """
    output = getattr(getattr(model, "decoder", None), "continuous_output", None)
    if output is None:
        raise ValueError(
            f"--new-table needs a model that predicts embeddings, but {type(model).__name__} ends "
            "in a softmax over the words of its training; leave --new-table out"
        )
    old = output.table
    if weight.size(1) != old.dim:
        raise ValueError(
            f"--new-table must have rows of the dimension that the model predicts, {old.dim}, but "
            f"they have {weight.size(1)}; make it in the space of the table of the training"
        )
    index, known = match_symbols(dictionary.symbols, trained)
    special = torch.arange(old.num_specials)
    weight[special] = old.rows(special.to(old.weight.device)).detach().to(weight)
    reader = _new_reader(model.decoder.embed_tokens, old, weight, index, known, dictionary)
    if isinstance(reader, RenumberedEmbedding) and not new_as_unk:
        _check_readable(known, dictionary)
    _tell(old, weight, index, known, trained, dictionary)
    table = _table_like(old, weight, dictionary)
    if old.prior is not None:
        table.add_prior(old.prior.kind)
        counts = old.prior.counts[index.to(old.prior.counts.device)]
        table.prior.counts = counts.masked_fill(~known.to(counts.device), 0)
    table.calibration.load(old.calibration.state())
    if isinstance(reader, TableEmbedding):
        reader.read_from(table)
    table.new_words = ~known & emittable_rows(dictionary)
    output.table = table
    model.decoder.embed_tokens = reader
    model.decoder.dictionary = dictionary


def _table_like(old: TargetTable, weight: Tensor, dictionary) -> TargetTable:
    dtype = torch.float32 if old.learned else old.weight.dtype
    if isinstance(old, KeptTable):
        place = old.emittable.device  # that of the model, where the rows need not be
        kept = KeptTable(
            weight.to(dtype), dictionary, old.score, old.fixed_scale, on_cpu=old.on_cpu
        )
        table = kept.to(place)
    else:
        table = TargetTable(weight.to(dtype), dictionary, old.score, old.fixed_scale)
        table.to(old.weight.device)
    return table


def _new_reader(reader: nn.Module, old, weight: Tensor, index: Tensor, known, dictionary):
    if isinstance(reader, TableEmbedding):
        return reader
    if not (old.learned and reader.weight is old.weight):
        return RenumberedEmbedding(reader, index.to(reader.weight.device))
    with torch.no_grad():
        words = old.emittable.nonzero().flatten()
        length = reader.weight[words[words >= old.num_specials]].norm(dim=1).mean()
        vectors = reader.weight[index.to(reader.weight.device)]
        new = ~known.to(vectors.device)
        vectors[new] = length * weight.to(vectors)[new]
    return type(reader).from_pretrained(vectors, padding_idx=dictionary.pad())  # or of norm 1


def _check_readable(known: Tensor, dictionary):
    lacking = (~known & emittable_rows(dictionary)).nonzero().flatten().tolist()
    if lacking:
        raise ValueError(
            f"--new-table has {len(lacking)} words that the decoder's own embeddings do not have "
            f"({some(dictionary[i] for i in lacking)}), so it could not read what it wrote; train "
            "with --decoder-input table, or have them read as <unk> with --new-words-as-unk"
        )


def _tell(old: TargetTable, weight: Tensor, index: Tensor, known: Tensor, trained, dictionary):
    words, before = emittable_rows(dictionary), emittable_rows(trained)
    words[: old.num_specials] = before[: old.num_specials] = False
    shared = known & words & before[index]
    likeness = "none is in both, so that nothing tells whether they are of one space"
    if shared.any():
        rows = old.rows(index[shared].to(old.weight.device)).detach().to("cpu", torch.float32)
        cosine = float((rows * weight[shared].float()).sum(dim=1).mean())
        likeness = f"cosine of the rows of the others, then and now: {cosine:.4f}"
    logger.info(
        f"new target table: {int((words & ~known).sum())} words that training did not have, "
        f"{int(before.sum() - shared.sum())} of training's {int(before.sum())} left out; {likeness}"
    )
