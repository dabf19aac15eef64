"""Print some translations beside their references, and the scores of a recipe."""

import argparse
import json
from pathlib import Path

from score import read_lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--translation", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True, help="JSON lines; the last counts")
    parser.add_argument("--number", type=int, default=10, help="translations to show")
    args = parser.parse_args(argv)
    columns = [read_lines(getattr(args, n)) for n in ("source", "reference", "translation")]
    rows = list(zip(*columns))
    # evenly over the test set: no picking of the good ones
    for i in range(min(args.number, len(rows))):
        source, reference, translation = rows[(2 * i + 1) * len(rows) // (2 * args.number)]
        print(f"source       {source}\nreference    {reference}\ntranslation  {translation}\n")
    result = json.loads(read_lines(args.result)[-1])
    print(f"{result['recipe']}: {result['updates']} updates in {result['train_seconds']:.0f} s")
    print(
        f"BLEU beam 5  {result['bleu']:5.2f}  greedy {result['greedy_bleu']:5.2f}",
        end="  ",
    )
    print(result["bleu_signature"])
    print(
        f"chrF beam 5  {result['chrf']:5.2f}  greedy {result['greedy_chrf']:5.2f}",
        end="  ",
    )
    print(result["chrf_signature"])


if __name__ == "__main__":
    main()
