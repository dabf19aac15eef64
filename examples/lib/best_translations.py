"""Print the name of the translations that have the highest BLEU over tokens; of equals the first.

usage: best_translations.py --reference FILE NAME=LOG …
"""

import argparse
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU
from score import read_hypotheses, read_lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="tokens")
    parser.add_argument("logs", nargs="+", metavar="NAME=LOG", help="output of fairseq-generate")
    args = parser.parse_args(argv)
    references = read_lines(args.reference)
    bleu = BLEU(tokenize="none", force=True)
    found = {}
    for entry in args.logs:
        name, _, log = entry.partition("=")
        hypotheses = read_hypotheses(Path(log), len(references))
        found[name] = bleu.corpus_score(hypotheses, [references]).score
        print(f"{name}: BLEU {found[name]:.2f}", file=sys.stderr)
    print(max(found, key=found.get))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
