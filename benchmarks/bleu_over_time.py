#!/usr/bin/env python3
"""Score the checkpoints of several trainings and draw BLEU over the cost of training.

Each training is a folder that a recipe made with CHECKPOINT=average, in which the checkpoints of
its epochs are kept (--keep-last-epochs 99 keeps all). Point n is the mean of the weights of the
last --average epochs up to n (--average-own for one training), decoded with --lenpen and
--temperature (--lenpen-own and --temperature-own for one training, such as its recipe chose by the
validation data). Cost is counted in updates of the first training: updates × (time of an update /
time of an update of the first), with ratios that update_cost.py measured side by side, since wall
times of trainings that ran beside other work say little; --start adds what came before the first
update, fastText say. Prints a table; --json and --plot write files.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from output import add_files, at_least, draw, named, write_json

ROOT = Path(__file__).resolve().parent.parent
#: options that one training can have otherwise than the others
OWN = ("average_own", "lenpen_own", "temperature_own")
sys.path.insert(0, str(ROOT / "examples" / "lib"))


def checkpoints(folder: Path) -> list:
    """Return the checkpoints of epochs in their order: pairs (epoch, file)."""
    found = (folder / "checkpoints").glob("checkpoint[0-9]*.pt")
    epochs = sorted((int(path.stem[len("checkpoint") :]), path) for path in found)
    if not epochs:
        raise SystemExit(
            f"error: {folder}/checkpoints must hold checkpoints of epochs, but has none; train "
            "with CHECKPOINT=average and --keep-last-epochs 99"
        )
    return epochs


def generate_command(arguments) -> list:
    """Return the call of fairseq-generate, but for the checkpoint and the caller's own options."""
    program = Path(sysconfig.get_path("scripts")) / "fairseq-generate"
    command = [program, arguments.data, "--user-dir", ROOT / "fairseq_contout"]
    command += ["--gen-subset", arguments.subset, "--beam", arguments.beam]
    command += ["--batch-size", 64, "--required-batch-size-multiple", 1, "--remove-bpe"]
    command += ["--source-lang", arguments.source_lang, "--target-lang", arguments.target_lang]
    return [str(word) for word in command]


def decode(arguments, weights: Path, log: Path, lenpen: float, temperature: float):
    """Translate the data with one checkpoint."""
    words = [*generate_command(arguments), "--path", str(weights), *arguments.decode_options]
    words += ["--lenpen", str(lenpen), "--temperature", str(temperature)]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(words)}:\n{done.stderr[-2000:]}")


def measure(arguments) -> list:
    """Return a row for each checkpoint of each training."""
    import torch
    from average import average
    from sacremoses import MosesDetokenizer
    from score import read_hypotheses, read_lines, score

    import fairseq_contout  # noqa: F401  lets torch >= 2.6 load fairseq's checkpoints

    references = read_lines(Path(arguments.reference))
    detokenizer = MosesDetokenizer(lang=arguments.target_lang)
    costs, starts = dict(arguments.cost), dict(arguments.start)
    shared = (arguments.average, arguments.lenpen, arguments.temperature)
    own = [dict(getattr(arguments, name)) for name in OWN]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        weights, log = Path(scratch) / "mean.pt", Path(scratch) / "log"
        for name, folder in arguments.run:
            files = checkpoints(Path(folder))
            averaged, lenpen, temperature = (
                mine.get(name, value) for mine, value in zip(own, shared)
            )
            # every so many epochs, counted back from the last
            first = (len(files) - 1) % arguments.step
            for last in range(first, len(files), arguments.step):
                chosen = files[max(0, last + 1 - averaged) : last + 1]
                state = average([path for _, path in chosen])
                torch.save(state, weights)
                decode(arguments, weights, log, lenpen, temperature)
                hypotheses = [
                    detokenizer.detokenize(line.split())
                    for line in read_hypotheses(log, len(references))
                ]
                found = score(hypotheses, references, False, arguments.lowercase)
                updates = torch.load(files[last][1], weights_only=True)["optimizer_history"][-1]
                rows.append(
                    {
                        "method": name,
                        "epoch": files[last][0],
                        "updates": updates["num_updates"],
                        "cost": starts.get(name, 0.0)
                        + updates["num_updates"] * costs.get(name, 1.0),
                        "averaged": len(chosen),
                        "lenpen": lenpen,
                        "temperature": temperature,
                        **found,
                    }
                )
                print(
                    f"{name:20} epoch {rows[-1]['epoch']:3} updates {rows[-1]['updates']:6} cost "
                    f"{rows[-1]['cost']:8.0f} BLEU {found['bleu']:5.2f} chrF {found['chrf']:5.2f}",
                    flush=True,
                )
    return rows


def paint(axes, rows, first):
    """Draw BLEU over cost, a line for each training."""
    styles = ["o-", "s-", "^-", "d-", "v-"]
    for number, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == name]
        axes.plot(
            [row["cost"] for row in own],
            [row["bleu"] for row in own],
            styles[number % len(styles)],
            markersize=4,
            label=name,
        )
    axes.axhline(
        max(row["bleu"] for row in rows if row["method"] == first),
        color="#888888",
        linewidth=0.8,
        linestyle="--",
    )
    axes.set_xlabel(f"training time, in updates of {first}")
    axes.set_ylabel("BLEU")
    axes.legend(frameon=False)


def above_zero(text: str) -> float:
    """Return a number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, but is {text}")
    return value


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder that fairseq-preprocess made")
    parser.add_argument(
        "--run", type=named("OUT_DIR"), action="append", required=True, metavar="NAME=OUT_DIR"
    )
    parser.add_argument(
        "--cost",
        type=named("NUMBER", float),
        action="append",
        default=[],
        metavar="NAME=RATIO",
        help="time of an update by that of the first training (1)",
    )
    parser.add_argument(
        "--start",
        type=named("NUMBER", float),
        action="append",
        default=[],
        metavar="NAME=UPDATES",
        help="time that is spent before the first update, in updates of the first training (0)",
    )
    parser.add_argument("--reference", required=True, help="text of the subset, as published")
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--source-lang", required=True)
    parser.add_argument("--target-lang", required=True)
    parser.add_argument("--lowercase", action="store_true", help="score without case")
    parser.add_argument("--beam", type=at_least(1), default=5)
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty of the beam")
    parser.add_argument(
        "--temperature", type=above_zero, default=1.0, help="of the beam search, > 0"
    )
    for option, kind in (("lenpen", float), ("temperature", above_zero)):
        parser.add_argument(
            f"--{option}-own",
            type=named("NUMBER", kind),
            action="append",
            default=[],
            metavar="NAME=NUMBER",
            help="the same for one training",
        )
    parser.add_argument(
        "--decode-options",
        type=str.split,
        default=[],
        metavar="OPTIONS",
        help="more options of fairseq-generate in one word: --decode-options='--max-len-b 8'",
    )
    parser.add_argument(
        "--average", type=at_least(1), default=1, help="epochs whose weights are averaged"
    )
    parser.add_argument(
        "--average-own",
        type=named("EPOCHS", at_least(1)),
        action="append",
        default=[],
        metavar="NAME=EPOCHS",
        help="the same for one training; 1 suits a learning rate that falls to 0",
    )
    parser.add_argument("--step", type=at_least(1), default=1, help="score every so many epochs")
    add_files(parser)
    arguments = parser.parse_args()
    runs = {name for name, _ in arguments.run}
    for option in ("cost", "start", *OWN):
        unknown = {name for name, _ in getattr(arguments, option)} - runs
        if unknown:
            option = option.replace("_", "-")
            parser.error(f"--{option} names {', '.join(sorted(unknown))}, which no --run names")
    taken = {"--path", "--lenpen", "--temperature", *generate_command(arguments)}
    for option in arguments.decode_options:
        if option.startswith("--") and option.split("=")[0] in taken:
            parser.error(
                f"--decode-options must not have {option.split('=')[0]}, which is set here, but is "
                f"{' '.join(arguments.decode_options)!r}; leave it out"
            )
    if not Path(arguments.reference).is_file():
        parser.error(
            f"--reference must be a file, but {arguments.reference} is none; give "
            "PREP_DIR/raw/SUBSET.LANG of a recipe"
        )
    sys.path.insert(0, str(ROOT))
    rows = measure(arguments)
    write_json(rows, arguments.json)
    draw(arguments.plot, (7, 4), lambda axes: paint(axes, rows, arguments.run[0][0]))


if __name__ == "__main__":
    main()
