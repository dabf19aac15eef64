"""Criterion ``hybrid``: cross-entropy over the whole table, with a loss on embeddings beside it."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from fairseq_contout import knn
from fairseq_contout.criterions.base import (
    TASK_MARK,
    ContinuousCriterion,
    ContinuousCriterionConfig,
)
from fairseq_contout.criterions.margin import informative_margin, synthetic_margin
from fairseq_contout.criterions.terms import LearnedScale, all_tokens, r_drop_term
from fairseq_contout.losses import (
    contrastive_loss,
    cosine_loss,
    l2_loss,
    neighbour_term,
    power_spherical_loss,
    vmf_authors_loss,
    vmf_loss,
)
from fairseq_contout.scores import Query
from fairseq_contout.table_file import load_table


def _of_rows(loss):
    """Turn a loss of predictions and rows into one of predictions, tokens and the table."""
    return lambda hidden, target, table: loss(hidden, table.rows(target))


#: What ``--hybrid-loss`` names: predictions ``(N, d)``, tokens ``(N,)``, table → ``(N,)``, with the
#: losses' default options.
HYBRID_LOSSES = {
    "cosine": _of_rows(cosine_loss),
    "l2": _of_rows(l2_loss),
    "margin": informative_margin,
    "power_spherical": _of_rows(power_spherical_loss),
    "syn_margin": synthetic_margin,
    "vmf": _of_rows(vmf_loss),
    "vmf_authors": _of_rows(vmf_authors_loss),
}


@dataclass
class HybridCriterionConfig(ContinuousCriterionConfig):
    """Options of ``hybrid``."""

    hybrid_loss: ChoiceEnum(sorted(HYBRID_LOSSES)) = field(
        default="cosine", metadata={"help": "loss on embeddings that is added"}
    )
    hybrid_weight: float = field(
        default=0.0, metadata={"help": "its weight, >= 0; 0 leaves it out"}
    )
    neighbour_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "probability that a target word gives to its neighbours in a fixed table, "
            "among the words that were targets so far, so that a near-synonym costs less than an "
            "unrelated word, 0 <= x < 1"
        },
    )
    neighbours: int = field(
        default=10, metadata={"help": "neighbours that share that probability, > 0"}
    )
    neighbour_temperature: float = field(
        default=0.1,
        metadata={"help": "it is shared in proportion to exp(cos / temperature), > 0"},
    )
    neighbour_table: Optional[str] = field(
        default=None,
        metadata={
            "help": "table file in which neighbours are looked up; by default the target table, "
            "which must be frozen then"
        },
    )


def _check(cfg):
    rules = (
        ("hybrid_weight", cfg.hybrid_weight >= 0, "0 or more"),
        (
            "neighbour_smoothing",
            0 <= cfg.neighbour_smoothing and cfg.neighbour_smoothing + cfg.label_smoothing < 1,
            "0 or more and with --label-smoothing less than 1",
        ),
        ("neighbours", cfg.neighbours >= 1, "1 or more"),
        ("neighbour_temperature", cfg.neighbour_temperature > 0, "greater than 0"),
    )
    for name, kept, rule in rules:
        if not kept:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} must be {rule}, but is {getattr(cfg, name)}")
    for name, weight in (
        ("neighbour_table", "neighbour_smoothing"),
        ("hybrid_loss", "hybrid_weight"),
    ):
        default = str(HybridCriterionConfig.__dataclass_fields__[name].default)
        if str(getattr(cfg, name)) != default and not getattr(cfg, weight):
            raise ValueError(
                f"--{name.replace('_', '-')} {getattr(cfg, name)} does nothing without "
                f"--{weight.replace('_', '-')}; give that, or leave it out"
            )


@register_criterion("hybrid", dataclass=HybridCriterionConfig)
class HybridCriterion(ContinuousCriterion):
    """Label-smoothed cross-entropy over all rows, plus what its options add.

    loss = CE + λ · (a loss on embeddings) + ε · :func:`fairseq_contout.losses.neighbour_term`.
    With λ = ε = 0 it is the full softmax over the table, the reference that sampled candidates are
    measured against. Its cost grows with V.

    Source: Inigo Jauregi Unanue, Ehsan Zare Borzeshi, Nazanin Esmaili and Massimo Piccardi (2019),
    ReWE: Regressing Word Embeddings for Regularization of Neural Machine Translation Systems,
    https://aclanthology.org/N19-1041
    """

    score = "cosine"
    reads = ("label_smoothing", "initial_scale", "r_drop")

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check(cfg)
        frozen = getattr(task, TASK_MARK, None) != "learned"
        if cfg.neighbour_smoothing and cfg.neighbour_table is None and not frozen:
            raise ValueError(
                "--neighbour-smoothing needs a table that does not move, but the target table is "
                "learned; give --neighbour-table FILE"
            )
        self.scale = LearnedScale(cfg.initial_scale)
        rows = None
        if cfg.neighbour_table is not None:
            rows = load_table(cfg.neighbour_table, task.target_dictionary)
        self.register_buffer("neighbour_rows", rows, persistent=False)
        if cfg.neighbour_smoothing:
            # Words that were targets. A joined dictionary has those of the source language, too,
            # whose vectors may well lie near.
            seen = torch.zeros(len(task.target_dictionary), dtype=torch.bool)
            self.register_buffer("observed", seen)

    def token_losses(self, hidden, target, table):
        self._observe(target)
        return self._compare(hidden, target, table)[0]

    def pair_losses(self, first, second, target, table):
        self._observe(target)
        losses, logits = self._compare(first, target, table)
        other_losses, other_logits = self._compare(second, target, table)
        return (losses + other_losses) / 2 + r_drop_term(logits, other_logits, self.cfg)

    def _observe(self, target: Tensor):
        """Note the words ``(N,)`` of a batch of the training, of all processes."""
        if self.cfg.neighbour_smoothing and self.training:
            self.observed[all_tokens(target)] = True

    def _compare(self, hidden, target, table):
        # losses (N,), and logits of all rows (N, V)
        columns = table.emittable.nonzero().squeeze(1)
        logits = table.logits_of(hidden, columns, self.scale(table.score))
        positive = torch.searchsorted(columns, target)
        none = logits.new_zeros(len(columns))  # every row is there: nothing to correct
        losses = contrastive_loss(logits, positive, none, self.cfg.label_smoothing)
        if self.cfg.hybrid_weight:
            loss = HYBRID_LOSSES[str(self.cfg.hybrid_loss)]
            losses = losses + self.cfg.hybrid_weight * loss(hidden, target, table)
        if self.cfg.neighbour_smoothing:
            index, weights = self._neighbours(target, table)
            near = torch.searchsorted(columns, index)
            term = neighbour_term(logits, positive, near, weights.to(logits.dtype))
            # </s> and <unk> mean nothing: their rows are random, and so would be who is near them
            alone = target.lt(table.num_specials if index.size(1) else len(self.observed))
            losses = losses + self.cfg.neighbour_smoothing * term.masked_fill(alone, 0)
        return losses, logits

    @torch.no_grad()
    def _neighbours(self, target: Tensor, table):
        """Find each target's neighbours: rows ``(N, k)`` and their shares ``(N, k)``.

        They are words that were targets; before there are two of them, k is 0.
        """
        rows = table.rows() if self.neighbour_rows is None else self.neighbour_rows
        rows = rows.to(target.device)  # fairseq-validate does not move a criterion
        distinct, back = target.unique(return_inverse=True)
        query = Query(rows[distinct].float())
        words = table.emittable & self.observed.to(target.device)
        words[: table.num_specials] = False
        count = max(min(self.cfg.neighbours, int(words.sum()) - 1), 0)
        if not count:
            return target.new_empty(len(target), 0), rows.new_empty(len(target), 0)
        # one more, as the word itself is among them: it is the nearest, unless rows are equal
        found = knn.exact_search(query, rows, count + 1, allowed=words, normalizer=False)
        own = found.indices.eq(distinct.unsqueeze(1))
        own[:, -1] |= ~own.any(dim=1)  # pushed out by equal rows: leave the last out instead
        index = found.indices[~own].view(-1, count)
        cosines = found.logits[~own].view(-1, count)
        weights = torch.softmax(cosines / self.cfg.neighbour_temperature, dim=1)
        return index[back], weights[back]
