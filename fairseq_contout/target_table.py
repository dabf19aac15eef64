"""The target table: what a continuous output is compared with, in training and in decoding.

Rows are aligned with the indices of the target dictionary and have norm 1. The module carries the
rows, the rule by which a prediction scores them and the calibrated scale, so that a checkpoint is
all that decoding needs.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_contout import knn
from fairseq_contout.calibration import (
    BINS,
    ScaleCalibration,
    grid_bins,
    grid_nll,
)
from fairseq_contout.candidates import Candidates, find_candidates
from fairseq_contout.prior import WithPrior
from fairseq_contout.prior_calibration import prior_grid_scores, without_prior
from fairseq_contout.scale_grid import grid_log_sum_exp
from fairseq_contout.scores import DEFAULT_SCALE, Query, check_score, make_query
from fairseq_contout.searchers import ExactSearch
from fairseq_contout.symbols import (
    SPECIALS,
    dictionary_signature,
    emittable_rows,
    signature_hex,
    signature_words,
)
from fairseq_contout.table_file import load_table, normalize_rows, read_table, save_table

__all__ = [
    "SPECIALS",
    "Candidates",
    "TargetTable",
    "dictionary_signature",
    "emittable_rows",
    "load_table",
    "normalize_rows",
    "read_table",
    "save_table",
]

#: Logits held at once while a validation batch is scored, in elements.
_VALIDATION_ELEMENTS = 1 << 23
#: Logits of a validation batch that calibrate the scale, in elements, and tokens at the least.
_CALIBRATION_ELEMENTS, _CALIBRATION_TOKENS = 1 << 22, 256
#: How much a number of a unit vector changes by being stored in bf16.
_HALF_PRECISION = 2**-8


class ValidationScores(NamedTuple):
    """What one batch of validation data says about the nearest neighbours of its predictions.

    Attributes:
        correct: number of predictions whose nearest row is the target.
        nll: sums of -log p(target) in nats for each scale of FINE_GRID, ``(F,)``, estimated from
            a sample of the tokens; with a prior ``(B, F)``, and bins likewise.
        bins: confidence and accuracy for each scale, :func:`fairseq_contout.calibration.grid_bins`,
            from the same sample.
    """

    correct: Tensor
    nll: Tensor
    bins: Tensor


class TargetTable(WithPrior, nn.Module):
    """Frozen unit-norm target rows with their score; learned ones: ``learned_table.py``.

    Args:
        weight: rows ``(V, d)`` of norm 1, aligned with ``dictionary``.
        dictionary: the target dictionary (fairseq).
        score: one of :data:`fairseq_contout.scores.DEFAULT_SCALE`.
        scale: inverse temperature τ; when None, the one calibrated on validation data, and before
            any validation the default of the score.

    Raises:
        ValueError: unknown score, scale ≤ 0, or a wrong number of rows.
    """

    #: whether rows change in training
    learned = False

    def __init__(self, weight: Tensor, dictionary, score: str, scale: Optional[float] = None):
        super().__init__()
        if weight.size(0) != len(dictionary):
            raise ValueError(
                f"a target table needs a row for each of the {len(dictionary)} symbols of the "
                f"dictionary, but has {weight.size(0)}; rebuild it with preprocess/build_table.py"
            )
        if scale is not None and not (isinstance(scale, (int, float)) and 0 < scale < float("inf")):
            raise ValueError(
                f"--scale must be a number greater than 0 and finite, but is {scale!r}; leave it "
                "out to calibrate"
            )
        self.score = check_score(score)
        self.fixed_scale = scale
        self.num_specials = dictionary.nspecial
        self.calibration = ScaleCalibration()
        self.prior = self.new_words = None
        self._keep(weight)
        self.signature = signature_words(dictionary)
        self.register_buffer("emittable", emittable_rows(dictionary), persistent=False)

    def _keep(self, weight: Tensor):
        self.register_buffer("weight", weight)

    @property
    def dim(self) -> int:
        """Dimension d of the rows."""
        return self.weight.size(1)

    @property
    def scale(self) -> float:
        """Inverse temperature τ in use: fixed, else calibrated, else the default of the score."""
        if self.fixed_scale is not None:
            return self.fixed_scale
        return self.calibration.best() or DEFAULT_SCALE[self.score]

    def extra_repr(self) -> str:
        rows, dim = self.weight.shape
        return (
            f"rows={rows}, dim={dim}, learned={self.learned}, score={self.score}, "
            f"scale={self.scale:.4g}"
        )

    # Signature and calibration must keep their digits in a model of half precision: no buffers.
    def get_extra_state(self) -> Tensor:
        return torch.cat((self.signature, self.calibration.state()))

    def set_extra_state(self, state: Tensor):
        count = len(self.signature)
        found, own = signature_hex(state[:count]), signature_hex(self.signature)
        if found != own:
            raise ValueError(
                "the checkpoint's target table belongs to a dictionary with signature "
                f"{found[:12]}…, the dictionary in use has {own[:12]}…; give the data folder "
                "whose dictionary the model was trained with"
            )
        state = state[count:]
        self.calibration.load(without_prior(state) if self.prior is None else state)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        rows = state_dict.get(prefix + "weight")
        # A model built from a checkpoint's own options has no rows yet. One built from a table file
        # would go on with the checkpoint's rows and be named after the file's. The special symbols
        # may have others: those of a checkpoint are the ones that its model learned to point at.
        if rows is not None and not self.learned and self.weight.any():
            words = slice(self.num_specials, None)
            same = rows.shape == self.weight.shape and torch.allclose(
                rows[words].float(), self.weight[words].float(), rtol=0, atol=_HALF_PRECISION
            )
            if not same:
                raise ValueError(
                    "the checkpoint was trained with other rows than those of --target-table; give "
                    "the table that it was trained with, or start a training without the checkpoint"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def rows(self, index: Optional[Tensor] = None) -> Tensor:
        """Return the rows of token indices ``(…)``, or all: ``(…, d)``, float32 or better."""
        rows = self.weight if index is None else self.weight[index]
        return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows

    def stored_rows(self) -> Tensor:
        """Return all unit-norm rows as they are kept, ``(V, d)``, of any floating dtype."""
        return self.weight

    def rows_state(self):
        """Return what differs when rows may have changed: for those who keep something of them."""
        rows = self.weight
        # the model may move without them
        return rows._version, rows.data_ptr(), rows.device, rows.dtype, self.emittable.device

    def input_rows(self, index: Tensor) -> Tensor:
        """Return rows for a decoder to read: ``(…)`` → ``(…, d)``."""
        return self.rows(index)

    def logits_of(self, hidden: Tensor, index: Tensor, scale) -> Tensor:
        """Score some rows at a given scale: ``(N, d)``, ``(M,)`` → logits ``(N, M)``."""
        query = self._query(hidden, scale)
        return query.finish(query.vector @ self.rows(index).to(query.vector.dtype).t())

    def logits_with(self, hidden: Tensor, vectors: Tensor, scale) -> Tensor:
        """Score each prediction with a vector of its own: ``(N, d)``, ``(N, d)`` → ``(N, 1)``."""
        query = self._query(hidden, scale)
        return query.finish((query.vector * vectors).sum(dim=-1, keepdim=True))

    def margin_logits(self, hidden: Tensor, margin: float, scale) -> Tensor:
        """Return what a cosine smaller by ``margin`` takes from the logits: ``(N, d)`` → ``(N,)``.

        Raises:
            ValueError: the score is not linear in the cosine.
        """
        if self.score == "power_spherical":
            raise ValueError(
                "--additive-margin needs a score that is linear in the cosine, but power_spherical "
                "is not; give --score cosine or leave it out"
            )
        return margin * self._query(hidden, scale).vector.norm(dim=-1)

    def scores(self, hidden: Tensor, temperature=1.0) -> Tensor:
        """Score every row: predictions ``(N, d)`` → logits ``(N, V)``, -inf where never emitted.

        Args:
            hidden: predictions h.
            temperature: a number or ``(N, 1)``; divides the logits.
        """
        return self._all_logits(self.query(hidden, temperature))

    def log_probs(self, hidden: Tensor, temperature=1.0) -> Tensor:
        """Return log p(w | h) of every row, ``(N, V)``: the log-softmax of :meth:`scores`."""
        return torch.log_softmax(self.scores(hidden, temperature), dim=-1)

    def candidates(
        self, hidden: Tensor, k: int, temperature=1.0, excluded: Optional[Tensor] = None
    ) -> Candidates:
        """Return log p of the special symbols and of the k nearest other rows, by exact search.

        Arguments and errors: :func:`fairseq_contout.candidates.find_candidates`.
        """
        return find_candidates(self, ExactSearch(self), hidden, k, temperature, excluded)[0]

    def log_prob_of(
        self, hidden: Tensor, index: Tensor, temperature=1.0, scale=None, total=None
    ) -> Tensor:
        """Return log p of one given row for each prediction: ``(N, d)``, ``(N,)`` → ``(N,)``.

        Args:
            hidden: predictions h, ``(N, d)``.
            index: rows, ``(N,)``.
            temperature: as in :meth:`scores`.
            scale: τ to use in place of :attr:`scale`, and no prior.
            total: the normaliser's logarithm, ``(N,)``; summed over the whole table when None.
        """
        fitted = scale is None
        query = (
            self.query(hidden, temperature) if fitted else self._query(hidden, scale / temperature)
        )
        products = (query.vector * self.rows(index)).sum(dim=-1, keepdim=True)
        prior = self.log_prior()
        own = query.finish(products, None if prior is None else prior[index].unsqueeze(1))
        own = own.squeeze(1).masked_fill(~self.emittable[index], -torch.inf)
        if total is None:
            total = knn.exact_search(
                query, self.stored_rows(), 1, allowed=self.emittable, log_prior=prior
            ).log_sum_exp
        return own - total

    @torch.no_grad()
    def validate(self, hidden: Tensor, target: Tensor) -> ValidationScores:
        """Score a batch of validation tokens and let it take part in the calibration.

        Args:
            hidden: predictions ``(N, d)``.
            target: their tokens ``(N,)``.
        """
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        nll = torch.zeros(self.calibration.fine_shape, dtype=torch.float64)
        bins = torch.zeros(*nll.shape, BINS, 3, dtype=torch.float64)
        # Drawn, always alike for a number of tokens: evenly spaced ones would stand at a few places
        # of the sentences only, since these have one length in many batches.
        drawn = torch.randperm(len(target), generator=torch.Generator().manual_seed(len(target)))
        drawn = drawn[: max(_CALIBRATION_TOKENS, _CALIBRATION_ELEMENTS // len(self.weight))]
        chosen = torch.zeros(len(target), dtype=torch.bool)
        chosen[drawn] = True
        chosen = chosen.to(target.device)
        chunk = max(1, _VALIDATION_ELEMENTS // len(self.weight))
        for part, tokens, sample in zip(*(x.split(chunk) for x in (hidden, target, chosen))):
            logits = self._all_logits(self._query(part, 1.0))
            correct += logits.argmax(dim=1).eq(tokens).sum()
            some, their = logits[sample], tokens[sample]
            if self.prior is None:
                log_sums = grid_log_sum_exp(some)
                found = grid_nll(some, their, log_sums), grid_bins(some, their, log_sums)
            else:
                found = prior_grid_scores(some, their, self.log_prior())
            nll += found[0]
            bins += found[1]
        # The sample stands for the batch: batches differ in size, and in what is in them.
        weight = len(target) / max(1, len(drawn))
        nll, bins = nll * weight, bins * weight
        self.calibration.add(nll, len(target))
        return ValidationScores(correct, nll, bins)

    def _all_logits(self, query: Query) -> Tensor:
        rows, like = self.stored_rows(), query.vector
        if rows.dtype == like.dtype and rows.device == like.device:
            products = like @ rows.t()
        else:  # part by part: a copy of all rows may not fit
            parts = rows.split(knn.CHUNK_ROWS)
            products = torch.cat([like @ part.to(like).t() for part in parts], dim=-1)
        return query.finish(products, self.log_prior()).masked_fill(~self.emittable, -torch.inf)

    def _query(self, hidden: Tensor, scale) -> Query:
        return make_query(hidden, self.score, scale)
