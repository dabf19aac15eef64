#!/usr/bin/env python3
"""Does a correction of the rows' scores against hubs, or a unigram prior, make targets likelier?

A model's predictions on its validation data are scored with log p(w | h) = τ s(h, w) + a b(w) up to
a constant, where b(w) is one of

  none       0
  unigram    log of w's share of the training text
  csls       -τ × the mean score of w with the 10 predictions nearest to it (Conneau et al. 2018,
             https://arxiv.org/abs/1710.04087; the half that depends on the prediction cancels)
  inverted   -log of the sum of exp(τ s) over the predictions (inverted softmax, Smith et al. 2017,
             https://arxiv.org/abs/1702.03859: with weight 1 it divides by that sum)

τ and the weight a ≥ 0 are fitted on every second token, once by likelihood and once by accuracy
(the share of tokens whose row scores highest, which hubs harm); the table shows both on the others.
A weight of 0 means that the correction only harms.
"""

import argparse
import sys
from pathlib import Path

import torch
from output import add_files, at_least, draw, write_json

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
NEIGHBOURS = 10


@torch.no_grad()
def predictions(path, data, subset, tokens):
    """Return a model's table, its predictions ``(N, d)`` and targets ``(N,)``, its dictionary."""
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [path], arg_overrides={"data": data}
    )
    model = models[0].eval()
    task.load_dataset(subset)
    batches = task.get_batch_iterator(task.dataset(subset), max_tokens=4096)
    hidden, targets = [], []
    for sample in batches.next_epoch_itr(shuffle=False):
        real = sample["target"].ne(task.target_dictionary.pad())
        hidden.append(model(**sample["net_input"])[0][real].float())
        targets.append(sample["target"][real])
        if sum(map(len, targets)) >= tokens:
            break
    table = model.decoder.continuous_output.table
    return table, torch.cat(hidden)[:tokens], torch.cat(targets)[:tokens], task.target_dictionary


def corrections(logits, counts):
    """Return name → b as a function of τ, from logits ``(N, M)`` at τ = 1 and counts ``(M,)``."""
    prior = (counts / counts.sum()).log()
    nearest = logits.topk(min(NEIGHBOURS, len(logits)), dim=0).values.mean(dim=0)

    def inverted(scale):
        return -(scale * logits).logsumexp(dim=0)

    return {
        "none": lambda scale: torch.zeros_like(prior),
        "unigram": lambda scale: prior,
        "csls": lambda scale: -scale * nearest,
        "inverted": inverted,
    }


def fit(logits, target, counts, scale):
    """Fit each correction on every second token and return two rows a correction.

    Args:
        logits: scores at τ = 1, ``(N, M)``.
        target: the column of each token's row, ``(N,)``.
        counts: of the rows in the training text, ``(M,)``.
        scale: τ of the model, about which others are tried.
    """
    fitted = torch.arange(len(target)) % 2 == 0

    def scored(scale, bias, part):
        scores = torch.log_softmax(scale * logits[part] + bias, dim=1)
        right = scores.argmax(dim=1).eq(target[part]).double().mean()
        return {
            "nats": -scores.gather(1, target[part, None]).mean().item(),
            "accuracy": 100 * right.item(),
        }

    rows, scales = [], [scale * 2 ** (step / 4) for step in range(-4, 5)]
    for name, bias in corrections(logits[fitted], counts).items():
        tried = []
        for tau in scales:
            own = bias(tau)
            for weight in WEIGHTS if name != "none" else (0.0,):
                tried.append((scored(tau, weight * own, fitted), tau, weight))
        for by, sign in (("nats", 1), ("accuracy", -1)):
            # of equally accurate ones the least correction, and of those the likeliest
            _, tau, weight = min(tried, key=lambda row: (sign * row[0][by], row[2], row[0]["nats"]))
            found = scored(tau, weight * bias(tau), ~fitted)
            own = {"method": name, "fitted by": by, "scale": tau, "weight": weight}
            rows.append({**own, **found, "tokens": int((~fitted).sum())})
    return rows


def measure(arguments):
    """Return two rows a correction: fitted by likelihood, and by accuracy."""
    table, hidden, target, dictionary = predictions(
        arguments.path, arguments.data, arguments.subset, arguments.tokens
    )
    words = table.emittable.nonzero().squeeze(1)
    logits = table.logits_of(hidden, words, 1.0)
    counts = torch.tensor(dictionary.count, dtype=logits.dtype).clamp(min=1)
    if arguments.sentences:
        counts[dictionary.eos()] = arguments.sentences  # dictionaries do not count it
    rows = fit(logits, torch.searchsorted(words, target), counts[words], table.scale)
    for row in rows:
        row["vocab"] = len(dictionary)
        print(
            f"{row['method']:10} by {row['fitted by']:8} scale {row['scale']:7.2f} "
            f"weight {row['weight']:4.2f} nats {row['nats']:6.3f} accuracy {row['accuracy']:5.2f}",
            flush=True,
        )
    return rows


def paint(axes, rows):
    """Draw the nats per token as bars."""
    rows = [row for row in rows if row["fitted by"] == "nats"]
    axes.barh([row["method"] for row in rows], [row["nats"] for row in rows], color="#4477aa")
    axes.invert_yaxis()
    axes.set_xlabel("nats per token, held out (less is better)")


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder that fairseq-preprocess made")
    parser.add_argument("--path", required=True, help="checkpoint")
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--tokens", type=at_least(1), default=14000, help="predictions to take")
    parser.add_argument(
        "--sentences", type=at_least(1), help="of the training text: the count of </s>"
    )
    add_files(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import fairseq_contout  # noqa: F401  lets torch >= 2.6 load fairseq's checkpoints

    rows = measure(arguments)
    write_json(rows, arguments.json)
    draw(arguments.plot, (6, 2.5), lambda axes: paint(axes, rows))


if __name__ == "__main__":
    main()
