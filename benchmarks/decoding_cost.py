#!/usr/bin/env python3
"""Time of translating whole sentences with beam search, over the size of the target vocabulary.

fairseq's softmax and the searches of the plugin, on models of one size with random weights and
random rows (of trained ones an index may look at more or fewer). All hypotheses have --length
words. The methods of one vocabulary take turns, so that whatever else the machine does falls on
all of them. Prints a table; --json and --plot write files.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from layers import make_dictionary
from output import draw, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402

#: Method → options of the search; None for the generator of fairseq over all words.
SEARCHES = {
    "softmax": None,
    "dense": None,
    "exact": {},
    "exact-bfloat16": {"knn_rows": "bfloat16"},
    "exact-int8": {"knn_rows": "int8"},
    "hnsw": {"knn_search": "hnsw", "hnsw_ef_construction": 40, "hnsw_links": 16},
    "ivf": {"knn_search": "ivf"},
    "ivfpq": {"knn_search": "ivfpq"},
}


def build_model(arguments, source, target, path):
    """Return a model: fairseq's with a softmax, or one that reads and predicts rows of a table."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    arch = "transformer" if path is None else "continuous_transformer"
    sizes = {"layers": arguments.layers, "embed_dim": arguments.dim, "attention_heads": 4}
    args = Namespace(arch=arch, dropout=0.0)
    for side in ("encoder", "decoder"):
        for name, value in {**sizes, "ffn_embed_dim": 4 * arguments.dim}.items():
            setattr(args, f"{side}_{name}", value)
    if path is None:
        args.share_decoder_input_output_embed = True
    else:
        args.criterion, args.target_table, args.decoder_input = "cosine", path, "table"
        args.table_storage = "file"
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(arguments.seed)
    task = Namespace(source_dictionary=source, target_dictionary=target)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task).eval()


def make_generator(name, model, target, arguments):
    """Return fairseq's generator over all words, or the plugin's over what a search finds."""
    from fairseq.sequence_generator import SequenceGenerator

    from fairseq_contout.generator import KNNSequenceGenerator
    from fairseq_contout.search_options import SearchOptions

    options = {"beam_size": arguments.beam, "max_len_a": 0, "max_len_b": arguments.length}
    options["min_len"] = arguments.length
    if SEARCHES[name] is None:
        return SequenceGenerator([model], target, **options)
    search = SearchOptions(**SEARCHES[name])
    return KNNSequenceGenerator([model], target, knn=32, search_options=search, **options)


def batch_of(source, arguments) -> dict:
    """Return random sentences as fairseq's translation task makes them."""
    generator = torch.Generator().manual_seed(arguments.seed)
    size = (arguments.sentences, arguments.length)
    tokens = torch.randint(source.nspecial, len(source), size, generator=generator)
    ends = torch.full((arguments.sentences, 1), source.eos())
    tokens = torch.cat((tokens, ends), dim=1)
    lengths = torch.full((arguments.sentences,), tokens.size(1))
    return {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}


def measure(arguments, size: int, folder: Path):
    """Return a row a method for one size of the vocabulary."""
    from fairseq_contout.target_table import save_table

    source, target = make_dictionary(5000), make_dictionary(size)
    path = folder / f"{size}.safetensors"
    torch.manual_seed(arguments.seed)
    rows = F.normalize(torch.randn(size, arguments.dim), dim=1)
    save_table(path, rows, target, source="random", origins={"random": size})
    del rows
    models = {"softmax": build_model(arguments, source, target, None)}
    models["ours"] = build_model(arguments, source, target, str(path))
    sample = batch_of(source, arguments)
    seconds, build, generators = {}, {}, {}
    for name in arguments.methods:
        model = models["softmax" if name == "softmax" else "ours"]
        generators[name] = make_generator(name, model, target, arguments)
        begin = time.perf_counter()
        generators[name].generate([model], sample)  # builds an index, and warms up
        build[name] = time.perf_counter() - begin
    for number in range(arguments.repeats):
        for name, generator in generators.items():
            model = models["softmax" if name == "softmax" else "ours"]
            begin = time.perf_counter()
            found = generator.generate([model], sample)
            seconds.setdefault(name, []).append(time.perf_counter() - begin)
            if {len(best[0]["tokens"]) for best in found} != {arguments.length + 1}:
                raise ValueError(f"{name}: all hypotheses must have --length words")
        print(f"\rV = {size}, round {number + 1}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    path.unlink()
    return [
        {
            "method": name,
            "vocab": size,
            "dim": arguments.dim,
            "beam": arguments.beam,
            "seconds": statistics.median(seconds[name]) / arguments.sentences,
            "first_seconds": build[name],
            "ratio_to": arguments.methods[0],
            "ratio": statistics.median(
                a / b for a, b in zip(seconds[name], seconds[arguments.methods[0]])
            ),
            "peak_bytes": None,  # the models of all methods are in one process
        }
        for name in arguments.methods
    ]


def paint(axes, rows):
    """Draw a curve for each method: time of a sentence over V."""
    for name in dict.fromkeys(row["method"] for row in rows):
        points = [(r["vocab"], r["seconds"]) for r in rows if r["method"] == name]
        style = "--" if SEARCHES[name] is None else "-"
        axes.plot(*zip(*points), style, marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("vocabulary V")
    axes.set_ylabel("seconds a sentence")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def main(argv=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    positive = {"type": int, "metavar": "N"}
    parser.add_argument("--methods", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--vocab", nargs="+", default=[10_000, 250_000, 1_000_000], **positive)
    parser.add_argument("--dim", default=256, help="of model and table", **positive)
    parser.add_argument("--layers", default=3, **positive)
    parser.add_argument("--beam", default=5, **positive)
    parser.add_argument("--sentences", default=32, help="in the batch", **positive)
    parser.add_argument("--length", default=20, help="words of source and hypotheses", **positive)
    parser.add_argument("--repeats", default=3, **positive)
    parser.add_argument("--seed", default=1, **positive)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args(argv)
    if min(arguments.vocab) < 100:
        parser.error(f"--vocab must be 100 or more, but is {min(arguments.vocab)}")
    if argv is None and not MALLOC.keys() <= os.environ.keys():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.vocab:
            rows += measure(arguments, size, Path(folder))
            gc.collect()
    first = arguments.methods[0]
    print(f"{'method':15} {'vocab':>9} {'s a sentence':>13} {'x ' + first:>10} {'first, s':>9}")
    for row in rows:
        print(
            f"{row['method']:15} {row['vocab']:9,} {row['seconds']:13.4f} {row['ratio']:10.3f} "
            f"{row['first_seconds']:9.1f}"
        )
    write_json(rows, arguments.json)
    draw(arguments.plot, (6, 4), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
