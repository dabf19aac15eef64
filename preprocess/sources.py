"""Where the rows of words come from: one function a source, all with the same result."""

from collections import Counter
from typing import NamedTuple, Optional

import numpy as np

from preprocess import drawing
from preprocess.common import progress, read_text
from preprocess.fasttext_file import FastTextModel, is_fasttext
from preprocess.pieces import (
    BAR,
    Spelling,
    find_spelling,
    is_open,
    knows_pieces,
    split_words,
    surface,
)
from preprocess.vector_text import read_vectors

PRETRAINED, NGRAMS, COMPOSED, RANDOM = "pretrained", "ngrams", "composed", "random"


class Rows(NamedTuple):
    """Rows of symbols and where each came from.

    Attributes:
        weight: ``(n, d)`` float32; a row whose origin is None is zero: the source knows none.
        origin: for each row, one of the names above or None.
        spare: candidates ``(c, d)`` for the special symbols; None: drawn on the sphere.
    """

    weight: np.ndarray
    origin: list
    spare: Optional[np.ndarray] = None


def from_random(symbols, args) -> Rows:
    """Draw rows uniformly on the sphere."""
    rng = drawing.generator(args.seed, drawing.ROWS)
    return Rows(drawing.sphere(len(symbols), _dim(args), rng), [RANDOM] * len(symbols))


def from_hypercube(symbols, args) -> Rows:
    """Draw distinct corners of the hypercube, and spare ones for the special symbols."""
    dim, count = _dim(args), len(symbols)
    spare = min(2**dim - count, drawing.SPECIAL_CANDIDATES)
    rng = drawing.generator(args.seed, drawing.ROWS)
    corners = drawing.hypercube(count + max(spare, 0), dim, rng)
    return Rows(corners[:count], [RANDOM] * count, corners[count:])


def _dim(args) -> int:
    if args.dim is None:
        raise ValueError(f"--source {args.source} needs --dim, but it was not given; try --dim 300")
    return args.dim


def _vectors_path(args):
    if args.vectors is None:
        raise ValueError(
            f"--source {args.source} needs --vectors FILE, but it was not given; train one with "
            "train_fasttext.py, or take --source random"
        )
    return args.vectors


def _check_dim(args, dim: int):
    if args.dim is not None and args.dim != dim:
        raise ValueError(
            f"{args.vectors}: must have the dimension of --dim ({args.dim}), but has {dim}; leave "
            "--dim out to take the file's"
        )


def from_fasttext(symbols, args) -> Rows:
    """Ask a fastText model for every symbol; n-grams answer for those it has not seen.

    A model of segmented text knows the marked pieces. One of plain words does not: there a piece is
    looked up without its mark, and the part of a word has the n-grams that are inside the word.
    """
    model = FastTextModel(_vectors_path(args))
    _check_dim(args, model.dim)
    spelling = find_spelling(symbols)
    plain = not knows_pieces(model.words)
    weight = np.zeros((len(symbols), model.dim), dtype=np.float32)
    origin = [None] * len(symbols)
    for i, symbol in enumerate(progress(symbols, "fastText", args.quiet, unit="symbols")):
        key, known = symbol, symbol in model
        if plain and not known:
            key = surface([symbol], spelling)
            known = key in model and not is_open(symbol, spelling)
        if plain and is_open(symbol, spelling):
            ends = {"open_end" if spelling is Spelling.AT else "open_start": True}
            weight[i], known = model.part_vector(key, **ends), False
        else:
            weight[i] = model.vector(key)
        if weight[i].any():
            origin[i] = PRETRAINED if known else NGRAMS
    return Rows(weight, origin)


def from_vectors(symbols, args) -> Rows:
    """Look every symbol up in a text file of vectors.

    In a file of plain words, ``▁walk`` is looked up as ``walk``, and a piece that is no whole word
    (``walk@@``, or ``ing`` among pieces marked with ▁) is missing.
    """
    path = _vectors_path(args)
    if is_fasttext(path):
        raise ValueError(
            f"{path}: must be text, but is a fastText model; give --source fasttext (or compose)"
        )
    spelling = find_spelling(symbols)
    wanted = {*symbols, *(symbol.removeprefix(BAR) for symbol in symbols)}
    vectors, words = read_vectors(path, wanted, args.dim, args.quiet)
    if not vectors:
        raise ValueError(
            f"{path}: must hold vectors of the dictionary's symbols, but has none of the "
            f"{len(symbols)}; train vectors on text segmented as the dictionary's"
        )
    plain = not knows_pieces(words)
    weight = np.zeros((len(symbols), len(next(iter(vectors.values())))), dtype=np.float32)
    origin = [None] * len(symbols)
    for i, symbol in enumerate(symbols):
        key = symbol
        if plain and symbol not in vectors:
            key = symbol.removeprefix(BAR)
        elif plain and spelling is Spelling.BAR and is_open(symbol, spelling):
            continue  # the part "ing" is not the word "ing"
        if key in vectors:
            weight[i], origin[i] = vectors[key], PRETRAINED
    return Rows(weight, origin)


def from_composition(symbols, args) -> Rows:
    """Compose a piece from the vectors of the words of ``--text`` that contain it.

    e_p = Σ_w n(w, p) · v_w / ||v_w||, normalised later, where n(w, p) counts how often p occurs in
    the text as a part of word w. Words without a vector are left out. A piece that is always a
    whole word has that word's vector.
    """
    path = _vectors_path(args)
    if args.text is None:
        raise ValueError(
            "--source compose needs --text FILE (segmented as the dictionary's text), but it was "
            "not given; give the training text"
        )
    spelling = find_spelling(symbols)
    index = {symbol: i for i, symbol in enumerate(symbols)}
    counts = Counter()
    for line in read_text([args.text], args.quiet):
        counts.update((word, tuple(p)) for word, p in split_words(line.split(), spelling))
    words = {word for word, _ in counts}
    if is_fasttext(path):
        model = FastTextModel(path)
        dim, vectors = model.dim, {word: model.vector(word) for word in words}
        _check_dim(args, dim)
    else:
        vectors, _ = read_vectors(path, words, args.dim, args.quiet)
        dim = len(next(iter(vectors.values()))) if vectors else args.dim
    vectors = {w: v.astype(np.float64) for w, v in vectors.items() if w in words and v.any()}
    if not vectors:
        raise ValueError(
            f"{path}: must hold vectors of the words of {args.text}, but has none of the "
            f"{len(words)}; compare their case and tokens (words are the joined pieces)"
        )
    total = np.zeros((len(symbols), dim))
    origin = [None] * len(symbols)
    for (word, pieces), count in counts.items():
        if word not in vectors:
            continue
        vector = vectors[word] * (count / np.linalg.norm(vectors[word]))
        for piece in pieces:
            if piece in index:
                i = index[piece]
                total[i] += vector
                part = len(pieces) > 1 or origin[i] == COMPOSED
                origin[i] = COMPOSED if part else PRETRAINED
    return Rows(total.astype(np.float32), origin)


SOURCES = {
    "fasttext": from_fasttext,
    "vectors": from_vectors,
    "compose": from_composition,
    "random": from_random,
    "hypercube": from_hypercube,
}
