"""Small objects that several tests build: dictionaries, tables, models, batches."""

from argparse import Namespace

import torch
from fairseq.data import Dictionary

import fairseq_contout  # noqa: F401  (registers)
from fairseq_contout.target_table import TargetTable, normalize_rows

SCORES = ("dot", "cosine", "l2", "power_spherical")
#: criterion → options, one entry for each form that trains
CRITERIONS = {
    "cosine": {},
    "l2": {},
    "vmf": {},
    "vmf-authors": {"vmf_form": "authors"},
    "margin": {"margin": 1.5},
    "margin-batch": {"margin": 1.5, "negatives": "batch"},
    "syn_margin": {"margin": 1.5},
    "syn_margin-difference": {"margin": 1.5, "synthetic_negative": "difference"},
    "power_spherical": {},
    # no sampled rows: their draws would differ between two batches that are compared
    "contrastive": {"sampled_negatives": 0},
    "hybrid": {"hybrid_weight": 0.5, "neighbour_smoothing": 0.1, "neighbours": 3},
}


def make_dictionary(words=20, padding_words=0):
    """Return a dictionary of the words w0 … and fairseq's padding words."""
    dictionary = Dictionary()
    for i in range(words):
        dictionary.add_symbol(f"w{i}", n=words - i)
    for i in range(padding_words):
        dictionary.add_symbol(f"madeupword{i:04d}", n=0)
    return dictionary


def make_rows(dictionary, dim=8, seed=0):
    """Return random unit rows ``(V, dim)``."""
    generator = torch.Generator().manual_seed(seed)
    return normalize_rows(torch.randn(len(dictionary), dim, generator=generator))


def make_table(score="cosine", words=20, dim=8, padding_words=0, scale=None):
    """Return a random target table and its dictionary."""
    dictionary = make_dictionary(words, padding_words)
    return TargetTable(make_rows(dictionary, dim), dictionary, score, scale), dictionary


class FakeTask:
    """What a criterion and a model need of a task."""

    def __init__(self, dictionary):
        self.source_dictionary = self.target_dictionary = dictionary


def make_criterion(name, dictionary, sentence_avg=False, **options):
    """Build a criterion through fairseq's own builder, defaults from its dataclass."""
    from fairseq.criterions import build_criterion

    config = Namespace(
        criterion=name.split("-")[0], sentence_avg=sentence_avg, **{**CRITERIONS[name], **options}
    )
    return build_criterion(config, FakeTask(dictionary))


def make_model(
    tmp_path, dictionary, criterion="cosine", arch="continuous_transformer_tiny", dim=8, **options
):
    """Build a model through its architecture, with a random table file."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    from fairseq_contout.target_table import save_table

    path = tmp_path / f"table{dim}.safetensors"
    rows = make_rows(dictionary, dim)
    save_table(path, rows, dictionary, source="random", origins={"random": len(rows)})
    args = Namespace(
        arch=arch, criterion=criterion.split("-")[0], target_table=str(path), dropout=0.0, **options
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(1)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, FakeTask(dictionary))


def make_learned_model(dictionary, arch="continuous_transformer_tiny", **options):
    """Build a model with a learned table through its architecture; return it and its options."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    defaults = {"criterion": "contrastive", "target_table": "learned", "optimizer": "adam"}
    args = Namespace(arch=arch, **{**defaults, "dropout": 0.0, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(1)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, FakeTask(dictionary)), args


def make_batch(dictionary, lengths=(7, 5, 3), seed=0, extra_padding=0):
    """Return a batch as fairseq's translation task makes it; source equals target."""
    generator = torch.Generator().manual_seed(seed)
    sentences = [torch.randint(4, 4 + 20, (n,), generator=generator) for n in lengths]
    return collate(dictionary, sentences, extra_padding)


def collate(dictionary, sentences, extra_padding=0):
    """Pad sentences into a batch: source left-padded, target right-padded, as in fairseq."""
    width = max(map(len, sentences)) + 1 + extra_padding
    pad, eos = dictionary.pad(), dictionary.eos()
    source = torch.full((len(sentences), width), pad)
    target, previous = source.clone(), source.clone()
    for i, words in enumerate(sentences):
        n = len(words)
        source[i, width - n - 1 :] = torch.cat((words, torch.tensor([eos])))
        target[i, : n + 1] = torch.cat((words, torch.tensor([eos])))
        previous[i, : n + 1] = torch.cat((torch.tensor([eos]), words))
    return {
        "id": torch.arange(len(sentences)),
        "nsentences": len(sentences),
        "ntokens": sum(len(words) + 1 for words in sentences),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.tensor([len(words) + 1 for words in sentences]),
            "prev_output_tokens": previous,
        },
        "target": target,
    }
