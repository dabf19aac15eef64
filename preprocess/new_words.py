"""The words of another language's table, and their rows before they are mapped."""

from types import SimpleNamespace

import numpy as np

from preprocess import shaping
from preprocess.added_rows import recorded_options
from preprocess.assemble import check_finite, load_dictionary, shape_rows
from preprocess.common import read_lines
from preprocess.fasttext_file import is_fasttext
from preprocess.sources import SOURCES


def load_words(args):
    """Return the dictionary of ``--new-dictionary``, or one of the words of ``--words``.

    Raises:
        ValueError: no such file, a dictionary of padding words alone, an empty list, a line of
            several words, a word twice, or a special symbol.
    """
    from fairseq_contout.symbols import emittable_rows

    if args.words is not None:
        return _from_list(args.words)
    try:
        dictionary = load_dictionary(args.new_dictionary)
    except ValueError as error:
        raise ValueError(str(error).replace("--dictionary", "--new-dictionary", 1)) from error
    if not emittable_rows(dictionary)[dictionary.nspecial :].any():
        raise ValueError(
            f"--new-dictionary {args.new_dictionary}: must hold words, but has padding words "
            "alone; make it with fairseq-preprocess"
        )
    return dictionary


def _from_list(path):
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) > 1:
            raise ValueError(
                f"{path}, line {number}: must be one word, but is {line.strip()!r}; mend the line"
            )
        if words[0] in dictionary:
            what = "is a special symbol" if words[0] in dictionary.symbols[:4] else "is there twice"
            raise ValueError(
                f"{path}, line {number}: a new word must be there once, but {words[0]!r} {what}; "
                "delete the line"
            )
        dictionary.add_symbol(words[0])
    if len(dictionary) == dictionary.nspecial:
        raise ValueError(f"{path}: must hold words, one a line, but is empty; give another list")
    return dictionary


def treat_as_table(args, command: str):
    """Let the new vectors be centred as those of the table were, whose record is given.

    Raises:
        ValueError: the table's rows are random, where translations have no place.
    """
    given = recorded_options(command)
    if given is None:
        return
    if given.source in ("random", "hypercube"):
        raise ValueError(
            f"{args.table}: must have rows that come from vectors, but was made with --source "
            f"{given.source} ({command}), and no rotation brings words near their translations "
            "there; train with a table of fastText vectors"
        )
    args.center = args.center or given.center
    args.remove_components = args.remove_components or given.remove_components


def new_rows(args, words, dim: int):
    """Return the new words' unit rows before and after mixing, and their origins.

    Raises:
        ValueError: what the sources refuse; another dimension than the table's.
    """
    source = "fasttext" if is_fasttext(args.vectors) else "vectors"
    asked = SimpleNamespace(**{**vars(args), "dim": None, "source": source})
    raw, origin, _ = SOURCES[source](words, asked)
    if raw.shape[1] != dim:
        raise ValueError(
            f"{args.vectors}: must have the dimension of {args.table}, {dim}, but has "
            f"{raw.shape[1]}; train vectors with train_fasttext.py --dim {dim}"
        )
    check_finite(words, raw, args.vectors)
    plain = SimpleNamespace(**{**vars(asked), "mix_random": None})
    rows, named = shape_rows(words, raw, origin, plain)
    known = np.array([name is not None for name in origin])
    mixed = rows if args.mix_random is None else shaping.mix(rows, args.mix_random, args.seed)
    return rows, mixed, named, known
