"""Word vectors in text files: fastText's .vec, word2vec's and GloVe's, also compressed."""

import numpy as np

from preprocess.common import progress, read_lines

FORMAT = "a line is a word and its numbers, separated by blanks"


def read_vectors(path, wanted, dim=None, quiet=True):
    """Read the vectors of wanted words; the whole file is checked.

    Args:
        path: text (.vec, .txt, .gz, .xz), with or without a first line ``words dimension``.
        wanted: a set of words, or None for all.
        dim: the dimension the file must have; None takes the file's.

    Returns:
        ``{word: float32 (d,)}`` and all the file's words (a dict to their line numbers).

    Raises:
        ValueError: no vectors, a word that occurs twice, a wrong number of columns, something that
            is no finite number, a wanted vector of zeros, fewer words than the first line
            promises, not UTF-8.
    """
    vectors, seen, promised, expected = {}, {}, None, dim
    for index, line in progress(
        enumerate(read_lines(path), start=1), f"reading {path}", quiet, unit="vectors"
    ):
        # other blanks than " " may be part of a word
        fields = line.rstrip(" \t").replace("\t", " ").split(" ")
        if index == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
            promised, width = int(fields[0]), int(fields[1])
        else:
            width = len(fields) - 1
        if dim is None:
            dim = width
        if width != dim or width < 1:
            _wrong_width(path, index, width, dim, expected)
        if index == 1 and promised is not None:
            continue
        word = fields[0]
        if word in seen:
            raise ValueError(
                f"{path}, line {index}: a word must have one vector, but {word!r} is also in line "
                f"{seen[word]}; delete one of the lines"
            )
        seen[word] = index
        # 'n' is in nan and inf and in no finite number: a cheap check of the rows nobody wants
        if wanted is None or word in wanted or "n" in line[len(word) :].lower():
            vectors[word] = _parse(path, index, word, fields[1:])
    if not seen:
        raise ValueError(f"{path}: must hold vectors, but is empty; {FORMAT}")
    if promised is not None and promised != len(seen):
        raise ValueError(
            f"{path}: its first line promises {promised} words, but {len(seen)} follow; fetch the "
            "file again, or correct that line"
        )
    return vectors, seen


def _wrong_width(path, index, width, dim, expected):
    if width < 1:
        rule = FORMAT
    elif expected is not None and index == 1:
        rule = f"--dim is {expected}; leave it out to take the file's"
    else:
        rule = f"{FORMAT}; delete or mend the line"
    raise ValueError(
        f"{path}, line {index}: must have {dim if dim > 0 else 'some'} numbers, but has {width}; "
        f"{rule}"
    )


def _parse(path, index, word, fields):
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinity
            vector = np.array([float(field) for field in fields]).astype(np.float32)
        if not np.isfinite(vector).all():
            raise ValueError("NaN or infinity")
        if not vector.any():
            raise ValueError("all are 0, which is no direction")
    except ValueError as error:
        raise ValueError(
            f"{path}, line {index}: the vector of {word!r} must be finite numbers, but: {error}; "
            "delete or mend the line"
        ) from error
    return vector
