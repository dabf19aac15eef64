"""Score several ways to decode: BLEU, and how many of the words that were no targets are found."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from new_words import dictionary_words, found_words  # noqa: E402
from sacremoses import MosesDetokenizer  # noqa: E402
from score import read_hypotheses, read_lines, run_script, score, training_cost, write_result  # noqa: E402


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", metavar="NAME=LOG", help="of fairseq-generate")
    parser.add_argument("--reference", type=Path, required=True, help="as published")
    parser.add_argument("--reference-tokens", type=Path, required=True)
    parser.add_argument("--dictionary", type=Path, required=True, help="of the training")
    parser.add_argument("--extended", type=Path, required=True, help="dictionary with new words")
    parser.add_argument("--train-log", type=Path, required=True)
    parser.add_argument("--train-stats", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lenpen", type=float, required=True)
    parser.add_argument("--bonus", type=float, required=True, help="of extended-bonus")
    parser.add_argument("--softmax-lenpen", type=float, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--softmax-temperature", type=float, required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    references, tokens = read_lines(args.reference), read_lines(args.reference_tokens)
    trained = dictionary_words(args.dictionary)
    new = dictionary_words(args.extended) - trained
    detokenizer = MosesDetokenizer(lang="en")
    result = {"recipe": args.recipe, "test_set": "test_2016_flickr", "seed": args.seed}
    result.update(trained_words=len(trained), new_words=len(new))
    for variant in args.variants:
        name, log = variant.split("=", 1)
        hypotheses = read_hypotheses(Path(log), len(references))
        words = found_words(hypotheses, tokens, new)
        text = [detokenizer.detokenize(line.split()) for line in hypotheses]
        Path(log).with_suffix(".txt").write_text("\n".join(text) + "\n", encoding="utf-8")
        scores = score(text, references, tokenized=False, lowercase=True)
        for signature in ("bleu_signature", "chrf_signature"):
            result[signature] = scores.pop(signature)
        result.update(new_words_in_references=words.pop("wanted"))
        result[name] = {**scores, **words}
    for name in ("lenpen", "temperature", "softmax_lenpen", "softmax_temperature", "bonus"):
        result[name] = getattr(args, name)
    result.update(training_cost(args.train_log, args.train_stats), command=args.command)
    write_result(args.output, result)


if __name__ == "__main__":
    run_script(main)
