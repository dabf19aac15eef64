"""The two spellings of subwords: which pieces form a word, and where a piece goes on.

=============  ======================  ====================================================
spelling       ``walking dogs``        rule
=============  ======================  ====================================================
``@@`` (BPE)   ``walk@@ ing dogs``     a marked piece is continued by the next one
``▁`` (U+2581) ``▁walk ing ▁dogs``     a marked piece begins a word
(none)         ``walking dogs``        every token is a word
=============  ======================  ====================================================
"""

from enum import Enum

AT = "@@"
BAR = "\u2581"


class Spelling(Enum):
    """How pieces are marked."""

    AT = AT
    BAR = BAR
    WORDS = ""


def find_spelling(symbols) -> Spelling:
    """Return the spelling that most symbols of a vocabulary carry."""
    symbols = list(symbols)
    at = sum(symbol.endswith(AT) and symbol != AT for symbol in symbols)
    bar = sum(symbol.startswith(BAR) for symbol in symbols)
    if not at and not bar:
        return Spelling.WORDS
    return Spelling.AT if at >= bar else Spelling.BAR


def knows_pieces(words) -> bool:
    """Tell whether vectors are of pieces: at least 1 % of the words are marked.

    Big files of plain words hold a few that only look marked.
    """
    marked = sum(word.endswith(AT) or word.startswith(BAR) for word in words)
    return marked > 0 and marked >= 0.01 * len(words)


def split_words(tokens, spelling: Spelling):
    """Group the pieces of a line into words: returns ``[(word, [pieces])]``.

    ``walk@@ ing dogs`` and ``▁walk ing ▁dogs`` both give the words ``walking`` and ``dogs``.
    """
    words = []
    for token in tokens:
        if words and _goes_on(words[-1], token, spelling):
            words[-1].append(token)
        else:
            words.append([token])
    return [(surface(pieces, spelling), pieces) for pieces in words]


def _goes_on(pieces, token: str, spelling: Spelling) -> bool:
    if spelling is Spelling.AT:
        return pieces[-1].endswith(AT)
    return spelling is Spelling.BAR and not token.startswith(BAR)


def surface(pieces, spelling: Spelling) -> str:
    """Return the word that pieces spell, without marks."""
    if spelling is Spelling.AT:
        return "".join(p[: -len(AT)] if p.endswith(AT) else p for p in pieces)
    if spelling is Spelling.BAR:
        return "".join(p[len(BAR) :] if p.startswith(BAR) else p for p in pieces)
    return "".join(pieces)


def is_open(piece: str, spelling: Spelling) -> bool:
    """Tell whether a piece cannot be a whole word: ``walk@@``, or ``ing`` in a text with ▁."""
    if spelling is Spelling.AT:
        return piece.endswith(AT)
    return spelling is Spelling.BAR and not piece.startswith(BAR)
