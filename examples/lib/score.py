"""Score translations of fairseq-generate with sacreBLEU and write one JSON object.

Hypotheses are put in the order of their sentences and detokenised (unless ``--tokenized``); they
are compared with the reference file as it is.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacremoses import MosesDetokenizer
from word_f1 import word_f1

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import atomic_text  # noqa: E402

#: fairseq's summary of an epoch of training: only that has a "train_wall".
EPOCH = re.compile(r"\bepoch 0*(\d+) \|.*\| num_updates (\d+) \|.*\| train_wall (\d+)")
#: … and of a validation, with its names and numbers
VALIDATION = re.compile(r"\| valid on 'valid' subset \|(.*)")
#: what is told of the last one: name in the result → name in the log
VALIDATED = {"updates": "num_updates", "perplexity": "ppl", "accuracy": "accuracy", "ece": "ece"}


def read_lines(path: Path) -> list:
    """Return the lines of a UTF-8 file; only "\\n" ends a line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def read_hypotheses(path: Path, count: int) -> list:
    """Return the best hypothesis of each sentence, in the order of the sentences.

    Raises:
        ValueError: the sentences are not exactly 0 … count - 1.
    """
    found = {}
    for line in read_lines(path):
        if line.startswith("H-"):
            number, _, text = line.split("\t", 2)
            found.setdefault(int(number[2:]), text)
    if sorted(found) != list(range(count)):
        raise ValueError(
            f"{path}: must hold one hypothesis for each of the {count} references, but holds "
            f"{len(found)}; delete it and decode again"
        )
    return [found[i] for i in range(count)]


def score(hypotheses: list, references: list, tokenized: bool, lowercase: bool) -> dict:
    """Return BLEU and chrF with their signatures."""
    bleu = BLEU(lowercase=lowercase, tokenize="none" if tokenized else "13a", force=tokenized)
    chrf = CHRF(lowercase=lowercase)
    values = {
        "bleu": round(bleu.corpus_score(hypotheses, [references]).score, 2),
        "chrf": round(chrf.corpus_score(hypotheses, [references]).score, 2),
    }
    values["bleu_signature"] = str(bleu.get_signature())
    values["chrf_signature"] = str(chrf.get_signature())
    return values


def training_cost(log: Path, stats: Path) -> dict:
    """Return updates, seconds and peak bytes of a training, over its interruptions.

    ``seconds_per_update`` is fairseq's own ``train_wall``, the time inside the updates: it is
    logged in whole seconds an epoch. Where that is too coarse (trainings of a few seconds, for
    tests), it is the wall time of the whole training by the number of updates.
    """
    epochs = {}  # an epoch that was begun twice counts as it was finished
    for line in read_lines(log):
        match = EPOCH.search(line)
        if match:
            epochs[int(match[1])] = (int(match[2]), int(match[3]))
    if not epochs:
        raise ValueError(f"{log}: must hold the summary of an epoch, but holds none; train again")
    updates = max(done for done, _ in epochs.values())
    kept = json.loads(stats.read_text(encoding="utf-8"))
    inside = sum(wall for _, wall in epochs.values())
    if inside < 10 * len(epochs):
        inside = kept["seconds"]
    return {
        "updates": updates,
        "train_seconds": round(kept["seconds"], 1),
        "train_cpu_seconds": round(kept.get("cpu_seconds", 0.0), 1),
        "seconds_per_update": round(inside / updates, 4),
        "peak_memory_bytes": kept["peak_memory_bytes"],
    }


def last_validation(log: Path) -> dict:
    """Return what the log has of the last validation; nothing if there was none.

    Updates and perplexity; of ours also accuracy and expected calibration error in per cent, at the
    temperature that suits the data best.
    """
    found = VALIDATION.findall("\n".join(read_lines(log)))
    logged = dict(part.split(maxsplit=1) for part in found[-1].split("|")) if found else {}
    return {
        name: int(logged[key]) if name == "updates" else float(logged[key])
        for name, key in VALIDATED.items()
        if key in logged
    }


def write_result(path: Path, result: dict):
    """Write a result as one line of JSON, atomically."""
    with atomic_text(path) as file:
        file.write(json.dumps(result) + "\n")


def add_result_args(parser):
    """Add what the results of all models tell: their training, and how to get them again."""
    parser.add_argument("--train-log", type=Path, required=True)
    parser.add_argument("--train-stats", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--test-set", required=True, help="name for the result")
    parser.add_argument("--table", help="name of the target table")
    parser.add_argument("--begins-with", help="name of the rows that embeddings began with")
    parser.add_argument("--command", help="how to get the result again")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")


def run_script(main):
    """Call ``main()``; an error of use is one line."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beam", type=Path, required=True, help="output of beam search")
    parser.add_argument("--greedy", type=Path, required=True, help="output of beam 1")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--reference-tokens", type=Path, help="tokenised, for the F1 of words")
    parser.add_argument("--train-text", type=Path, help="tokenised target text of the training")
    parser.add_argument("--target-lang", required=True)
    parser.add_argument("--tokenized", action="store_true", help="score tokens as they are")
    parser.add_argument("--lowercase", action="store_true", help="score without case")
    parser.add_argument("--lenpen", type=float, default=1.0, help="of the beam search")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the beam search")
    parser.add_argument("--search", help="how the nearest words were found")
    parser.add_argument("--pretrain-stats", type=Path, help="of a language model before it")
    add_result_args(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    references = read_lines(args.reference)
    detokenizer = MosesDetokenizer(lang=args.target_lang)
    scores, rare = {}, {}
    for name in ("beam", "greedy"):
        log = getattr(args, name)
        hypotheses = read_hypotheses(log, len(references))
        if name == "beam" and args.train_text is not None:
            counts = Counter(word for line in read_lines(args.train_text) for word in line.split())
            rare["word_f1"] = word_f1(hypotheses, read_lines(args.reference_tokens), counts)
        if not args.tokenized:
            hypotheses = [detokenizer.detokenize(line.split()) for line in hypotheses]
        log.with_suffix(".txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
        scores[name] = score(hypotheses, references, args.tokenized, args.lowercase)
    result = {"recipe": args.recipe, "test_set": args.test_set, **scores["beam"]}
    result.update({f"greedy_{name}": scores["greedy"][name] for name in ("bleu", "chrf")})
    result.update(rare)
    result.update(training_cost(args.train_log, args.train_stats), seed=args.seed)
    validated = last_validation(args.train_log)
    if validated:
        result.update(last_validation=validated)
    result.update(lenpen=args.lenpen, temperature=args.temperature, table=args.table)
    if args.search is not None:
        result.update(search=args.search)
    if args.begins_with is not None:
        result.update(begins_with=args.begins_with)
    if args.pretrain_stats is not None:
        spent = json.loads(args.pretrain_stats.read_text())
        result.update(
            pretrain_seconds=round(spent["seconds"], 1),
            pretrain_cpu_seconds=round(spent["cpu_seconds"], 1),
        )
    result.update(command=args.command)
    write_result(args.output, result)


if __name__ == "__main__":
    run_script(main)
