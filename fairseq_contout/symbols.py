"""What a target table must know of a fairseq dictionary: its identity, and what may be emitted."""

import hashlib
import re

import torch
from torch import Tensor

#: fairseq's special symbols, rows 0 to 3 of every table.
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


#: What fairseq's task masked_lm adds to the end of a dictionary: read, never emitted.
MASK = "<mask>"


def has_mask(dictionary) -> bool:
    """Tell whether the last symbol of a dictionary is the ``<mask>`` of a masked language model."""
    return dictionary.symbols[-1] == MASK


def dictionary_signature(dictionary) -> str:
    """Return the SHA-256 (hex) of a fairseq dictionary's symbols in the order of their indices.

    A ``<mask>`` at the end is left out: a table serves a dictionary with it and without.
    """
    symbols = dictionary.symbols[:-1] if has_mask(dictionary) else dictionary.symbols
    return hashlib.sha256("\n".join(symbols).encode("utf-8")).hexdigest()


def signature_words(dictionary) -> Tensor:
    """Return the signature as numbers that can be part of a model's state, ``(16,)`` float64."""
    # Averages of checkpoints and --store-ema compute with every tensor, in float32 at worst: words
    # of 16 bits come out of that as they went in, once they are rounded.
    digest = bytes.fromhex(dictionary_signature(dictionary))
    words = [int.from_bytes(digest[i : i + 2], "big") for i in range(0, 32, 2)]
    return torch.tensor(words, dtype=torch.float64)


def signature_hex(words: Tensor) -> str:
    """Return the signature that :func:`signature_words` made numbers of."""
    return b"".join(round(word).to_bytes(2, "big") for word in words.tolist()).hex()


def without_beginning(target: Tensor, dictionary) -> Tensor:
    """Put padding where a target is ``<s>``, which no model may emit: ``(B, T)`` → ``(B, T)``."""
    return target.masked_fill(target.eq(dictionary.bos()), dictionary.pad())


def emittable_rows(dictionary) -> Tensor:
    """Tell which symbols a model may emit.

    All but ``<s>``, ``<pad>``, a ``<mask>`` at the end, and fairseq's padding words: fairseq pads
    a dictionary to a multiple of 8 with ``madeupword0000`` … of count 0.

    Returns:
        bool ``(V,)``.
    """
    allowed = torch.ones(len(dictionary), dtype=torch.bool)
    allowed[[dictionary.bos(), dictionary.pad()]] = False
    allowed[-1] = not has_mask(dictionary)
    for index, (symbol, count) in enumerate(zip(dictionary.symbols, dictionary.count)):
        if count == 0 and re.fullmatch(r"madeupword\d{4}", symbol):
            allowed[index] = False
    return allowed
