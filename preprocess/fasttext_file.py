"""fastText's binary models: checked before the library reads them, and asked for vectors.

The library loads a truncated file without a word (the missing part is zeros, or it never returns),
so the file's size is compared with what its header promises.
"""

import mmap
import os
import struct
from pathlib import Path

import numpy as np

from preprocess.common import describe

MAGIC = 793712314  # fastText's FASTTEXT_FILEFORMAT_MAGIC_INT32
_HEADER = struct.Struct("<ii12id3iqq")
_SUPERVISED = 3


def is_fasttext(path) -> bool:
    """Tell whether a file begins as a fastText model does."""
    with open(path, "rb") as file:
        return file.read(4) == struct.pack("<i", MAGIC)


def check_file(path):
    """Check that a file is a whole fastText model.

    Raises:
        ValueError: no fastText model, an unpacked archive is needed, or it is truncated.
        OSError: no such file.
    """
    path = Path(path)
    size = path.stat().st_size
    if not is_fasttext(path):
        raise ValueError(
            f"{path}: must be a fastText model (.bin), but does not begin like one; for text "
            "vectors use --source vectors, and unpack a .bin.gz first"
        )
    expected = _expected_size(path) if size >= _HEADER.size else _HEADER.size
    if expected is not None and size != expected:
        raise ValueError(
            f"{path}: a fastText model with this header has {expected} bytes, but the file has "
            f"{size}; fetch it again, or train it again with train_fasttext.py"
        )


def _expected_size(path):
    """Return the size of an unquantised model, or None (a quantised one cannot be checked)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        fields = _HEADER.unpack_from(data)
        dim, model, bucket = fields[2], fields[9], fields[10]
        size, words, labels, pruned = fields[15], fields[16], fields[17], fields[19]
        if not (dim > 0 and bucket >= 0 and 0 <= words <= size and 0 <= labels <= size):
            raise ValueError(
                f"{path}: a fastText model must say its dimension and number of words, but says "
                f"{dim} and {words}; fetch it again, or train it with train_fasttext.py"
            )
        position = _HEADER.size
        for _ in range(size):  # each entry: the word, a zero byte, its count (8), its type (1)
            end = data.find(b"\0", position)
            if end < 0:
                return len(data) + 1  # ends inside the words
            position = end + 10
        position += 8 * max(pruned, 0)
        if position >= len(data):
            return position + 1  # ends before the vectors
        if data[position]:
            return None  # quantised: rows of varying size
    rows = words + bucket + (labels if model == _SUPERVISED else words)
    return position + 2 * (1 + 16) + 4 * dim * rows


class FastTextModel:
    """Vectors of words and pieces from a ``.bin`` file.

    Source: Bojanowski, Grave, Joulin & Mikolov, *Enriching Word Vectors with Subword Information*,
    TACL 2017, https://aclanthology.org/Q17-1010.

    Raises:
        ValueError: see :func:`check_file`.
    """

    def __init__(self, path):
        import fasttext

        check_file(path)
        try:
            self.model = fasttext.load_model(str(path))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ValueError(f"{path}: not a readable fastText model: {describe(error)}") from error
        options = self.model.f.getArgs()
        self.path, self.dim = os.fspath(path), self.model.get_dimension()
        self.ngram_lengths = range(options.minn, options.maxn + 1)
        # a word that is no UTF-8 cannot be a symbol of a dictionary
        self.words = set(self.model.get_words(on_unicode_error="replace"))

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def vector(self, word: str) -> np.ndarray:
        """Return a word's vector ``(d,)``: the mean of its own row and those of its n-grams.

        A word outside the model's vocabulary has its n-grams alone; when it is too short to have
        any, the vector is zero.
        """
        return self.model.get_word_vector(word)

    def part_vector(self, text: str, open_start=False, open_end=False) -> np.ndarray:
        """Return the vector ``(d,)`` of a part of a word: the mean of its n-grams' rows.

        fastText writes a word as ``<word>`` before it takes n-grams; on the sides where the word
        goes on, the sign is left out, so no n-gram says that the word ends there.
        """
        closed = ("" if open_start else "<") + text + ("" if open_end else ">")
        ngrams = [
            closed[i : i + n]
            for n in self.ngram_lengths
            for i in range(len(closed) - n + 1)
            # as fastText: the signs alone are no n-grams
            if n > 0 and not (n == 1 and closed[i] in "<>" and i in (0, len(closed) - 1))
        ]
        if not ngrams:
            return np.zeros(self.dim, dtype=np.float32)
        ids = [self.model.get_subword_id(ngram) for ngram in ngrams]
        return np.mean([self.model.get_input_vector(i) for i in ids], axis=0)
