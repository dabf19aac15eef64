"""The list of words that a table is extended by: read, and checked against what there is."""

from preprocess.assemble import some
from preprocess.common import read_lines


def read_words(args, dictionary) -> dict:
    """Return the words of ``--words``: a word → the symbols that its row is composed of.

    Raises:
        ValueError: an empty list, a word twice, a word that the table has, one that is a special
            or a padding word, or a line that is not a word (and with compose its symbols).
    """
    found, known = {}, []
    for number, line in enumerate(read_lines(args.words), start=1):
        word, *parts = line.split() or [""]
        where = f"{args.words}, line {number}"
        if not word:
            continue
        if bool(parts) != (args.source == "compose"):
            rule = "a word and the symbols that it is composed of" if parts == [] else "one word"
            raise ValueError(
                f"{where}: must be {rule} (--source {args.source}), but is {line.strip()!r}; mend "
                "the line"
            )
        if word in found:
            first = list(found).index(word) + 1
            raise ValueError(
                f"{where}: {word!r} must not be there twice, but is word {first} of the list, too; "
                "leave one of them out"
            )
        if word in dictionary:
            known.append(word)
            if dictionary.index(word) < dictionary.nspecial:
                raise ValueError(
                    f"{where}: {word!r} is a special symbol of fairseq; leave it out, or spell it "
                    "otherwise"
                )
        found[word] = parts
    refuse_known(args, known, args.words)
    for word in known:
        del found[word]
    return found


def refuse_known(args, known, path):
    """Refuse words that the table has.

    Raises:
        ValueError: there are some, and ``--known`` is error.
    """
    if known and args.known == "error":
        shown = some(known, range(len(known)))
        raise ValueError(
            f"{path}: new words must be others than those of {args.dictionary}, but {len(known)} "
            f"are there ({shown}); give --known skip, or leave them out"
        )
