#!/usr/bin/env python3
"""How often is the next token the likeliest one, for rare and for frequent tokens?

Models read the references (teacher forcing). Target tokens are put in buckets by how often the
training text has them as targets, `</s>` among them, and for each bucket the table shows the share
of tokens whose row is the likeliest (per cent), and the mean of -log p of the tokens (nats, at the
temperature that decoding takes). On the training text itself (--subset train) it shows what a loss
has learned, on others what of it holds. For models of translation whose data have one dictionary;
the training text is the first of the data's parts where there are several.
"""

import argparse
import sys
from pathlib import Path

import torch
from output import add_files, at_least, draw_several, named, write_json

ROOT = Path(__file__).resolve().parent.parent


def bucket_names(edges: list) -> list:
    """Return what the buckets are called that ``edges``, the fewest tokens of each, divide."""
    middle = [f"{low}-{high - 1}" for low, high in zip(edges, edges[1:])]
    return [f"0-{edges[0] - 1}", *middle, f"{edges[-1]}-"]


def tally(log_probs, target, counts, edges: list) -> torch.Tensor:
    """Sum up tokens by their buckets: how many there are, are right, and their nats.

    Args:
        log_probs: of all words for each token, ``(N, V)``.
        target: the tokens, ``(N,)``.
        counts: how often each word is a target of the training text, ``(V,)``.
        edges: increasing counts, > 0, at which the second bucket and those after it begin.

    Returns:
        ``(len(edges) + 1, 3)``, float64
    """
    own = log_probs.gather(1, target.unsqueeze(1)).squeeze(1).double()
    right = log_probs.argmax(dim=1).eq(target).double()
    bucket = torch.bucketize(counts[target], torch.tensor(edges), right=True)
    sums = torch.zeros(len(edges) + 1, 3, dtype=torch.float64)
    return sums.index_add_(0, bucket, torch.stack((torch.ones_like(own), right, -own), dim=1))


def target_counts(targets, words: int) -> torch.Tensor:
    """Count how often each of ``words`` words is among sentences ``(T,)`` each: ``(words,)``."""
    counts = torch.zeros(words, dtype=torch.long)
    for target in targets:
        counts += torch.bincount(target, minlength=words)
    return counts


def batches(dataset, sentences: int, size: int):
    """Yield batches of ``sentences`` pairs (0: all) that are spread evenly over the dataset."""
    number = min(sentences or len(dataset), len(dataset))
    chosen = [len(dataset) * k // number for k in range(number)]
    chosen.sort(key=dataset.num_tokens)  # little padding
    for start in range(0, number, size):
        yield dataset.collater([dataset[i] for i in chosen[start : start + size]])


@torch.no_grad()
def measure(name: str, path: str, arguments) -> list:
    """Return a row for each subset and bucket of a checkpoint, and one for all buckets.

    ``accuracy`` is in per cent and ``nats`` the mean of -log p; None where a bucket has no tokens.
    Logits of a batch are held whole, ``(tokens, V)`` in float32: --batch-size bounds them.

    Raises:
        ValueError: the model has no pairs of source and target, or a subset has no sentences.
    """
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [path], arg_overrides={"data": arguments.data}
    )
    model, dictionary = models[0].eval(), task.target_dictionary
    task.load_dataset("train")
    if getattr(task.dataset("train"), "tgt", None) is None:
        raise ValueError(
            f"--run {name}={path} must be a model of translation, whose data are pairs, but its "
            f"task is {type(task).__name__}; leave it out"
        )
    counts = target_counts(task.dataset("train").tgt, len(dictionary))
    rows = []
    for subset in arguments.subset:
        if subset != "train":
            task.load_dataset(subset)
        if not len(task.dataset(subset)):  # fairseq reads empty text where it is not binarised
            raise ValueError(
                f"--subset {subset} must have sentences, but has none in {arguments.data}; leave "
                "it out"
            )
        sums = 0
        for sample in batches(task.dataset(subset), arguments.sentences, arguments.batch_size):
            real = sample["target"].ne(dictionary.pad())
            output = model(**sample["net_input"])
            log_probs = model.get_normalized_probs(output, log_probs=True, sample=sample)
            sums += tally(log_probs[real], sample["target"][real], counts, arguments.edges)
        names = [*bucket_names(arguments.edges), "all"]
        for bucket, (tokens, right, nats) in zip(names, [*sums.tolist(), sums.sum(0).tolist()]):
            row = {"method": name, "subset": subset, "bucket": bucket, "tokens": int(tokens)}
            row["accuracy"] = 100 * right / tokens if tokens else None
            row["nats"] = nats / tokens if tokens else None
            rows.append(row)
    return rows


def paint(axes, rows, subsets):
    """Draw a panel for each subset: the accuracy of each bucket, a line for each model."""
    for panel, subset in zip(axes, subsets):
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [
                row
                for row in rows
                if (row["method"], row["subset"]) == (name, subset) and row["accuracy"] is not None
            ]
            buckets, values = [row["bucket"] for row in own], [row["accuracy"] for row in own]
            panel.plot(buckets, values, "o-", markersize=4, label=name)
        panel.set_title(subset)
        panel.set_xlabel("how often the training text has the token")
        panel.set_ylabel("accuracy (%)")
        panel.legend(fontsize=7)


def increasing(text: str) -> list:
    """Return the integers of a list such as 20,100: a type for argparse."""
    edges = [at_least(1)(part) for part in text.split(",")]
    if any(high <= low for low, high in zip(edges, edges[1:])):
        raise argparse.ArgumentTypeError(f"must increase, but is {text}")
    return edges


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder that fairseq-preprocess made")
    parser.add_argument(
        "--run", type=named("CHECKPOINT"), action="append", required=True, metavar="NAME=CHECKPOINT"
    )
    parser.add_argument(
        "--subset", action="append", help="of the data; may be given several times (default: valid)"
    )
    parser.add_argument(
        "--edges", type=increasing, default="20,100,1000", help="counts at which buckets begin"
    )
    parser.add_argument(
        "--sentences", type=at_least(0), default=0, help="of each subset, spread over it; 0: all"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="sentences at once")
    add_files(parser)
    arguments = parser.parse_args()
    arguments.subset = list(dict.fromkeys(arguments.subset or ["valid"]))
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401  lets torch >= 2.6 load fairseq's checkpoints

    rows = []
    print(f"{'model':24} {'subset':8} {'frequency':>12} {'tokens':>8} {'accuracy':>8} {'nats':>7}")
    for name, path in arguments.run:
        for row in measure(name, path, arguments):
            rows.append(row)
            found = "" if row["nats"] is None else f" {row['accuracy']:8.2f} {row['nats']:7.3f}"
            print(f"{name:24} {row['subset']:8} {row['bucket']:>12} {row['tokens']:8}{found}")
    write_json(rows, arguments.json)
    size = (4.5 * len(arguments.subset), 3.5)
    draw_several(
        arguments.plot,
        size,
        len(arguments.subset),
        lambda axes: paint(axes, rows, arguments.subset),
    )


if __name__ == "__main__":
    main()
