#!/usr/bin/env python3
"""Time a training update of each recipe beside the softmax's, on the same batches.

The models take turns batch by batch in one process, so that whatever else the machine does falls on
all of them. An update is forward, backward, scaling and clipping of the gradients, and the step of
fairseq's adam, or of row_adam with --sparse. Prints a table; --json and --plot write files. Ratios
are medians over batches of (recipe / softmax).
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch
from output import add_files, at_least, draw, named, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "lib"))
from train import MALLOC  # noqa: E402

RECIPES = {
    "softmax": ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"],
    "contrastive": ["--criterion", "contrastive", "--label-smoothing", "0.1"],
    "contrastive-frozen": ["--criterion", "contrastive", "--label-smoothing", "0.1"],
    "hybrid": ["--criterion", "hybrid", "--label-smoothing", "0.1"],
    "cosine": ["--criterion", "cosine"],
    "l2": ["--criterion", "l2"],
    "vmf": ["--criterion", "vmf"],
    "vmf-authors": ["--criterion", "vmf", "--vmf-form", "authors"],
    "margin": ["--criterion", "margin", "--negatives", "table"],
    "margin-batch": ["--criterion", "margin", "--negatives", "batch"],
    "syn-margin": ["--criterion", "syn_margin"],
    "power-spherical": ["--criterion", "power_spherical"],
}
#: of a language model, which is trained without label smoothing
LANGUAGE_MODELS = {
    "softmax": ["--criterion", "cross_entropy"],
    "adaptive": ["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"],
    "contrastive": ["--criterion", "contrastive"],
    "contrastive-frozen": ["--criterion", "contrastive"],
    "hybrid": ["--criterion", "hybrid"],
}
#: --task → softmax architecture, and what --share means there
TASKS = {
    "translation": ("transformer", "--share-all-embeddings"),
    "language_modeling": ("transformer_lm", "--share-decoder-input-output-embed"),
}

#: what --arch may be for a translation: fairseq's own, of which the plugin has a continuous one
ARCHITECTURES = ("transformer", "transformer_tiny", "transformer_iwslt_de_en", "lstm")

#: recipes whose table is learned with the model, tied to the embeddings that a softmax is tied to
LEARNED = ("contrastive", "hybrid")


def build(recipe, arguments, extra):
    """Return a recipe's task, model, criterion and optimiser, as fairseq-train builds them."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.optim import build_optimizer

    softmax, translation = recipe in ("softmax", "adaptive"), arguments.task == "translation"
    arch, share = TASKS[arguments.task]
    if translation:
        arch = arguments.arch
        share = "--share-decoder-input-output-embed" if arguments.separate else share
    flags = [arguments.data, "--user-dir", str(ROOT / "fairseq_contout"), "--task", arguments.task]
    sparse = arguments.sparse and not softmax
    flags += [
        "--optimizer",
        "row_adam" if sparse else "adam",
        "--lr",
        "0.001",
        "--max-tokens",
        str(arguments.max_tokens),
    ]
    flags += ["--arch", arch if softmax else f"continuous_{arch}"]
    if recipe == "adaptive":  # whose words have no matrix that could be shared
        flags += ["--adaptive-softmax-cutoff", arguments.adaptive_cutoff]
    elif softmax or recipe in LEARNED:
        flags += [share] if arguments.share else []
        flags += [] if softmax else ["--target-table", "learned"]
    else:
        flags += ["--target-table", arguments.table]
        if translation and arguments.separate:  # no number of the model is one of a target word
            flags += ["--decoder-input", "table"]
        elif translation and arguments.share:
            flags += ["--decoder-input", "encoder"]
    flags += ["--sparse-gradients"] if sparse else []
    own = {**(RECIPES if translation else {**RECIPES, **LANGUAGE_MODELS})}
    own["linear"] = ["--criterion", "cosine"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), flags + own[recipe] + extra)
    config = convert_namespace_to_omegaconf(parsed)
    task = tasks.setup_task(config.task)
    torch.manual_seed(1)
    model = task.build_model(config.model)
    criterion = task.build_criterion(config.criterion)
    if recipe == "linear":  # what no output layer goes below: the map to d alone
        criterion.token_losses = lambda hidden, target, table: hidden.sum(dim=-1)
    everything = [*model.parameters(), *criterion.parameters()]
    parameters = [p for p in everything if p.requires_grad]
    optimizer = build_optimizer(config.optimizer, parameters)
    return task, model.train(), criterion.train(), optimizer


def update(model, criterion, optimizer, sample):
    """Make one update and return its seconds."""
    begin = time.perf_counter()
    loss, size, _ = criterion(model, sample)
    loss.backward()
    optimizer.multiply_grads(1 / size)
    optimizer.clip_grad_norm(1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begin


def measure(arguments, extra):
    """Return one row a recipe: median seconds, ratio to the softmax, learned parameters."""
    built = {recipe: build(recipe, arguments, extra) for recipe in arguments.recipes}
    for name, (recipe, *more) in arguments.variant:
        built[name] = build(recipe, arguments, [*extra, *more])
    task = next(iter(built.values()))[0]
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.dataset("train"), max_tokens=arguments.max_tokens, seed=arguments.seed
    ).next_epoch_itr(shuffle=True)
    seconds = {recipe: [] for recipe in built}
    for number, sample in enumerate(batches):
        if number == arguments.updates + 2:
            break
        for recipe, (_, model, criterion, optimizer) in built.items():
            seconds[recipe].append(update(model, criterion, optimizer, sample))
        print(f"\rbatch {number + 1}/{arguments.updates + 2}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = []
    for recipe, (_, model, _, _) in built.items():
        ratios = [a / b for a, b in zip(seconds[recipe][2:], seconds[arguments.recipes[0]][2:])]
        learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(
            {
                "method": recipe,
                "vocab": len(task.target_dictionary),
                "seconds": statistics.median(seconds[recipe][2:]),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
                "learned_parameters": learned,
                "updates": len(ratios),
            }
        )
    return rows


def variant(text: str) -> list:
    """Return a recipe and its options, which are split as a shell does."""
    words = shlex.split(text)
    if not words or words[0] not in RECIPES:
        raise ValueError
    return words


def paint(axes, rows):
    """Draw the ratios with their quartiles."""
    names, ratios = [r["method"] for r in rows], [r["ratio"] for r in rows]
    low = [r["ratio"] - r["ratio_quartiles"][0] for r in rows]
    high = [r["ratio_quartiles"][1] - r["ratio"] for r in rows]
    axes.barh(names, ratios, xerr=[low, high], color="#4477aa", ecolor="#222222", capsize=3)
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("time of an update relative to the softmax's (median, quartiles)")


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Unknown options go to fairseq-train (sizes of the model)."
    )
    parser.add_argument("data", help="folder that fairseq-preprocess made")
    parser.add_argument("--table", required=True, help="target table of the target dictionary")
    parser.add_argument("--task", choices=list(TASKS), default="translation")
    parser.add_argument(
        "--recipes", nargs="+", default=list(RECIPES), choices=[*RECIPES, "adaptive", "linear"]
    )
    parser.add_argument(
        "--variant",
        action="append",
        type=named("RECIPE OPTIONS", variant),
        default=[],
        metavar="NAME=RECIPE OPTIONS",
        help="a recipe with further options of fairseq-train",
    )
    parser.add_argument("--adaptive-cutoff", default="4000,12000", help="of the recipe adaptive")
    parser.add_argument(
        "--updates", type=at_least(2), default=20, help="batches that count, after 2"
    )
    parser.add_argument("--max-tokens", type=at_least(1), default=4096)
    parser.add_argument("--share", action="store_true", help="one embedding for both sides")
    parser.add_argument(
        "--arch", choices=ARCHITECTURES, default="transformer", help="of a translation; fairseq's"
    )
    parser.add_argument(
        "--separate",
        action="store_true",
        help="languages have dictionaries of their own: softmax and learned tables are shared with "
        "the decoder's input (with --share), which otherwise reads the frozen table",
    )
    parser.add_argument(
        "--sparse", action="store_true", help="--sparse-gradients and row_adam for all but softmax"
    )
    parser.add_argument("--seed", type=int, default=1)
    add_files(parser)
    arguments, extra = parser.parse_known_args()
    names = [*arguments.recipes, *(name for name, _ in arguments.variant)]
    if len(set(names)) < len(names):
        parser.error(f"names of recipes and variants must differ, but are {', '.join(names)}")
    if "adaptive" in arguments.recipes and arguments.task == "translation":
        parser.error("the recipe adaptive is one of --task language_modeling; leave it out")
    if not MALLOC.keys() <= os.environ.keys():  # as the recipes train; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401  (registers, also when only softmax is timed)

    rows = measure(arguments, extra)
    width = max(len(row["method"]) for row in rows)
    print(f"{'recipe':{width}} {'seconds':>8} {'ratio':>6} {'quartiles':>12} {'learned':>10}")
    for row in rows:
        low, high = row["ratio_quartiles"]
        print(
            f"{row['method']:{width}} {row['seconds']:8.3f} {row['ratio']:6.3f} "
            f"{low:6.3f}-{high:.3f} {row['learned_parameters']:10,}"
        )
    write_json(rows, arguments.json)
    draw(arguments.plot, (7, 3.5), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
