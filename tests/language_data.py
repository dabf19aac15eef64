"""A small real text for language models, and calls of fairseq on it."""

import lzma
from pathlib import Path

import cli
import torch
from fairseq import checkpoint_utils, tasks
from fairseq.data import Dictionary

import fairseq_contout  # noqa: F401  (registers)

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo" / "data"
DIM = 16
SIZES = {
    "continuous_transformer_lm": "--decoder-layers 1 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2",
    "continuous_lstm_lm": "--decoder-embed-dim 16 --decoder-hidden-size 16 "
    "--decoder-out-embed-dim 16",
    "continuous_masked_lm": "--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 "
    "--encoder-attention-heads 2",
}
TIED = "--target-table learned --share-decoder-input-output-embed"
#: name → architecture, options; the table is a file unless they say otherwise
MODELS = {
    "transformer": ("continuous_transformer_lm", f"--criterion contrastive {TIED}"),
    "transformer-vmf": ("continuous_transformer_lm", "--criterion vmf --decoder-input table"),
    "transformer-backward": (
        "continuous_transformer_lm",
        "--criterion cosine --task continuous_language_modeling --backward",
    ),
    "transformer-untied": ("continuous_transformer_lm", "--criterion cosine"),
    "transformer-few-words": ("continuous_transformer_lm", "--criterion cosine --input-words 50"),
    "lstm": ("continuous_lstm_lm", f"--criterion contrastive {TIED}"),
    "lstm-l2": ("continuous_lstm_lm", "--criterion l2"),
    "lstm-forward": ("continuous_lstm_lm", "--criterion cosine --decoder-layers 2"),
    "lstm-backward": (
        "continuous_lstm_lm",
        "--criterion cosine --task continuous_language_modeling --backward --decoder-layers 2",
    ),
    "masked": ("continuous_masked_lm", "--criterion cosine --task masked_lm"),
    "masked-learned": (
        "continuous_masked_lm",
        "--criterion contrastive --target-table learned --task masked_lm",
    ),
    "masked-few-words": (
        "continuous_masked_lm",
        "--criterion l2 --task masked_lm --input-words 50",
    ),
}


def make_data(folder):
    """Binarise some hundred English sentences of the bundled corpus, and make a table for them."""
    for split, lines in (("train", 300), ("valid", 40)):
        text = lzma.decompress((DEMO / f"{split}.en.xz").read_bytes()).decode("utf-8")
        sentences = [line.lower() for line in text.splitlines() if len(line.split()) < 20]
        (folder / split).write_text("\n".join(sentences[:lines]) + "\n")
    cli.call(
        "preprocess", "--only-source", "--trainpref", folder / "train", "--validpref",
        folder / "valid", "--destdir", folder / "data", "--workers", 1,
    )  # fmt: skip
    cli.write_table(folder / "table.safetensors", folder / "data" / "dict.txt", dim=DIM)


def train(data, folder, name, *options, updates=6):
    """Train one of MODELS; return what is printed."""
    arch, own = MODELS[name]
    table = () if "learned" in own else ("--target-table", data.parent / "table.safetensors")
    task = () if "--task" in own else ("--task", "language_modeling")
    return cli.call(
        "train", data, *task, "--arch", arch, *SIZES[arch].split(), *own.split(), *table,
        "--optimizer", "adam", "--lr", "0.01", "--dropout", "0.1", "--batch-size", "20",
        "--tokens-per-sample", "40", "--sample-break-mode", "eos", "--max-update", updates,
        "--save-dir", folder, "--no-epoch-checkpoints", *options,
    )  # fmt: skip


def load(path, data, **overrides):
    """Return the model of a checkpoint, for evaluation, and its task."""
    models, args = checkpoint_utils.load_model_ensemble(
        [str(path)], arg_overrides={"data": str(data), **overrides}
    )
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    config = state["cfg"]["task"]
    config.data = str(data)
    return models[0].eval(), tasks.setup_task(config)


def sentences(data, split="valid"):
    """Return the sentences of a split as tensors of indices, without ``</s>``."""
    dictionary = Dictionary.load(str(data / "dict.txt"))
    text = (data.parent / split).read_text().splitlines()
    return [
        dictionary.encode_line(line, add_if_not_exist=False, append_eos=False).long()
        for line in text
    ]


def log_probs(model, hidden) -> torch.Tensor:
    """Return log p of all rows, from the definition and in float64: ``(T, d)`` → ``(T, V)``."""
    output = model.decoder.continuous_output
    table, hidden = output.table, hidden.double()
    rows = table.rows().double()
    cosine = torch.nn.functional.normalize(hidden, dim=-1) @ rows.t()
    logits = {
        "cosine": lambda: table.scale * cosine,
        "dot": lambda: table.scale * hidden @ rows.t(),
        "l2": lambda: -table.scale / 2 * torch.cdist(hidden, rows) ** 2,
    }[table.score]()
    if table.prior is not None:
        counts, n = table.prior.counts.double(), table.prior.counts.sum()
        unseen = counts.eq(0) & table.emittable
        least = counts[counts > 0].min()
        once = ((counts >= least) & (counts < 2 * least)).sum()
        mass = min(once / (n / least + 1), unseen.sum() / (n / least + unseen.sum()))
        shares = torch.where(unseen, mass / unseen.sum().clamp(min=1), (1 - mass) * counts / n)
        logits = logits + table.prior_weight * shares.clamp(min=1e-300).log()
    logits[:, [0, 1]] = -torch.inf  # <s> and <pad> are never emitted
    for row, symbol in enumerate(table_symbols(model)):
        if symbol.startswith("madeupword"):
            logits[:, row] = -torch.inf
    return torch.log_softmax(logits, dim=-1)


def perplexity(model, task, data, backward=False, before=()) -> float:
    """Return the perplexity of the validation text, sentence by sentence, from the definition.

    ``before`` holds symbols that are read before each sentence, and not predicted.
    """
    end, total, count = torch.tensor([task.dictionary.eos()]), 0.0, 0
    for words in sentences(data):
        words = words.flip(0) if backward else words
        target = torch.cat((words, end))
        with torch.no_grad():
            read = torch.cat((torch.tensor(before, dtype=torch.long), end, words))
            hidden = model(read.unsqueeze(0))[0][0, len(before) :]
        total -= log_probs(model, hidden).gather(1, target.unsqueeze(1)).sum().item()
        count += len(target)
    return torch.tensor(total / count).exp().item()


def table_symbols(model):
    """Return the symbols that the rows belong to."""
    return model.decoder.dictionary.symbols
