"""Print the bonus of new words that finds most of them without a loss of BLEU.

Of the bonuses whose translations have a BLEU over tokens that is by --margin or more above that of
decoding over the trained words, the one with the highest recall of new words; where there is none,
the one with the highest BLEU. The margin is for chance: other text will not be quite so kind.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from new_words import dictionary_words, found_words  # noqa: E402
from sacrebleu.metrics import BLEU  # noqa: E402
from score import read_hypotheses, read_lines, run_script  # noqa: E402


def best_bonus(found: dict, least: float) -> str:
    """Return a key of found, bonus → BLEU and recall, as the module says."""
    harmless = {bonus: recall for bonus, (bleu, recall) in found.items() if bleu >= least}
    if harmless:
        return max(harmless, key=harmless.get)
    return max(found, key=lambda bonus: found[bonus][0])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", metavar="BONUS=LOG", help="of fairseq-generate")
    parser.add_argument("--base", type=Path, required=True, help="log over the trained words")
    parser.add_argument("--reference", type=Path, required=True, help="tokens")
    parser.add_argument("--dictionary", type=Path, required=True, help="of the training")
    parser.add_argument("--extended", type=Path, required=True, help="dictionary with new words")
    parser.add_argument("--margin", type=float, default=0.2)
    args = parser.parse_args(argv)
    references, bleu = read_lines(args.reference), BLEU(tokenize="none", force=True)
    words = dictionary_words(args.extended) - dictionary_words(args.dictionary)

    def scored(log):
        hypotheses = read_hypotheses(Path(log), len(references))
        recall = found_words(hypotheses, references, words)["recall"]
        return bleu.corpus_score(hypotheses, [references]).score, recall

    found, base = {}, scored(args.base)[0]
    print(f"over the trained words: BLEU {base:.2f}", file=sys.stderr)
    for entry in args.logs:
        bonus, _, log = entry.partition("=")
        found[bonus] = scored(log)
        print(
            "bonus {}: BLEU {:.2f}, recall {:.1f} %".format(bonus, *found[bonus]), file=sys.stderr
        )
    print(best_bonus(found, base + args.margin))


if __name__ == "__main__":
    run_script(main)
