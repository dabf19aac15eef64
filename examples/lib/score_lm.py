"""Write the result of a language model as one JSON line."""

import argparse
import re
from pathlib import Path

from score import add_result_args, read_lines, run_script, training_cost, write_result

EVALUATED = re.compile(r"Evaluated ([\d,]+) tokens")
PERPLEXITY = re.compile(r"Loss \(base 2\): -?(?:[\d.]+|inf|nan), Perplexity: ([\d.]+|inf|nan)")


def perplexity(log: Path, text: Path) -> float:
    """Return what ``fairseq-eval-lm`` found, by its output.

    Raises:
        ValueError: there is no such line, the model diverged, or tokens of the text were left out:
            fairseq drops, and does not say so, blocks longer than the model's positions.
    """
    lines = read_lines(log)
    found = [match[1] for match in map(PERPLEXITY.search, lines) if match]
    counts = [match[1] for match in map(EVALUATED.search, lines) if match]
    if not found or not counts:
        raise ValueError(f"{log}: must hold a perplexity, but holds none; delete it and run again")
    expected = sum(len(line.split()) + 1 for line in read_lines(text))
    if int(counts[-1].replace(",", "")) != expected:
        raise ValueError(
            f"{log}: must be over all {expected} tokens of {text}, but is over {counts[-1]}; "
            "evaluate with the --tokens-per-sample of the training"
        )
    if found[-1] in ("inf", "nan"):
        raise ValueError(
            f"{log}: must hold a finite perplexity, but it is {found[-1]}: the model diverged; "
            "train again with a smaller --lr"
        )
    return float(found[-1])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--valid", type=Path, required=True, help="output of fairseq-eval-lm")
    parser.add_argument("--test", type=Path, required=True, help="output of fairseq-eval-lm")
    parser.add_argument("--text", type=Path, required=True, help="folder with SUBSET.LANG")
    parser.add_argument("--lang", required=True)
    add_result_args(parser)
    args = parser.parse_args(argv)
    result = {
        "recipe": args.recipe,
        "test_set": args.test_set,
        "valid_ppl": perplexity(args.valid, args.text / f"valid.{args.lang}"),
        "test_ppl": perplexity(args.test, args.text / f"test.{args.lang}"),
        **training_cost(args.train_log, args.train_stats),
        "seed": args.seed,
        "table": args.table,
    }
    if args.begins_with is not None:
        result.update(begins_with=args.begins_with)
    result.update(command=args.command)
    write_result(args.output, result)


if __name__ == "__main__":
    run_script(main)
