"""Write words, the most frequent first, from the lists of wordfreq (pip install wordfreq).

Robyn Speer (2022), rspeer/wordfreq: v3.0, https://doi.org/10.5281/zenodo.7199437 (its data: CC
BY-SA 4.0). Words of the languages take turns; one that comes twice is left out.
"""

import argparse
import sys
from itertools import chain, zip_longest
from pathlib import Path


def interleave(lists) -> list:
    """Return the words of some lists, taking one of each in turn, without repetitions."""
    words = chain.from_iterable(zip_longest(*lists))
    return list(dict.fromkeys(word for word in words if word and not word.split()[1:]))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--languages", nargs="+", default=["en", "fr"], help="codes, as en de")
    parser.add_argument("--output", type=Path, required=True, help="a word a line")
    args = parser.parse_args(argv)
    try:
        from wordfreq import top_n_list
    except ImportError:
        parser.error("the word lists are those of the package wordfreq: pip install wordfreq")
    words = interleave([top_n_list(language, 10**7) for language in args.languages])
    args.output.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    print(f"{args.output}: {len(words)} words", file=sys.stderr)


if __name__ == "__main__":
    main()
