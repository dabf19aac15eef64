"""From a dictionary and a source to the rows of all symbols."""

from pathlib import Path

import numpy as np

from preprocess import drawing, shaping
from preprocess.common import atomic_text, check_outputs, describe
from preprocess.sources import RANDOM, SOURCES

PERTURBED = "perturbed"


def load_dictionary(path):
    """Load a fairseq dictionary.

    Raises:
        ValueError: no such file, not UTF-8, a line that is not ``symbol count``, a symbol twice, or
            no symbol.
    """
    from fairseq.data import Dictionary

    if not Path(path).is_file():
        raise ValueError(f"--dictionary {path}: no such file; make it with fairseq-preprocess")
    try:
        dictionary = Dictionary.load(str(path))
    # fairseq raises a bare Exception for text that is not UTF-8
    except Exception as error:
        raise ValueError(
            f"--dictionary {path}: must have lines 'symbol count': {describe(error)}; make it with "
            "fairseq-preprocess"
        ) from error
    if len(dictionary) == dictionary.nspecial:
        raise ValueError(
            f"--dictionary {path}: must hold symbols, but is empty; make it with fairseq-preprocess"
        )
    return dictionary


def word_rows(symbols, args):
    """Return unit rows of words ``(n, d)``, their origins and the specials' candidates or None.

    Raises:
        ValueError: see the sources; a missing word or duplicates where that is an error.
    """
    rows, origin, spare = SOURCES[args.source](symbols, args)
    check_finite(symbols, rows, args.vectors)
    rows, origin = shape_rows(symbols, rows, origin, args)
    return rows, origin, spare


def check_finite(symbols, rows, path):
    """Check that vectors are numbers.

    Raises:
        ValueError: some are not; names their symbols.
    """
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise ValueError(
            f"{path}: vectors must be finite, but {len(bad)} hold NaN or infinity "
            f"({some(symbols, bad)}); the training diverged, lower its --lr"
        )


def tell_apart(symbols, rows, args):
    """Return rows of which none repeats another, ``(n, d)``, and the indices of those turned.

    Raises:
        ValueError: a row repeats another where that is an error (``--duplicates``).
    """
    if args.duplicates == "turn":
        return shaping.turn_apart(rows, args.seed)
    again = shaping.find_duplicates(rows)
    if len(again):
        raise ValueError(
            f"{args.vectors or args.source}: two words must not share one row, but {len(again)} "
            f"repeat others ({some(symbols, again)}); give --duplicates turn, or other vectors"
        )
    return rows, []


def shape_rows(symbols, rows, origin, args):
    """Return unit rows of words ``(n, d)`` and their origins, from what a source gave.

    Raises:
        ValueError: a missing word or duplicates where that is an error.
    """
    known = [i for i, name in enumerate(origin) if name is not None]
    missing = [i for i, name in enumerate(origin) if name is None]
    if missing and args.missing == "error":
        raise ValueError(
            f"{args.vectors}: must have a vector for every symbol, but has none for {len(missing)} "
            f"({some(symbols, missing)}); give --missing random, or other vectors"
        )
    rows[known] = drawing.unit(rows[known])
    if args.center or args.remove_components:
        found = shaping.find_components(rows[known], args.remove_components or 0)
        rows[known] = shaping.remove_components(rows[known], *found)
    rng = drawing.generator(args.seed, drawing.ROWS)
    if missing:
        rows[missing] = drawing.sphere(*rows.shape, rng)[missing]
    origin = [name or RANDOM for name in origin]
    if args.mix_random is not None:
        rows = shaping.mix(rows, args.mix_random, args.seed)
    rows, turned = tell_apart(symbols, rows, args)
    for i in turned:
        origin[i] = PERTURBED
    return rows, origin


def some(symbols, indices) -> str:
    """Return the first of the symbols with some indices, for a message."""
    names = ", ".join(symbols[i] for i in indices[:5])
    return names + (", …" if len(indices) > 5 else "")


def special_rows(count: int, words, spare, seed: int):
    """Return rows for special symbols ``(count, d)``, random and far from the words' rows."""
    if spare is None:
        rng = drawing.generator(seed, drawing.SPECIALS)
        spare = drawing.sphere(max(count, drawing.SPECIAL_CANDIDATES), words.shape[1], rng)
    return drawing.choose_far(spare, words, count)


def check_pair(args, dictionary_path, inputs, report=None):
    """Check, before the work, that a table and the dictionary beside it can be written.

    Args:
        args: the options.
        dictionary_path: where the dictionary will be.
        inputs: paths that are read; None for what is not given.
        report: where a report will be, or None.

    Raises:
        ValueError: they cannot, two of them are one file, or one would replace what is read.
    """
    if Path(dictionary_path).resolve() == Path(args.dictionary).resolve():
        raise ValueError(
            f"--output-dictionary {dictionary_path}: must be another file than --dictionary, which "
            "is that of the training; choose another name"
        )
    outputs = {"--output": args.output, "--output-dictionary": dictionary_path}
    if report is not None:
        outputs["--report"] = report
    check_outputs(outputs, inputs)


def save_pair(path, dictionary_path, weight, dictionary, **record):
    """Write a table and its dictionary: both, or neither.

    Args:
        path: of the table.
        dictionary_path: of its dictionary.
        weight: unit rows ``(V, d)``.
        dictionary: fairseq's.
        record: source, origins and command of the table.

    Raises:
        ValueError: a dictionary with a symbol twice, or what ``save_table`` refuses.
    """
    from fairseq_contout.table_file import save_table

    if len(set(dictionary.symbols)) < len(dictionary):
        raise ValueError(
            f"{dictionary_path}: a dictionary must have every symbol once, but that of the table "
            "has one twice (#fairseq:overwrite), and fairseq would not read it; make another"
        )
    # the dictionary's old file stays, too, when the table cannot be written
    with atomic_text(dictionary_path) as file:
        for symbol, count in list(zip(dictionary.symbols, dictionary.count))[dictionary.nspecial :]:
            file.write(f"{symbol} {count}\n")
        save_table(path, weight, dictionary, **record)
