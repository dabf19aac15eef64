"""Score the translations of several models of one language: BLEU and chrF of each."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from sacremoses import MosesDetokenizer  # noqa: E402
from score import read_hypotheses, read_lines, run_script, score, write_result  # noqa: E402


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", metavar="NAME=LOG", help="of fairseq-generate")
    parser.add_argument("--reference", type=Path, required=True, help="as published")
    parser.add_argument("--target-lang", required=True)
    parser.add_argument("--alignment", type=Path, required=True, help="report of align_tables.py")
    parser.add_argument("--trained", type=Path, required=True, help="result of the model before")
    parser.add_argument("--lexicon", required=True, help="its name")
    parser.add_argument("--command", required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    references = read_lines(args.reference)
    trained = json.loads(read_lines(args.trained)[-1])
    alignment = json.loads(args.alignment.read_text(encoding="utf-8"))
    detokenizer = MosesDetokenizer(lang=args.target_lang)
    result = {
        name: trained[name] for name in ("recipe", "test_set", "seed", "lenpen", "temperature")
    }
    result["trained"] = {name: trained[name] for name in ("bleu", "chrf", "train_seconds")}
    result["alignment"] = {"lexicon": args.lexicon}
    for name in ("pairs", "held_out_words", "refinements", "precision"):
        result["alignment"][name] = alignment[name]
    for variant in args.variants:
        name, log = variant.split("=", 1)
        hypotheses = read_hypotheses(Path(log), len(references))
        text = [detokenizer.detokenize(line.split()) for line in hypotheses]
        Path(log).with_suffix(".txt").write_text("\n".join(text) + "\n", encoding="utf-8")
        scores = score(text, references, tokenized=False, lowercase=True)
        for signature in ("bleu_signature", "chrf_signature"):
            result[signature] = scores.pop(signature)
        result[name] = scores
    result.update(command=args.command)
    write_result(args.output, result)


if __name__ == "__main__":
    run_script(main)
