"""Write a fairseq dictionary: the words of a text with their counts, then those of a list."""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import atomic_text  # noqa: E402


def extend(counts: Counter, words, size=None) -> dict:
    """Return words with counts: all of the text, then new ones of the list (count 1) up to a size.

    Without a size all words of the list are taken. They do not get 0: fairseq takes words of that
    count for padding.

    Raises:
        ValueError: there are fewer words than asked for, or more in the text alone.
    """
    found, words = dict(counts.most_common()), list(words)
    if size is None:
        size = len({*found, *words})
    if len(found) > size:
        raise ValueError(
            f"the size (VOCABULARY) must be at least the words of the text, {len(found)}, but is "
            f"{size}; give a larger one"
        )
    for word in words:
        if len(found) >= size:
            break
        found.setdefault(word, 1)
    if len(found) < size:
        raise ValueError(
            f"the size (VOCABULARY) must be at most the words of text and list together, "
            f"{len(found)}, but is {size}; give a longer list (WORDS), or a smaller size"
        )
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="tokens with blanks between them")
    parser.add_argument("--words", type=Path, required=True, help="a word a line")
    parser.add_argument("--size", type=int, help="words, special symbols left out; default: all")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    counts = Counter(args.text.read_text(encoding="utf-8").split())
    with args.words.open(encoding="utf-8") as lines:
        words = [line.strip().lower() for line in lines]  # as the text of the recipe is
    try:
        found = extend(counts, (word for word in words if word and not word.split()[1:]), args.size)
    except ValueError as error:
        parser.error(str(error))
    with atomic_text(args.output) as file:
        file.writelines(f"{word} {count}\n" for word, count in found.items())
    print(f"{args.output}: {len(found)} words, {len(counts)} of them in the text", file=sys.stderr)


if __name__ == "__main__":
    main()
