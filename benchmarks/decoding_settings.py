"""What decoding_cost.py decodes: models with sentences, with random weights or trained ones."""

from argparse import Namespace
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from layers import make_dictionary
from torch import nn

#: Of random dictionaries: source words, and the defaults of build_lexicon.py.
SOURCE_WORDS, LIKELY, FREQUENT = 5000, 50, 1000


class Setting(NamedTuple):
    """What is decoded, and with what.

    Attributes:
        ours: the model with a continuous output.
        softmax: one of fairseq's of the same sizes, with random weights; None where not asked for.
        target: target dictionary.
        batches: samples as fairseq's translation task makes them, with ``id``.
        options: lengths and penalty, for a generator of fairseq's.
        lexicon: file of the shortlists, if any.
        score: best hypotheses by id → BLEU and more; None for random weights.
    """

    ours: nn.Module
    softmax: Optional[nn.Module]
    target: object
    batches: list
    options: dict
    lexicon: Optional[str]
    score: Optional[Callable]


# ---- random weights -----------------------------------------------------------------------------


def random_setting(arguments, size: int, folder: Path) -> Setting:
    """Return models with random weights over random rows, and random sentences."""
    from fairseq_contout.lexicon_file import Lexicon, save_lexicon
    from fairseq_contout.target_table import save_table

    source, target = make_dictionary(SOURCE_WORDS), make_dictionary(size)
    path, lexicon = folder / "table.safetensors", folder / "lexicon.safetensors"
    torch.manual_seed(arguments.seed)
    rows = F.normalize(torch.randn(size, arguments.dim), dim=1)
    save_table(path, rows, target, source="random", origins={"random": size})
    best = torch.randint(target.nspecial, size, (len(source), LIKELY))
    frequent = torch.arange(target.nspecial, min(size, target.nspecial + FREQUENT))
    save_lexicon(lexicon, Lexicon.alike(best, frequent), source, target)
    rival = "softmax" in arguments.methods
    options = {"max_len_a": 0, "max_len_b": arguments.length, "min_len": arguments.length}
    return Setting(
        _random_model(arguments, source, target, str(path)),
        _random_model(arguments, source, target, None) if rival else None,
        target,
        _random_batches(source, arguments),
        options,
        str(lexicon),
        None,
    )


def _random_model(arguments, source, target, path):
    # fairseq's with a softmax, or one that reads and predicts rows of a table
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


def _random_batches(source, arguments) -> list:
    generator = torch.Generator().manual_seed(arguments.seed)
    size = (arguments.sentences, arguments.length)
    tokens = torch.randint(source.nspecial, len(source), size, generator=generator)
    tokens = torch.cat((tokens, torch.full((arguments.sentences, 1), source.eos())), dim=1)
    return [
        {
            "id": ids,
            "net_input": {
                "src_tokens": tokens[ids],
                "src_lengths": torch.full((len(ids),), tokens.size(1)),
            },
        }
        for ids in torch.arange(arguments.sentences).split(arguments.batch)
    ]


# ---- a trained model ----------------------------------------------------------------------------


def trained_setting(arguments) -> Setting:
    """Return the model of a checkpoint, the first sentences of a subset, and how to score them.

    Raises:
        ValueError: the checkpoint is not that of a translation with a continuous output.
    """
    from fairseq import checkpoint_utils

    # --eval-bleu would build a generator of its own
    overrides = {"data": arguments.data, "eval_bleu": False}
    if arguments.table:
        overrides["target_table"] = arguments.table
    (model,), config, task = checkpoint_utils.load_model_ensemble_and_task(
        [arguments.checkpoint], overrides
    )
    if not hasattr(model, "encoder") or not hasattr(model.decoder, "continuous_output"):
        raise ValueError(
            f"--checkpoint {arguments.checkpoint}: must be a translation model with a continuous "
            f"output, but is a {type(model).__name__}; give one of this plugin's"
        )
    task.load_dataset(arguments.subset)
    dataset = task.dataset(arguments.subset)
    count = min(arguments.sentences, len(dataset))
    order = sorted(range(count), key=dataset.size)  # alike in length, as fairseq-generate
    parts = [order[i : i + arguments.batch] for i in range(0, count, arguments.batch)]
    batches = [dataset.collater([dataset[i] for i in part]) for part in parts]
    rival = "softmax" in arguments.methods
    return Setting(
        model.eval(),
        _softmax_like(config.model, task, arguments.seed) if rival else None,
        task.target_dictionary,
        batches,
        {"max_len_a": 0, "max_len_b": 200, "len_penalty": arguments.lenpen},
        arguments.lexicon,
        _scorer(arguments, task, batches),
    )


def _softmax_like(args, task, seed: int):
    # fairseq's own model of the sizes of a continuous one
    from fairseq.models import ARCH_MODEL_REGISTRY

    args = Namespace(**vars(args))
    # the options have its sizes, so that fairseq need not know an architecture by name
    args.arch = args.arch.replace("continuous_", "", 1).split("_")[0]
    if args.arch == "transformer":
        args.share_decoder_input_output_embed = True
    torch.manual_seed(seed)
    return ARCH_MODEL_REGISTRY[args.arch].build_model(args, task).eval()


def _scorer(arguments, task, batches) -> Callable:
    from sacremoses import MosesDetokenizer
    from score import read_lines, score

    dictionary = task.target_dictionary

    def text(tokens, escape=False):
        tokens = tokens[tokens.ne(dictionary.pad())]
        return dictionary.string(tokens, arguments.remove_bpe, escape_unk=escape)

    ids = sorted(i for sample in batches for i in sample["id"].tolist())
    if arguments.reference:
        lines = read_lines(Path(arguments.reference))
        if len(lines) < len(ids):
            raise ValueError(
                f"--reference {arguments.reference}: must have a line for each of the {len(ids)} "
                f"sentences, but has {len(lines)}; give the text of --subset {arguments.subset}"
            )
        references = [lines[i] for i in ids]
        detokenizer = MosesDetokenizer(lang=task.cfg.target_lang)
    else:  # an unknown word of a reference is never found, as in fairseq-generate
        known = {
            i: text(tokens, escape=True)
            for sample in batches
            for i, tokens in zip(sample["id"].tolist(), sample["target"])
        }
        references = [known[i] for i in ids]

    def scored(best: dict) -> dict:
        lines = [text(best[i]) for i in ids]
        if arguments.reference:
            lines = [detokenizer.detokenize(line.split()) for line in lines]
        return score(lines, references, not arguments.reference, arguments.lowercase)

    return scored
