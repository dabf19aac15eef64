"""How frequent words are, for the probabilities of decoding: ``--unigram-prior``.

    p(w | h) ∝ π_w^β exp(τ s(h, w))

π_w is the share of w among the target tokens of the training, and β ≥ 0 is fitted with the scale τ
(``prior_calibration.py``). A loss that pulls predictions towards rows, without negatives, learns
where a word is, but not how often it is one; and rows that never were a target lie beside those
that often were. The losses of training do not read it.

A loss with negatives learns how frequent the words are that it has seen, but words that it never
saw were hardly ever among the negatives: ``--unigram-prior seen`` tells only these apart.
"""

import logging
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from fairseq_contout.prior_calibration import PriorCalibration
from fairseq_contout.scores import Query, make_query

logger = logging.getLogger(__name__)

#: What ``--unigram-prior`` may be: shares by counts, or equal ones for all words that were seen.
KINDS = ("counts", "seen")


def unigram_shares(counts: Tensor, emittable: Tensor, kind: str = "counts") -> Tensor:
    """Return the share π of each word, 0 for those that are never emitted; their sum is 1.

    With counts c, m the smallest that is not 0, n = Σ_w c_w / m, V_0 the number of words that were
    never seen and N_1 that of words with m ≤ c_w < 2 m,

        π_w = (1 - P_0) c_w / Σ_u c_u   where w was seen,   P_0 / V_0   where not,
        P_0 = min(N_1 / (n + 1), V_0 / (n + V_0)).

    m stands for once: a training reads its text several times. N_1 / n is Good's estimate of the
    mass of unseen words; the 1 leaves seen words something where each was seen once, and with the
    second bound no unseen word is likelier than one seen once. Without counts all are equal.

    With the kind ``seen`` all V_1 words that were seen share alike what c_w shares above:

        π_w = (1 - P_0) / V_1,   P_0 = min(N_1 / (n + 1), V_0 / (V_1 + V_0)).

    Args:
        counts: tokens, ``(V,)``.
        emittable: words that may be emitted, bool ``(V,)``; counts of others are left out.
        kind: one of :data:`KINDS`.

    Returns:
        float64 ``(V,)``.

    Source: I. J. Good (1953), The Population Frequencies of Species and the Estimation of
    Population Parameters, Biometrika 40, https://doi.org/10.1093/biomet/40.3-4.237
    """
    counts = counts.double().masked_fill(~emittable, 0)
    seen = counts > 0
    unseen = emittable & ~seen
    missing = int(unseen.sum())
    if not seen.any():
        return unseen.double() / missing
    once = counts[seen].min()
    tokens = counts.sum() / once
    good = (seen & (counts < 2 * once)).sum() / (tokens + 1)
    if kind == "seen":
        counts = seen.double()
        tokens = counts.sum()
    mass = torch.minimum(good, missing / (tokens + missing))
    return torch.where(seen, (1 - mass) * counts / counts.sum(), unseen * mass / max(missing, 1))


def half_circle(log_prior: Tensor) -> Tuple[Tensor, float]:
    """Return coordinates beside unit rows that make an inner product count the prior.

    u_w = (log π_w - a) / b, in -1 … 1, with a the middle of the values and b half of their range.
    The inner product of (q, β b, 0) and (e_w, u_w, √(1 - u_w²)) is q·e_w + β log π_w up to a
    constant, and all of the longer rows have one length, so that their order by inner products is
    that by distances. Any other b would do, as the query makes up for it. With this one the
    coordinates are as long as the rows, and a cluster's words are both near and about as frequent.

    Args:
        log_prior: log π of the rows, ``(M,)``.

    Returns:
        the two coordinates ``(M, 2)``, float32; and b.

    Source: Yoram Bachrach et al. (2014), Speeding Up the Xbox Recommender System Using a Euclidean
    Transformation for Inner-Product Spaces, https://doi.org/10.1145/2645710.2645741
    """
    low, high = log_prior.double().aminmax()
    half = float(high - low) / 2
    place = (log_prior.double() - (low + high) / 2) / (half or 1.0)
    return torch.stack((place, (1 - place**2).clamp(min=0).sqrt()), dim=1).float(), half


class UnigramPrior(nn.Module):
    """Counts of target tokens, and log π of them.

    Args:
        emittable: words that may be emitted, bool ``(V,)``.
        kind: of the shares, one of :data:`KINDS`.
    """

    def __init__(self, emittable: Tensor, kind: str = "counts"):
        super().__init__()
        self.kind = kind
        # Integers: a model of half precision leaves them as they are. In a checkpoint they are
        # float64, as averages of checkpoints and --store-ema compute with every tensor.
        counts = torch.zeros_like(emittable, dtype=torch.long)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("emittable", emittable.clone(), persistent=False)
        self._log_shares = None
        self._loaded = False

    def get_extra_state(self) -> Tensor:
        counts = self.counts.to("cpu", torch.float64)
        # the sums of the calibration are of one kind: one number more tells which
        return torch.cat((counts, counts.new_ones(KINDS.index(self.kind))))

    def set_extra_state(self, state: Tensor):
        words = len(self.counts)
        shapes = [(words + number,) for number in range(len(KINDS))]
        if tuple(state.shape) in shapes:
            kind, state = KINDS[shapes.index(tuple(state.shape))], state[:words]
            if kind != self.kind:
                raise ValueError(
                    f"--unigram-prior must be {kind}, with which the checkpoint was calibrated, "
                    f"but is {self.kind}; give it so, or train a model with {self.kind}"
                )
        if state.shape != self.counts.shape:
            raise ValueError(
                f"the counts for --unigram-prior in a checkpoint must be of the {len(self.counts)} "
                f"symbols of the dictionary, but have shape {tuple(state.shape)}; give the data "
                "folder whose dictionary the model was trained with"
            )
        self.counts.copy_(state.double().round())
        self._loaded = True

    def set_num_updates(self, num_updates: int):
        """Forget the counts of another training, where one begins with its checkpoint.

        fairseq calls this before every batch, also before further ones of the same update.
        """
        if num_updates == 0 and self._loaded:
            self.counts.zero_()
        self._loaded = False

    def observe(self, target: Tensor):
        """Count the target tokens of an update: ``(N,)``."""
        self.counts.index_add_(0, target, torch.ones_like(target))

    def state(self):
        """Return what differs when counts may have changed: for those who keep something of it."""
        counts = self.counts
        return counts._version, counts.data_ptr(), counts.device

    def log_shares(self) -> Tensor:
        """Return log π, ``(V,)`` float32, 0 where a word is never emitted: kept until they change.

        See :func:`unigram_shares`.
        """
        if self._log_shares is None or self._log_shares[0] != self.state():
            shares = unigram_shares(self.counts, self.emittable, self.kind)
            logs = shares.where(self.emittable, shares.new_ones(())).log().float()
            self._log_shares = self.state(), logs
        return self._log_shares[1]


class WithPrior:
    """Mixin of what a target table does that may have a prior, and scores predictions with it.

    Attributes:
        prior: the :class:`UnigramPrior`, or None.
    """

    def add_prior(self, kind: str = "counts"):
        """Count target tokens from now on, and fit β with τ: ``--unigram-prior``."""
        self.prior, self.calibration = UnigramPrior(self.emittable, kind), PriorCalibration()

    @property
    def prior_weight(self) -> float:
        """β as it was calibrated, for the scale in use; 0 without a prior, or before that."""
        return 0.0 if self.prior is None else self.calibration.weight(self.fixed_scale)

    def log_prior(self, index=None) -> Optional[Tensor]:
        """Return log π of some rows, a tensor or a slice of indices, or of all; None without."""
        if self.prior is None:
            return None
        return self.prior.log_shares() if index is None else self.prior.log_shares()[index]

    def search_state(self):
        """Return what differs when rows or their prior may have changed."""
        return self.rows_state(), None if self.prior is None else self.prior.state()

    def query(self, hidden: Tensor, temperature=1.0) -> Query:
        """Make predictions ready for products with rows, at the calibrated τ and β.

        Args:
            hidden: predictions h, ``(N, d)``.
            temperature: a number or ``(N, 1)``; divides the logits.
        """
        query, weight = make_query(hidden, self.score, self.scale / temperature), self.prior_weight
        if not weight:
            return query
        ones = query.vector.new_ones(len(query.vector), 1)
        return query._replace(prior=weight / temperature * ones)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        counts = f"{prefix}prior._extra_state"
        if self.prior is None and state_dict.pop(counts, None) is not None:
            logger.info("the checkpoint's counts for --unigram-prior are left out: it is not given")
        own = f"{prefix}_extra_state"
        if self.prior is not None and own in state_dict and counts not in state_dict:
            raise ValueError(
                "--unigram-prior needs the counts of the training's target tokens, but the "
                "checkpoint has none, as it was trained without it; leave it out, or train a "
                "model with it"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
