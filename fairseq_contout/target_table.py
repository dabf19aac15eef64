"""The target table: what a continuous output is compared with, in training and in decoding.

Rows are aligned with the indices of the target dictionary and have norm 1. The module carries the
rows, the rule by which a prediction scores them and the calibrated scale, so that a checkpoint is
all that decoding needs.
"""

import re
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_contout import knn
from fairseq_contout.calibration import GRID, ScaleCalibration, grid_nll
from fairseq_contout.scores import DEFAULT_SCALE, Query, check_score, make_query
from fairseq_contout.table_file import (
    SPECIALS,
    dictionary_signature,
    load_table,
    normalize_rows,
    read_table,
    save_table,
)

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
_VALIDATION_ELEMENTS = 1 << 25
#: Tokens of a validation batch that take part in the calibration of the scale.
_CALIBRATION_TOKENS = 256


class Candidates(NamedTuple):
    """Log-probabilities of the special symbols and of the nearest rows.

    Attributes:
        log_probs: ``(N, S + k)`` for S special symbols; exact, normalised over the whole table.
        indices: the rows they belong to, ``(N, S + k)``; the first S are 0 … S - 1.
    """

    log_probs: Tensor
    indices: Tensor


class ValidationScores(NamedTuple):
    """What one batch of validation data says about the nearest neighbours of its predictions.

    Attributes:
        correct: number of predictions whose nearest row is the target.
        nll: sums of -log p(target) in nats for each scale of the calibration's grid, ``(G,)``,
            over a sample of the tokens.
        sampled: tokens in that sample.
    """

    correct: Tensor
    nll: Tensor
    sampled: int


def emittable_rows(dictionary) -> Tensor:
    """Tell which symbols a model may emit: all but ``<s>``, ``<pad>`` and fairseq's padding words.

    fairseq pads a dictionary to a multiple of 8 with ``madeupword0000`` … of count 0.

    Returns:
        bool ``(V,)``.
    """
    allowed = torch.ones(len(dictionary), dtype=torch.bool)
    allowed[[dictionary.bos(), dictionary.pad()]] = False
    for index, (symbol, count) in enumerate(zip(dictionary.symbols, dictionary.count)):
        if count == 0 and re.fullmatch(r"madeupword\d{4}", symbol):
            allowed[index] = False
    return allowed


def _signature_words(dictionary) -> Tensor:
    # 32 bits in each int64: scripts that average checkpoints add up all tensors, then divide
    digest = bytes.fromhex(dictionary_signature(dictionary))
    words = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)]
    return torch.tensor(words, dtype=torch.int64)


def _signature_hex(words: Tensor) -> str:
    return b"".join(int(word).to_bytes(4, "big") for word in words).hex()


class TargetTable(nn.Module):
    """Frozen unit-norm target rows with their score.

    Args:
        weight: rows ``(V, d)`` of norm 1, aligned with ``dictionary``.
        dictionary: the target dictionary (fairseq).
        score: one of :data:`fairseq_contout.scores.DEFAULT_SCALE`.
        scale: inverse temperature τ; when None, the one calibrated on validation data, and before
            any validation the default of the score.

    Raises:
        ValueError: unknown score, scale ≤ 0, or a wrong number of rows.
    """

    def __init__(self, weight: Tensor, dictionary, score: str, scale: Optional[float] = None):
        super().__init__()
        if weight.size(0) != len(dictionary):
            raise ValueError(
                f"a target table needs a row for each of the {len(dictionary)} symbols of the "
                f"dictionary, but has {weight.size(0)}; rebuild it with preprocess/build_table.py"
            )
        if scale is not None and not 0 < scale < float("inf"):
            raise ValueError(
                f"--scale must be greater than 0 and finite, but is {scale}; leave it out to "
                "calibrate"
            )
        self.score = check_score(score)
        self.fixed_scale = scale
        self.num_specials = dictionary.nspecial
        self.calibration = ScaleCalibration()
        self.register_buffer("weight", weight)
        # integers: fairseq's half() must not round them
        self.register_buffer("signature", _signature_words(dictionary))
        self.register_buffer("emittable", emittable_rows(dictionary), persistent=False)

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
        return f"rows={rows}, dim={dim}, score={self.score}, scale={self.scale:.4g}"

    # The calibration is float64 and must stay so in a model of half precision, so it is no buffer.
    def get_extra_state(self) -> Tensor:
        return self.calibration.state()

    def set_extra_state(self, state: Tensor):
        self.calibration.load(state)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        key, own = prefix + "signature", _signature_hex(self.signature)
        if key in state_dict:
            found = _signature_hex(state_dict[key])
            if found != own:
                raise ValueError(
                    "the checkpoint's target table belongs to a dictionary with signature "
                    f"{found[:12]}…, the dictionary in use has {own[:12]}…; give the data folder "
                    "whose dictionary the model was trained with"
                )
            state_dict = {**state_dict, key: self.signature}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows of token indices ``(…)``: ``(…, d)`` in float32 or better."""
        rows = self.weight[index]
        return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows

    def scores(self, hidden: Tensor, temperature=1.0) -> Tensor:
        """Score every row: predictions ``(N, d)`` → logits ``(N, V)``, -inf where never emitted.

        Args:
            hidden: predictions h.
            temperature: a number or ``(N, 1)``; divides the logits.
        """
        query = self._query(hidden, self.scale / temperature)
        logits = query.finish(query.vector @ self.weight.to(query.vector.dtype).t())
        return logits.masked_fill(~self.emittable, -torch.inf)

    def log_probs(self, hidden: Tensor, temperature=1.0) -> Tensor:
        """Return log p(w | h) of every row, ``(N, V)``: the log-softmax of :meth:`scores`."""
        return torch.log_softmax(self.scores(hidden, temperature), dim=-1)

    def candidates(
        self, hidden: Tensor, k: int, temperature=1.0, excluded: Optional[Tensor] = None
    ) -> Candidates:
        """Return log p of the special symbols and of the k nearest other rows.

        The numbers equal those of :meth:`log_probs`; no (N × V) tensor is made.

        Args:
            hidden: predictions h, ``(N, d)``.
            k: number of nearest rows.
            temperature: as in :meth:`scores`.
            excluded: per prediction, rows that must not be returned, ``(N, M)``, filled up with
                -1. They keep their part in the normaliser, as a blocked word does in fairseq.

        Raises:
            ValueError: k is larger than the number of rows that are no special symbols.
        """
        specials = self.num_specials
        query = self._query(hidden, self.scale / temperature)
        own = query.finish(query.vector @ self.weight[:specials].to(query.vector.dtype).t())
        own = own.masked_fill(~self.emittable[:specials], -torch.inf)
        ids = torch.arange(specials, device=own.device).expand(own.size(0), -1)

        reach = k if excluded is None else min(k + excluded.size(1), len(self.weight) - specials)
        found = knn.exact_search(
            query, self.weight[specials:], reach, allowed=self.emittable[specials:]
        )
        logits, indices = found.logits, found.indices + specials
        if excluded is not None:
            blocked = (indices.unsqueeze(2) == excluded.unsqueeze(1)).any(dim=2)
            logits, order = logits.masked_fill(blocked, -torch.inf).topk(k, dim=-1)
            indices = indices.gather(-1, order)
            blocked = (ids.unsqueeze(2) == excluded.unsqueeze(1)).any(dim=2)
        total = torch.logaddexp(own.logsumexp(dim=-1), found.log_sum_exp).unsqueeze(1)
        if excluded is not None:
            own = own.masked_fill(blocked, -torch.inf)
        return Candidates(torch.cat((own, logits), 1) - total, torch.cat((ids, indices), 1))

    def log_prob_of(self, hidden: Tensor, index: Tensor, temperature=1.0) -> Tensor:
        """Return log p of one given row for each prediction: ``(N, d)``, ``(N,)`` → ``(N,)``."""
        query = self._query(hidden, self.scale / temperature)
        own = query.finish((query.vector * self.rows(index)).sum(dim=-1, keepdim=True)).squeeze(1)
        own = own.masked_fill(~self.emittable[index], -torch.inf)
        return own - knn.exact_search(query, self.weight, 1, allowed=self.emittable).log_sum_exp

    @torch.no_grad()
    def validate(self, hidden: Tensor, target: Tensor) -> ValidationScores:
        """Score a batch of validation tokens and let it take part in the calibration.

        Args:
            hidden: predictions ``(N, d)``.
            target: their tokens ``(N,)``, N ≥ 1.
        """
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        nll = torch.zeros(len(GRID), dtype=torch.float64)
        stride = -(-len(target) // _CALIBRATION_TOKENS)
        chunk = max(1, _VALIDATION_ELEMENTS // len(self.weight))
        for part, tokens in zip(hidden.split(chunk), target.split(chunk)):
            query = self._query(part, 1.0)
            logits = query.finish(query.vector @ self.weight.to(query.vector.dtype).t())
            logits = logits.masked_fill(~self.emittable, -torch.inf)
            correct += logits.argmax(dim=1).eq(tokens).sum()
            nll += grid_nll(logits[::stride], tokens[::stride])
        sampled = sum(len(tokens[::stride]) for tokens in target.split(chunk))
        self.calibration.add(nll, sampled)
        return ValidationScores(correct, nll, sampled)

    def _query(self, hidden: Tensor, scale) -> Query:
        return make_query(hidden, self.score, scale)
