"""Terms that a criterion on embeddings is, or can add to its loss: contrastive, and dispersion."""

from typing import NamedTuple, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq_contout.criterions.term_options import SCALE_RANGE
from fairseq_contout.dispersion import great_circles, sliced_dispersion
from fairseq_contout.losses import (
    contrastive_loss,
    corrected_logits,
    jeffreys_divergence,
    synthetic_negative,
)
from fairseq_contout.sampling import draw, kept_candidates, log_inclusion, log_kept, unigram
from fairseq_contout.scores import DEFAULT_SCALE

#: Tokens that the dictionary's counts are worth beside the target tokens seen in training.
PRIOR_TOKENS = 1000


def all_tokens(target: Tensor) -> Tensor:
    """Gather the target tokens of all processes: ``(N,)`` → ``(M,)``, M ≥ N."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return target
    length = torch.tensor([len(target)], device=target.device)
    lengths = [torch.empty_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    longest = int(max(lengths))
    padded = target.new_zeros(longest)
    padded[: len(target)] = target
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return torch.cat([tokens[: int(n)] for tokens, n in zip(gathered, lengths)])


class LearnedScale(nn.Module):
    """The scale τ of a score, learned in log space and kept within :data:`SCALE_RANGE`.

    Args:
        initial: τ at the start; 0 takes the default of the score.
    """

    def __init__(self, initial: float):
        super().__init__()
        self.initial = initial
        self.log_scale = nn.Parameter(torch.zeros(()))  # log of τ over its first value

    def forward(self, score: str) -> Tensor:
        value = self.log_scale.float().exp() * (self.initial or DEFAULT_SCALE[score])
        # The gradient passes through the bounds, so that τ can come back from them.
        return value + (value.clamp(*SCALE_RANGE) - value).detach()


class ContrastiveTerm(nn.Module):
    """The contrastive loss of a batch: the target against candidates, with a learned scale τ.

    Candidates are the distinct target tokens of the batch, of all processes where there are many,
    and rows drawn from the table: the cost does not grow with V. In validation they are the whole
    table, so that the numbers of two validations can be compared.

    See :func:`fairseq_contout.losses.contrastive_loss`.
    """

    def __init__(self, cfg, dictionary):
        super().__init__()
        self.cfg = cfg
        self.dictionary = dictionary
        self.scale = LearnedScale(cfg.initial_scale)
        # Target tokens so far. Integers: a model of half precision leaves them as they are.
        self.register_buffer("observed", torch.zeros(len(dictionary), dtype=torch.long))
        self._probabilities = None

    def _distributions(self, table):
        # by the dictionary's counts: of a row as a token of the text, and as a row drawn; with the
        # running sums of the latter
        device = table.emittable.device  # the model's, wherever the rows are
        if self._probabilities is None or self._probabilities[0].device != device:
            counts = torch.tensor(self.dictionary.count, device=device)
            drawn = unigram(counts, table.emittable, self.cfg.negative_power)
            self._probabilities = (unigram(counts, table.emittable), drawn, drawn.cumsum(0))
        return self._probabilities

    def _text_share(self, candidates: Tensor, dictionary_share: Tensor) -> Tensor:
        """Return the probability of rows as target tokens, ``(M,)``, ``(V,)`` → ``(M,)``.

        The dictionary alone does not know it: a joined one counts both languages, and none counts
        ``</s>`` or ``<unk>``. Its counts stand for the first :data:`PRIOR_TOKENS` tokens.
        """
        seen = PRIOR_TOKENS * dictionary_share[candidates] + self.observed[candidates]
        return seen / (PRIOR_TOKENS + self.observed.sum())

    def observe(self, target: Tensor):
        """Count the target tokens ``(N,)`` of a batch, once its loss is computed."""
        tokens = all_tokens(target)
        self.observed.index_add_(0, tokens, torch.ones_like(tokens))

    def forward(
        self, hidden: Tensor, target: Tensor, table, second: Optional[Tensor] = None
    ) -> Tensor:
        """Return the loss of each token: predictions ``(N, d)``, tokens ``(N,)`` → ``(N,)``.

        With a second prediction of each token, ``(N, d)``, it is the mean of both, on the same
        candidates, and :func:`r_drop_term`.
        """
        if not self.training:
            return -table.log_prob_of(hidden, target, scale=self.scale(table.score))
        candidates = self._candidates(target, table)
        losses, logits = self._compare(hidden, target, table, candidates)
        if second is None:
            return losses
        other_losses, other_logits = self._compare(second, target, table, candidates)
        return (losses + other_losses) / 2 + r_drop_term(logits, other_logits, self.cfg)

    def _candidates(self, target: Tensor, table) -> "_Candidates":
        text, drawn, cumulative = self._distributions(table)
        number = self.cfg.sampled_negatives
        tokens = all_tokens(target)
        index = torch.cat((tokens, draw(cumulative, number))).unique()
        positive = torch.searchsorted(index, target)
        log_q = torch.zeros(len(index), dtype=drawn.dtype, device=index.device)
        if not self.cfg.no_sampling_correction:
            share = self._text_share(index, text)
            found = log_inclusion(share, len(tokens), drawn[index], number)
            # </s> ends every sentence and is in every batch, also in the first
            log_q = found.masked_fill(index.eq(self.dictionary.eos()), 0)
        own, kept, least = None, self.cfg.max_candidates, 0.0
        if 0 < kept < len(index):
            least = log_kept(kept, len(index))
            index, log_q, positive, own = kept_candidates(index, log_q, positive, kept)
        return _Candidates(index, log_q, positive, own, least)

    def _compare(self, hidden: Tensor, target: Tensor, table, candidates) -> Tuple[Tensor, Tensor]:
        # losses (N,), and logits of the distribution over the candidates (N, M) for R-Drop
        scale = self.scale(table.score)
        positive, log_q = candidates.positive, candidates.log_q.to(hidden.dtype)
        logits = table.logits_of(hidden, candidates.index, scale)
        own = None
        if candidates.own_log_q is None:
            own_score = logits.gather(1, positive.unsqueeze(1)).squeeze(1)
        else:
            own_score = table.logits_with(hidden, table.rows(target), scale).squeeze(1)
            own = own_score, candidates.own_log_q.to(hidden.dtype)
        # a token is always compared with its own row, which then stands for itself alone
        certain = own_score, torch.zeros_like(own_score)
        if str(self.cfg.sampling_estimator) == "importance":
            own = certain
        distribution = None
        if self.cfg.r_drop:  # that over the table, which has no margin
            distribution = corrected_logits(logits, positive, log_q, certain)
        if self.cfg.additive_margin:
            ahead = table.margin_logits(hidden, self.cfg.additive_margin, scale)
            if candidates.own_log_q is None:  # each has a column
                logits = logits.scatter_add(1, positive.unsqueeze(1), -ahead.unsqueeze(1))
            if own is not None:
                own = own[0] - ahead, own[1]
        outside = None
        if self.cfg.contrastive_synthetic != "none":
            with torch.no_grad():  # a negative is made, not moved
                made = synthetic_negative(
                    hidden, table.rows(target), self.cfg.contrastive_synthetic
                )
            outside = table.logits_with(hidden, made, scale) - candidates.outside_log_q
        smoothing = self.cfg.label_smoothing
        return contrastive_loss(logits, positive, log_q, smoothing, outside, own), distribution


class _Candidates(NamedTuple):
    # what the tokens of a batch are compared with
    index: Tensor  # rows (M,)
    log_q: Tensor  # log-probability of each to be among them (M,)
    positive: Tensor  # column of each token's own row, or which that row replaces (N,)
    own_log_q: Optional[Tensor]  # log Q of each token's own row (N,), where columns are replaced
    outside_log_q: float  # log Q of a negative that is no row, were it one of all candidates


def r_drop_term(logits: Tensor, other: Tensor, cfg):
    """Return what ``--r-drop`` adds to the mean loss of two predictions of a token: ``(N,)``, or 0.

    The sum of both losses and α times the divergence, as in R-Drop, is twice what is minimised.
    """
    if not cfg.r_drop:
        return 0
    return cfg.r_drop / 2 * jeffreys_divergence(logits, other)


def doubled(net_input: dict) -> dict:
    """Repeat each sentence, so that one pass predicts it twice: tensors ``(B, …)`` → ``(2 B, …)``.

    The copies are neighbours: recurrent encoders want batches sorted by length.
    """
    return {
        name: value.repeat_interleave(2, dim=0) if torch.is_tensor(value) else value
        for name, value in net_input.items()
    }


def dispersion_term(table, cfg) -> Tensor:
    """Return the sliced dispersion of a learned table's rows, or of some of them: a scalar."""
    index = table.emittable.nonzero().squeeze(1)
    if len(index) > cfg.dispersion_rows:
        index = index[torch.randperm(len(index), device=index.device)[: cfg.dispersion_rows]]
    # gradients flow through these, also where rows are targets that send none back
    rows = table.input_rows(index)
    return sliced_dispersion(rows, great_circles(rows.size(1), cfg.dispersion_circles, rows))
