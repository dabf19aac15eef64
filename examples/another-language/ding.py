"""Make a lexicon of German and French words by way of English, without any German sentence pair.

German and English words come from the Ding dictionary (Debian's package trans-de-en), English and
French ones from the model's own training text, by IBM model 1. A German word's translation is the
French word that most of its English ones lead to, weighed by how likely and how frequent they are.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from score import read_lines, run_script  # noqa: E402

from preprocess.common import atomic_text  # noqa: E402
from preprocess.model1 import Model1  # noqa: E402

#: Remarks beside a word: grammar in {}, fields in [], explanations in ().
REMARKS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)")


def ding_pairs(lines) -> set:
    """Return the pairs of single words, in lower case, of lines ``a; b | c :: x; y | z``.

    Raises:
        ValueError: there is none.
    """
    pairs = set()
    for line in lines:
        if line.startswith("#") or "::" not in line:
            continue
        german, english = (REMARKS.sub("", side).split("|") for side in line.split("::", 1))
        for left, right in zip(german, english):
            for one in left.lower().split(";"):
                for other in right.lower().split(";"):
                    one, other = one.strip(), re.sub("^ *to ", "", other).strip()
                    if one and other and not (one.split()[1:] or other.split()[1:]):
                        pairs.add((one, other))
    if not pairs:
        raise ValueError(
            "--ding must be a file of the Ding dictionary, with lines 'Hund {m} :: dog', but has "
            "no pair of words; give /usr/share/trans/de-en of Debian's package trans-de-en"
        )
    return pairs


def best_translations(sources, targets, min_count: int, iterations: int) -> dict:
    """Return each source word's likeliest target word by IBM model 1, and how likely it is.

    Words that are there less often than ``min_count`` times are left out of the result.
    """
    counts = [Counter(word for line in side for word in line) for side in (sources, targets)]
    names = [list(count) for count in counts]
    index = [{word: i for i, word in enumerate(side)} for side in names]
    text = [
        [[own[w] for w in line] for line in side] for own, side in zip(index, (sources, targets))
    ]
    model = Model1(*text, *map(len, names))
    for _ in range(iterations):
        model.step()
    found, best = model.translations(), {}
    for source, target, probability in zip(*found):
        if source == model.empty:
            continue
        one, other = names[0][source], names[1][target]
        often = counts[0][one] >= min_count and counts[1][other] >= min_count
        if often and other.isalpha() and probability > best.get(one, ("", 0.0))[1]:
            best[one] = (other, float(probability))
    return best


def by_way_of(pairs, translations: dict, weights: Counter, min_probability: float) -> dict:
    """Return a translation for each first word of some pairs, by votes of their second words."""
    votes = defaultdict(Counter)
    for one, middle in sorted(pairs):
        other, probability = translations.get(middle, ("", 0.0))
        if probability >= min_probability:
            votes[one][other] += probability * np.sqrt(min(weights[middle], 100))
    return {one: count.most_common(1)[0][0] for one, count in votes.items()}


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ding", type=Path, required=True, help="/usr/share/trans/de-en")
    parser.add_argument("--pivot", type=Path, nargs=2, required=True, metavar=("EN", "FR"))
    parser.add_argument("--text", type=Path, required=True, help="German text: words to translate")
    parser.add_argument("--min-count", type=int, default=5, help="of a word, to be in the lexicon")
    parser.add_argument("--min-probability", type=float, default=0.3, help="of English to French")
    parser.add_argument("--output", type=Path, required=True, help="lines 'german french'")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    english, french = ([line.split() for line in read_lines(path)] for path in args.pivot)
    german = Counter(word for line in read_lines(args.text) for word in line.split())
    pairs = {
        pair for pair in ding_pairs(read_lines(args.ding)) if german[pair[0]] >= args.min_count
    }
    translations = best_translations(english, french, args.min_count, iterations=5)
    weights = Counter(word for line in english for word in line)
    found = by_way_of(pairs, translations, weights, args.min_probability)
    with atomic_text(args.output) as file:
        file.writelines(f"{one} {other}\n" for one, other in sorted(found.items()))
    print(f"{args.output}: {len(found)} pairs of words", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
