"""Pairs of words that are translations: read, looked up in two vocabularies, divided."""

import numpy as np

from preprocess.common import read_lines

#: The value of --lexicon for words that are spelled the same. A file of that name: ./identical
IDENTICAL = "identical"


def read_pairs(path) -> list:
    """Return the pairs of a file, ``new-word old-word`` a line, each once, in order.

    Raises:
        ValueError: a line that is not two words, or no pair.
    """
    pairs = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(
                f"{path}, line {number}: must be a new word and a word of the table, but is "
                f"{line.strip()!r}; mend or delete the line"
            )
        pairs[tuple(words)] = None
    if not pairs:
        raise ValueError(f"{path}: must hold pairs of words, but is empty; give another lexicon")
    return list(pairs)


def same_spelling(new: dict, old: dict) -> list:
    """Return a pair for each word that both vocabularies have, in the order of the new one."""
    return [(word, word) for word in new if word in old]


def known_pairs(name: str, pairs, new: dict, old: dict) -> list:
    """Return the pairs whose words both have a vector.

    Args:
        name: of the lexicon, for messages.
        pairs: (new word, old word).
        new: the new words that have a vector, and their indices.
        old: those of the table.

    Raises:
        ValueError: there is none; says how many have one of the two.
    """
    known = [pair for pair in pairs if pair[0] in new and pair[1] in old]
    if not known:
        first = sum(pair[0] in new for pair in pairs)
        second = sum(pair[1] in old for pair in pairs)
        if name == IDENTICAL:
            raise ValueError(
                f"--lexicon {name}: the {len(new)} new words and the {len(old)} of the table must "
                "have words in common, but have none; give a FILE with pairs"
            )
        raise ValueError(
            f"{name}: must pair new words with words of the table, but of its {len(pairs)} pairs "
            f"{first} have a known new word, {second} a known word of the table, and none both; "
            "the new word comes first: compare order, case and tokens"
        )
    return known


def divide(pairs, share: float, seed: int):
    """Hold out a share of the new words with all their pairs: returns the rest, and those pairs.

    No word is on both sides, so that a word with two translations does not give itself away; a pair
    of another new word with a word that is held out is on none.

    Raises:
        ValueError: a side would be empty.
    """
    words = list(dict.fromkeys(new for new, _ in pairs))
    count = round(share * len(words))
    if not 0 < count < len(words):
        raise ValueError(
            f"--held-out-share {share:g} of {len(words)} words of the lexicon is {count}, but both "
            "sides must have some; give another share, or more pairs"
        )
    drawn = np.random.default_rng(seed).permutation(len(words))[:count]
    chosen = {words[i] for i in drawn}
    held_out = [pair for pair in pairs if pair[0] in chosen]
    return apart_from(pairs, held_out), held_out


def apart_from(pairs, held_out) -> list:
    """Return the pairs that share no word with those that are held out, on either side."""
    new, old = ({pair[side] for pair in held_out} for side in (0, 1))
    return [pair for pair in pairs if pair[0] not in new and pair[1] not in old]


def read_lexicon(args, new: dict, old: dict):
    """Return the pairs that the map begins with, those that are held out, and how many were given.

    Raises:
        ValueError: bad files, or no pair whose words both have a vector.
    """
    identical = args.lexicon == IDENTICAL
    given = same_spelling(new, old) if identical else read_pairs(args.lexicon)
    pairs, held_out = known_pairs(args.lexicon, given, new, old), []
    if args.held_out is not None:
        held_out = known_pairs(args.held_out, read_pairs(args.held_out), new, old)
        pairs = apart_from(pairs, held_out)
    elif args.held_out_share is not None:
        pairs, held_out = divide(pairs, args.held_out_share, args.seed)
    if not pairs:
        option = "held-out-share" if args.held_out is None else "held-out"
        raise ValueError(
            f"--lexicon {args.lexicon}: must have pairs of words that --{option} "
            f"{args.held_out or args.held_out_share} has not, on either side, but has none: they "
            "would be measured with what they were fitted to; give other pairs"
        )
    return pairs, held_out, len(given)


def translations(pairs, new: dict, old: dict):
    """Return for each new word of the pairs its index and the set of those of its translations."""
    found = {}
    for one, other in pairs:
        found.setdefault(new[one], set()).add(old[other])
    return list(found), list(found.values())
