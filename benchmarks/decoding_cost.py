#!/usr/bin/env python3
"""Time of translating whole sentences with beam search, over the size of the target vocabulary.

fairseq's softmax and the searches of the plugin, as their defaults are. Beside the time of each:
``agreement``, the share of sentences whose best hypothesis is that of exact search, and recall@1
and recall@10, the shares of the 1 and 10 nearest words that a search finds, for the predictions
that its own decoding makes. The methods take turns, so that whatever else the machine does falls on
all of them.

Without --checkpoint, models of one size have random weights and rows, and all hypotheses --length
words. Only times say something then: random rows have no neighbours, so that an index finds few
of the nearest, and a lexicon of random words finds none.

With --checkpoint and --data a trained model decodes the first --sentences of a subset, and there is
BLEU: of detokenised text against --reference, or of tokens against those of the data. No softmax of
the same size was trained with it. Its time is that of fairseq's model of the same sizes and
vocabulary with random weights, whose sentences are made to end in all beams after as many words as
exact search needed until it was done with them: so many steps with so many beams are what its time
is made of, not which words it picks.

"ready" is the time until a search can begin: its index is built, and the index's recall is measured
on rows with noise, or it is read from --cache. Prints a table; --json and --plot write files.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from decoders import LOOKS, SEARCHES, Recall, decode, look_at, make_generator
from decoding_settings import random_setting, trained_setting
from output import add_files, at_least, curves, draw, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402

#: Options of random models and of a trained one, with their defaults.
RANDOM = {"vocab": [10_000, 250_000, 1_000_000], "dim": 256, "layers": 3, "length": 20}
TRAINED = {
    "data": None,
    "table": None,
    "subset": "test",
    "lenpen": 1.0,
    "remove_bpe": "@@ ",
    "reference": None,
    "lowercase": False,
    "lexicon": None,
}


class Way(NamedTuple):
    """A row of the table: a method, and how much of an index it looks at.

    Attributes:
        method: a key of :data:`~decoders.SEARCHES`.
        label: what the row is called.
        option: ``probes`` or ``ef``; None where the method has neither.
        value: its value.
    """

    method: str
    label: str
    option: Optional[str] = None
    value: Optional[int] = None


def ways_of(arguments) -> list:
    """Return the rows that are asked for: one a method and number of --probes or --ef."""
    ways = []
    for method in arguments.methods:
        option = next((option for option, owners in LOOKS.items() if method in owners), None)
        for value in getattr(arguments, option) if option else [None]:
            label = method if option is None else f"{method}-{value}"
            ways.append(Way(method, label, option, value))
    return ways


def lengths_of(found: dict) -> torch.Tensor:
    """Return the words of the longest hypothesis of each sentence, by its id."""
    lengths = torch.zeros(max(found) + 1, dtype=torch.long)
    for number, hypotheses in found.items():
        lengths[number] = max(len(h["tokens"]) for h in hypotheses) - 1  # </s> is no word
    return lengths


def best_of(found: dict) -> dict:
    """Return the tokens of each sentence's best hypothesis."""
    return {number: hypotheses[0]["tokens"] for number, hypotheses in found.items()}


def frequent_of(generator) -> Optional[int]:
    """Return how many words are looked at beside an index; None without one."""
    slots = getattr(generator, "slots", None)  # fairseq's generator has none
    words = None if slots is None else getattr(slots.searcher, "frequent", None)
    return None if words is None else len(words)


def first_run(generator, way: Way, setting, table):
    """Decode once, which warms up: the hypotheses, and recall@1 and @10 of a search."""
    recall, slots = Recall(), getattr(generator, "slots", None)
    with recall.listening(slots.searcher) if slots else nullcontext():
        found = decode(generator, setting.batches)[1]
    if slots is None:
        return found, (None, None)
    return found, (1.0, 1.0) if way.method == "exact" else recall.shares(table)


def measure(arguments, setting) -> list:
    """Return a row for each way of decoding the sentences of a setting."""
    table = setting.ours.decoder.continuous_output.table
    reference = decode(make_generator("exact", setting, arguments), setting.batches)[1]
    exact, lengths = best_of(reference), lengths_of(reference)
    ways, generators, rows, seconds = ways_of(arguments), {}, {}, {}
    for way in ways:
        ready = None
        if way.method not in generators:
            forced = lengths if setting.score else None
            generators[way.method] = make_generator(way.method, setting, arguments, forced)
            if hasattr(generators[way.method], "slots"):
                begin = time.perf_counter()
                generators[way.method].slots.searcher.refresh()
                ready = time.perf_counter() - begin
        look_at(generators[way.method], way.option, way.value)
        found, (one, ten) = first_run(generators[way.method], way, setting, table)
        if way.method == "softmax" and not lengths_of(found).equal(lengths):
            raise ValueError("the softmax's hypotheses must be as long as those of exact search")
        best = best_of(found)
        same = [best[number].equal(tokens) for number, tokens in exact.items()]
        rows[way.label] = {
            "method": way.label,
            "vocab": len(setting.target),
            "dim": table.dim,
            "beam": arguments.beam,
            "sentences": len(same),
            "threads": arguments.threads,
            "frequent": frequent_of(generators[way.method]),
            "weights": "random" if not setting.score or way.method == "softmax" else "trained",
            "ready_seconds": ready,
            "agreement": None if way.method == "softmax" else sum(same) / len(same),
            "recall_at_1": one,
            "recall_at_10": ten,
            "peak_bytes": None,  # the models of all methods are in one process
        }
        if setting.score and way.method != "softmax":
            rows[way.label].update(setting.score(best))
    for number in range(arguments.repeats):
        for way in ways:
            look_at(generators[way.method], way.option, way.value)
            spent = decode(generators[way.method], setting.batches)[0]
            seconds.setdefault(way.label, []).append(spent)
        size = len(setting.target)
        print(f"\rV = {size}, round {number + 1}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    base = seconds[ways[0].label]
    for label, row in rows.items():
        row["seconds"] = statistics.median(seconds[label]) / row["sentences"]
        row["ratio_to"] = ways[0].label
        row["ratio"] = statistics.median(a / b for a, b in zip(seconds[label], base))
    return list(rows.values())


def show(rows):
    """Print the table."""

    def number(value, form) -> str:
        return "" if value is None else format(value, form)

    columns = ("agreement", "recall@1", "recall@10", "BLEU", "ready, s")
    print(
        f"{'method':15} {'vocab':>9} {'s a sentence':>13} {'x ' + rows[0]['ratio_to']:>10} "
        + " ".join(f"{name:>9}" for name in columns)
    )
    for row in rows:
        shares = (row[name] for name in ("agreement", "recall_at_1", "recall_at_10"))
        found = [number(share, ".4f") for share in shares]
        found += [number(row.get("bleu"), ".2f"), number(row["ready_seconds"], ".1f")]
        print(
            f"{row['method']:15} {row['vocab']:9,} {row['seconds']:13.4f} {row['ratio']:10.3f} "
            + " ".join(f"{value:>9}" for value in found)
        )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    positive = {"type": at_least(1), "metavar": "N"}
    parser.add_argument("--methods", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--probes", nargs="+", default=[32], help="of ivf, ivfpq", **positive)
    parser.add_argument("--ef", nargs="+", default=[128], help="of hnsw", **positive)
    parser.add_argument(
        "--frequent",
        type=at_least(0),
        metavar="N",
        help="words that are looked at beside an index (--knn-frequent); 0: none",
    )
    parser.add_argument("--cache", metavar="FOLDER", help="where indices are kept")
    parser.add_argument("--beam", default=5, **positive)
    parser.add_argument("--sentences", default=32, **positive)
    parser.add_argument("--batch", default=32, help="sentences at once", **positive)
    parser.add_argument("--repeats", default=3, **positive)
    parser.add_argument("--threads", default=1, help="of torch and faiss", **positive)
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    some = parser.add_argument_group("random weights")
    some.add_argument("--vocab", nargs="+", type=at_least(100), metavar="N")
    some.add_argument("--dim", help="of model and table", **positive)
    some.add_argument("--layers", **positive)
    some.add_argument("--length", help="words of source and hypotheses", **positive)
    some = parser.add_argument_group("a trained model")
    some.add_argument("--checkpoint", metavar="FILE")
    some.add_argument("--data", metavar="FOLDER", help="that fairseq-preprocess made")
    some.add_argument("--table", metavar="FILE", help="where --table-storage file has it now")
    some.add_argument("--subset", metavar="NAME")
    some.add_argument("--lenpen", type=float, metavar="X", help="length penalty")
    some.add_argument("--remove-bpe", metavar="MARK", help='as in fairseq-generate ("@@ ")')
    some.add_argument("--reference", metavar="FILE", help="text of the subset, as published")
    some.add_argument("--lowercase", action="store_true", default=None, help="score without case")
    some.add_argument("--lexicon", metavar="FILE", help="of the shortlist")
    add_files(parser)
    return parser


def parse(argv=None):
    """Return the options, those of random or of trained models alone."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    trained = arguments.checkpoint is not None
    for name in RANDOM if trained else TRAINED:
        if getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            kind = (
                "random weights, but there is a" if trained else "a trained model, but there is no"
            )
            parser.error(f"{flag} belongs to {kind} --checkpoint; leave it out")
    for name, value in chain(RANDOM.items(), TRAINED.items()):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if trained and arguments.data is None:
        parser.error("--checkpoint needs --data, the folder that fairseq-preprocess made; give it")
    if trained and arguments.lexicon is None and "shortlist" in arguments.methods:
        parser.error(
            "--methods shortlist needs --lexicon FILE, which preprocess/build_lexicon.py makes; "
            "give it, or --methods without shortlist"
        )
    return arguments


def main(argv=None):
    """Run from the command line."""
    arguments = parse(argv)
    if argv is None and not MALLOC.keys() <= os.environ.keys():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401

    torch.set_num_threads(arguments.threads)
    if {"hnsw", "ivf", "ivfpq"}.intersection(arguments.methods):
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
    rows = []
    if arguments.checkpoint:
        rows += measure(arguments, trained_setting(arguments))
    else:
        for size in arguments.vocab:
            with tempfile.TemporaryDirectory() as folder:
                rows += measure(arguments, random_setting(arguments, size, Path(folder)))
            gc.collect()
    show(rows)
    write_json(rows, arguments.json)
    dashed = [name for name, options in SEARCHES.items() if options is None]
    label = "seconds a sentence"
    draw(arguments.plot, (6, 4), lambda axes: curves(axes, rows, "seconds", label, dashed=dashed))


if __name__ == "__main__":
    main()
