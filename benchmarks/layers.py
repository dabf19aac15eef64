"""Output layers with their losses: what training_cost.py and memory.py time and weigh.

A layer takes features ``(N, d)`` and target tokens ``(N,)`` and makes one update: forward, backward
(also to the features, as in a model) and the optimizer's step on what the layer learns.
"""

import argparse
import math
from functools import lru_cache
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from output import at_least
from torch import Tensor, nn

#: Logits that a softmax holds at once, in elements; it goes through more tokens part by part.
SOFTMAX_ELEMENTS = 1 << 27
ADAM = {"lr": 1e-3, "betas": (0.9, 0.98)}


def make_dictionary(size: int):
    """Return a fairseq dictionary of ``size`` symbols whose counts follow Zipf's law."""
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for rank in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{rank}", n=max(1, int(1e9 / (rank + 2.7))))
    return dictionary


def draw_tokens(dictionary, count: int, seed: int) -> Tensor:
    """Draw target tokens by the dictionary's counts: ``(count,)``."""
    weights = torch.tensor(dictionary.count, dtype=torch.float64)
    weights[: dictionary.nspecial] = 0
    weights[dictionary.eos()] = weights.sum() / 20  # a sentence of 20 words
    points = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sums = weights.cumsum(0)
    return torch.searchsorted(sums, points * sums[-1])


def _criterion(name: str, dictionary, **options):
    from argparse import Namespace

    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, build_criterion

    fields = CRITERION_DATACLASS_REGISTRY[name].__dataclass_fields__
    values = {key: field.default for key, field in fields.items() if key != "_name"}
    values.update(criterion=name, sentence_avg=False, **options)
    return build_criterion(Namespace(**values), Namespace(target_dictionary=dictionary))


@lru_cache(maxsize=None)
def _frozen_rows(size: int, dim: int) -> Tensor:
    # one for all methods: nothing changes them
    return F.normalize(torch.randn(size, dim), dim=1)


def _stepped(parameters, loss_of, kind):
    """Return an update from a function that computes the loss: its backward pass and the step.

    ``update.optimizer`` has the state, which memory.py fills.
    """
    optimizer = kind([p for p in parameters if p.requires_grad], **ADAM)

    def update(features: Tensor, target: Tensor):
        loss_of(features, target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    update.optimizer = optimizer
    return update


def linear(dictionary, dim: int, device) -> Callable:
    """A bare linear map to d, and a loss that costs nothing: what no output layer goes below."""
    layer = nn.Linear(dim, dim, device=device)
    return _stepped(layer.parameters(), lambda x, _: layer(x).sum(), torch.optim.Adam)


def continuous(name: str, learned=False, sparse=False, **options) -> Callable:
    """Return a maker of the plugin's output layer with one of its criterions."""

    def make(dictionary, dim: int, device):
        from fairseq.optim.adam import Adam

        from fairseq_contout.learned_table import LearnedTable
        from fairseq_contout.models.continuous_output import ContinuousOutput
        from fairseq_contout.optim import RowAdam
        from fairseq_contout.target_table import TargetTable

        criterion = _criterion(name, dictionary, **options).train().to(device)
        if learned:
            rows = F.normalize(torch.randn(len(dictionary), dim), dim=1)
            table = LearnedTable(nn.Parameter(rows.to(device)), dictionary, criterion.score)
            table.sparse = sparse
        else:
            rows = _frozen_rows(len(dictionary), dim)
            table = TargetTable(rows, dictionary, criterion.score)
        layer = ContinuousOutput(dim, table).to(device).train()

        def loss_of(features, target):
            return criterion.token_losses(layer(features), target, layer.table).sum()

        parameters = [*layer.parameters(), *criterion.parameters()]
        return _stepped(parameters, loss_of, RowAdam if sparse else Adam)

    return make


def softmax(dictionary, dim: int, device) -> Callable:
    """fairseq's output: a matrix and label-smoothed cross-entropy, in parts that fit in memory."""
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
    from fairseq.optim.adam import Adam

    weight = nn.Parameter(torch.randn(len(dictionary), dim, device=device) * dim**-0.5)
    optimizer = Adam([weight], **ADAM)
    part = max(1, SOFTMAX_ELEMENTS // len(dictionary))

    def update(features, target):
        for x, tokens in zip(features.split(part), target.split(part)):
            log_probs = F.log_softmax(x @ weight.t(), dim=-1)
            label_smoothed_nll_loss(log_probs, tokens.unsqueeze(1), 0.1)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    update.optimizer = optimizer
    return update


def adaptive_cutoffs(dictionary, dim: int) -> list:
    """Return the two cutoffs at which an adaptive softmax multiplies least, by expectation.

    A token costs d c1 for the head; with the probability of each tail, also the projection to d / 4
    or d / 16 and its product with the tail's words.
    """
    counts = torch.tensor(dictionary.count, dtype=torch.float64)
    share = (counts / counts.sum()).cumsum(0)
    size = len(dictionary)
    places = sorted({max(2, int(size ** (i / 40))) for i in range(1, 40)} - {size})
    best = (math.inf, None)
    for i, first in enumerate(places):
        for second in places[i + 1 :]:
            in_first = float(share[second - 1] - share[first - 1])
            in_second = float(1 - share[second - 1])
            cost = dim * (first + 2) + in_first * dim / 4 * (dim + second - first)
            cost += in_second * dim / 16 * (dim + size - second)
            best = min(best, (cost, [first, second]))
    return best[1]


def adaptive(dictionary, dim: int, device) -> Callable:
    """fairseq's adaptive softmax, cut where it multiplies least."""
    from fairseq.modules import AdaptiveSoftmax
    from fairseq.optim.adam import Adam

    size = len(dictionary)
    cutoffs = adaptive_cutoffs(dictionary, dim)
    layer = AdaptiveSoftmax(size, dim, cutoffs, dropout=0.0).to(device)

    def loss_of(features, target):
        total = 0.0
        logits, targets = layer(features, target)
        for score, tokens in zip(logits, targets):
            if tokens is not None:
                total = total + F.cross_entropy(score, tokens, reduction="sum")
        return total

    return _stepped(layer.parameters(), loss_of, Adam)


def sampled_softmax(sparse: bool) -> Callable:
    """Return a maker of a softmax over the batch's targets and 1,024 rows by a log-uniform law.

    Logits are corrected for the law. With a sparse gradient its optimizer is ours, too.

    Source: Sébastien Jean, Kyunghyun Cho, Roland Memisevic and Yoshua Bengio (2015), On Using Very
    Large Target Vocabulary for Neural Machine Translation, https://aclanthology.org/P15-1001
    """

    def make(dictionary, dim: int, device):
        from fairseq.optim.adam import Adam

        from fairseq_contout.optim import RowAdam

        size = len(dictionary)
        weight = nn.Parameter(torch.randn(size, dim, device=device) * dim**-0.5)

        def loss_of(features, target):
            drawn = torch.expm1(torch.rand(1024, device=target.device) * math.log(size + 1))
            drawn = drawn.long().clamp(max=size - 1)
            candidates, place = torch.cat((target, drawn)).unique(return_inverse=True)
            expected = 1024 * torch.log1p(1 / (candidates + 1.0)) / math.log(size + 1)
            rows = F.embedding(candidates, weight, sparse=sparse)
            logits = features @ rows.t() - torch.log(expected)
            return F.cross_entropy(logits, place[: len(target)], reduction="sum")

        return _stepped([weight], loss_of, RowAdam if sparse else Adam)

    return make


def cut_cross_entropy(dictionary, dim: int, device) -> Callable:
    """Cut cross-entropy (Wijmans et al. 2024), which never holds all logits; on a GPU by Triton."""
    from cut_cross_entropy import linear_cross_entropy
    from fairseq.optim.adam import Adam

    weight = nn.Parameter(torch.randn(len(dictionary), dim, device=device) * dim**-0.5)
    kernel = "cce" if device.type == "cuda" else "torch_compile"

    def loss_of(features, target):
        if device.type == "cuda":  # Triton's kernels take 16 bits
            features = features.bfloat16()
        given = weight.to(features.dtype)
        return linear_cross_entropy(features, given, target, impl=kernel, reduction="sum")

    return _stepped([weight], loss_of, Adam)


#: Name → maker(dictionary, dim, device), which returns update(features, target).
LAYERS: Dict[str, Callable] = {
    "linear": linear,
    "cosine": continuous("cosine"),
    "l2": continuous("l2"),
    "vmf": continuous("vmf"),
    "syn-margin": continuous("syn_margin"),
    "margin-batch": continuous("margin", negatives="batch"),
    "power-spherical": continuous("power_spherical"),
    "contrastive-frozen": continuous("contrastive"),
    "contrastive": continuous("contrastive", learned=True, sparse=True),
    "contrastive-2048-frozen": continuous("contrastive", max_candidates=2048),
    "contrastive-2048": continuous("contrastive", learned=True, sparse=True, max_candidates=2048),
    "contrastive-dense": continuous("contrastive", learned=True),
    "softmax": softmax,
    "adaptive": adaptive,
    "sampled-softmax": sampled_softmax(sparse=False),
    "sampled-softmax-rows": sampled_softmax(sparse=True),
    "cce": cut_cross_entropy,
}
#: Those whose cost grows with V.
GROWING = ("contrastive-dense", "softmax", "adaptive", "sampled-softmax", "cce")


def add_layer_options(parser: argparse.ArgumentParser):
    """Add the options of a benchmark over layers and sizes: which, and how large."""
    positive = {"type": at_least(1), "metavar": "N"}
    usual = [name for name in LAYERS if name != "cce"]  # which is no dependency
    parser.add_argument("--methods", nargs="+", choices=list(LAYERS), default=usual)
    sizes = [1000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--vocab", nargs="+", default=sizes, type=at_least(10), metavar="N")
    parser.add_argument("--tokens", default=4096, **positive)
    parser.add_argument("--dim", default=256, **positive)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
