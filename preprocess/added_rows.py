"""Where the rows of words come from that are added to a table: one function a source.

Each takes the options, the dictionary and rows of the table, the record of how it was made, and
the new words; it returns words and their unit rows ``(n, d)``, zero where there is no vector.
"""

import shlex
from types import SimpleNamespace

import numpy as np

from preprocess import build_table, drawing, shaping
from preprocess.added_words import refuse_known
from preprocess.assemble import check_finite, shape_rows, some
from preprocess.sources import SOURCES as ORIGINALS
from preprocess.vector_text import read_vectors

#: How far a number of a row may be from what is computed again, on other machines, too.
_SAME = 1e-3


def from_original(args, dictionary, table, command: str, words):
    """Take vectors of the file that made the table, and treat them as they were treated.

    The mean and the main directions are those of the words that the table was built for. Its rows
    are computed once more, to see that the file is the one.

    Raises:
        ValueError: the table's record names no vectors, or its rows are not those of the file.
    """
    given, count = _recorded(args, command, len(table))
    from fairseq_contout.symbols import emittable_rows

    allowed = emittable_rows(dictionary)
    indices = [i for i in range(dictionary.nspecial, count) if allowed[i]]
    symbols = [dictionary[i] for i in indices]
    every = symbols + list(words)
    raw, origin, _ = ORIGINALS[given.source](every, given)
    check_finite(every, raw, args.vectors)
    made, _ = shape_rows(symbols, raw[: len(symbols)].copy(), origin[: len(symbols)], given)
    off = np.abs(made - table.numpy()[indices]).max(axis=1)
    other = np.flatnonzero(off > _SAME)
    if len(other):
        raise ValueError(
            f"{args.vectors}: must be the vectors that made {args.table} ({command}), but the rows "
            f"of {len(other)} words are others ({some(symbols, other)}); give that file, or "
            "--source vectors for vectors of the table's space"
        )
    known = np.array([name is not None for name in origin])
    rows = np.zeros_like(raw)
    rows[known] = drawing.unit(raw[known])
    if given.center or given.remove_components:
        trained = rows[: len(symbols)][known[: len(symbols)]]
        found = shaping.find_components(trained, given.remove_components or 0)
        rows[known] = shaping.remove_components(rows[known], *found)
    added, there = rows[len(symbols) :], known[len(symbols) :]
    if given.mix_random is not None:
        # each word has random numbers of its own, those of earlier extensions, too
        before = len(symbols) + len(table) - count
        some_row = np.where(there[:, None], added, 1)  # rows of zeros have no direction to mix
        mixed = shaping.mix(some_row, given.mix_random, given.seed, before)
        added = np.where(there[:, None], mixed, 0)
    return list(words), added


def recorded_options(command: str):
    """Return the options of ``build_table.py`` that a table's record names, None of other records.

    Args:
        command: the record; what extended the table later does not count.
    """
    words = shlex.split(command.split(" ; ")[0])
    if words[:1] != ["build_table.py"]:
        return None
    return build_table.parser().parse_args([*words[1:], "--output", "-"])


def _recorded(args, command: str, count: int):
    """Return the options that built a table, and how many rows it had before any extension."""
    first, *more = command.split(" ; ")
    for step in more:
        count -= int(shlex.split(step)[-1])
    options = recorded_options(first)
    if options is None or options.source not in ("fasttext", "vectors"):
        raise ValueError(
            f"{args.table}: --source original needs a table that build_table.py made of vectors, "
            f"but its record is {command!r}; take --source vectors or compose"
        )
    return SimpleNamespace(**{**vars(options), "vectors": args.vectors, "quiet": args.quiet}), count


def from_vectors(args, dictionary, table, command: str, words):
    """Take vectors of a text file that are of the table's space already.

    Raises:
        ValueError: another dimension than the table's, words that the table has, or words with
            blanks in them, which no token has.
    """
    vectors, _ = read_vectors(args.vectors, words and set(words), None, args.quiet)
    if words is None:
        refuse_known(args, [word for word in vectors if word in dictionary], args.vectors)
        words = [word for word in vectors if word not in dictionary]
        _check_tokens(args.vectors, words)
    dim = len(next(iter(vectors.values()))) if vectors else table.size(1)
    if dim != table.size(1):
        raise ValueError(
            f"{args.vectors}: must have the dimension of {args.table}, {table.size(1)}, but has "
            f"{dim}; give vectors of the table's space"
        )
    rows = np.zeros((len(words), dim), dtype=np.float32)
    for i, word in enumerate(words):
        if word in vectors:
            rows[i] = drawing.unit(vectors[word][None])[0]
    return list(words), rows


def _check_tokens(path, words):
    odd = [repr(word) for word in words if word.split() != [word]]
    if odd:
        raise ValueError(
            f"{path}: new words must have no blanks in them, since no token has, but {len(odd)} do "
            f"({some(odd, range(len(odd)))}); delete their lines, or list others with --words"
        )


def from_composition(args, dictionary, table, command: str, words):
    """Add up rows of the table: e_w = Σ_s e_s / ‖Σ_s e_s‖ over the symbols s after the word.

    Raises:
        ValueError: symbols that the table does not have, or whose rows no model points at.
    """
    from fairseq_contout.symbols import emittable_rows

    usable = emittable_rows(dictionary)
    usable[: dictionary.nspecial] = False
    rows = np.zeros((len(words), table.size(1)), dtype=np.float32)
    for i, (word, parts) in enumerate(words.items()):
        unknown = [part for part in parts if not usable[dictionary.index(part)]]
        if unknown:
            raise ValueError(
                f"{args.words}: {word!r} must be composed of words of {args.dictionary}, but "
                f"{', '.join(unknown)} are none; take others"
            )
        total = table[[dictionary.index(part) for part in parts]].sum(dim=0).numpy()
        if np.linalg.norm(total) > _SAME:
            rows[i] = drawing.unit(total[None])[0]
    return list(words), rows


SOURCES = {"original": from_original, "vectors": from_vectors, "compose": from_composition}
