"""Beam search over the nearest rows of the target table, inside fairseq's own generator.

fairseq's generator asks a model for log-probabilities over the vocabulary, ``(beams, V)``, lets a
search strategy pick from them, and appends the indices that it picked. Here the model answers over
``S + k`` *slots*: slot i < S is special symbol i itself (so every index that the generator uses for
``</s>``, ``<pad>`` or ``<unk>`` stays right), the others are the k nearest rows. The search
strategy is wrapped: what it picks is turned from slots back into token indices.

The log-probabilities are normalised over the whole table, so hypotheses and scores are those of
the dense path as long as no pick falls outside the slots: from k = 2 × beam on, since a step takes
no more than 2 × beam candidates from all beams together.
"""

from typing import List, Optional

import torch
from fairseq import search
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn

from fairseq_contout.candidates import find_candidates
from fairseq_contout.search_options import SearchOptions, make_searcher
from fairseq_contout.searchers import Searcher

#: Search strategies that look at log-probabilities alone, never at which word they belong to.
_SUPPORTED_STRATEGIES = (
    search.BeamSearch,
    search.LengthConstrainedBeamSearch,
    search.DiverseSiblingsSearch,
    search.Sampling,
)
_REMEDY = "decode with --task translation (or language_modeling), which scores the whole vocabulary"


def refuse_unsupported(args, models, extra_kwargs=None, prefix_allowed_tokens_fn=None):
    """Refuse options that need a distribution over the whole vocabulary.

    Raises:
        ValueError: names the option, the reason and the remedy.
    """
    reasons = {
        "--diverse-beam-groups": (
            getattr(args, "diverse_beam_groups", -1) > 0,
            "compares words between beams by their index",
        ),
        "--constraints": (
            bool(getattr(args, "constraints", None)),
            "must be able to pick words that are no near neighbours",
        ),
        "prefix_allowed_tokens_fn": (
            (prefix_allowed_tokens_fn or getattr(args, "prefix_allowed_tokens_fn", None))
            is not None,
            "must be able to pick words that are no near neighbours",
        ),
        "--sampling-topp": (
            getattr(args, "sampling_topp", -1.0) > 0,
            "needs the probabilities of all words in order",
        ),
        "--lm-path": (
            (extra_kwargs or {}).get("lm_model") is not None,
            "adds a language model's scores of all words",
        ),
    }
    for option, (asked, reason) in reasons.items():
        if asked:
            raise ValueError(
                f"{option} {reason}, but this task sees only the nearest rows; {_REMEDY}"
            )
    if getattr(args, "sampling", False) and getattr(args, "sampling_topk", -1) < 1:
        raise ValueError(
            "--sampling without --sampling-topk draws from all words, but this "
            f"task sees only the nearest rows; set --sampling-topk, or {_REMEDY}"
        )
    if len(models) != 1:
        raise ValueError(
            "an ensemble averages over all words, but this task sees only each "
            f"model's nearest rows ({len(models)} models given); {_REMEDY}"
        )


class SlotModel(nn.Module):
    """A model that answers with log-probabilities over slots in place of the vocabulary.

    Attributes:
        indices: the tokens of the slots of the last answer, ``(N, S + k)``.
        blocked: tokens that must not be offered next, ``(N, M)``, filled up with -1; or None.
    """

    def __init__(self, model, k: int, searcher: Searcher):
        super().__init__()
        self.model = model
        encoder = searcher.attend(getattr(model, "encoder", None))
        if encoder is not None:  # a language model has none
            self.encoder = encoder
        self.decoder = model.decoder
        self.k = k
        self.searcher = searcher
        self.blocked: Optional[Tensor] = None
        self.indices: Optional[Tensor] = None
        self._last = None

    @property
    def table(self):
        """The model's target table."""
        return self.decoder.continuous_output.table

    def max_decoder_positions(self):
        """Largest target length of the model."""
        return self.model.max_decoder_positions()

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """Return log-probabilities over slots, ``(N, 1, S + k)``."""
        hidden, temperature = self.decoder.split_temperature(net_output[0])
        found, total = find_candidates(
            self.table, self.searcher, hidden, self.k, temperature, self.blocked
        )
        self.indices = found.indices
        self._last = (hidden, temperature, total)
        return found.log_probs.unsqueeze(1)

    def offer(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Put tokens into a slot of their own and return their log-probabilities ``(M,)``.

        Args:
            rows: beams concerned, ``(M,)``.
            tokens: one token for each, ``(M,)``; the first slot after the special symbols takes it.
        """
        hidden, temperature, total = self._last
        total = total[rows]
        if torch.is_tensor(temperature):
            temperature = temperature[rows]
        self.indices[rows, self.table.num_specials] = tokens
        if not self.searcher.approximate:
            return self.table.log_prob_of(hidden[rows], tokens, temperature, total=total)
        # divided by what the other slots are divided by, and that with the token itself
        own = self.table.log_prob_of(hidden[rows], tokens, temperature, total=0.0)
        own = own + self.searcher.gain(rows, tokens).to(own.dtype)
        counted = self.searcher.covers(rows, tokens)
        total = torch.where(counted, torch.maximum(total, own), torch.logaddexp(total, own))
        return own - total


class SlotSearch(search.Search):
    """A search strategy over slots that reports tokens.

    Args:
        tgt_dict: target dictionary.
        inner: the strategy that picks, one that looks at log-probabilities alone.
        slots: the model that knows which token each slot holds.

    Raises:
        ValueError: the strategy looks at words.
    """

    def __init__(self, tgt_dict, inner: search.Search, slots: SlotModel):
        super().__init__(tgt_dict)
        if not isinstance(inner, _SUPPORTED_STRATEGIES):
            raise ValueError(
                f"{type(inner).__name__} looks at which words it picks, but this task "
                f"offers it slots for the nearest rows; {_REMEDY}"
            )
        self.inner = inner
        # a list keeps the model from being registered twice
        self._slots = [slots]
        for name in ("needs_src_lengths", "stop_on_max_len", "supports_constraints"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def set_src_lengths(self, src_lengths):
        self.inner.set_src_lengths(src_lengths)

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        """Pick candidates: scores, *tokens* and beams, each ``(B, 2 × beam)``."""
        picked, slot, beam = self.inner.step(
            step, lprobs, scores, prev_output_tokens, original_batch_idxs
        )[:3]
        tokens = self._slots[0].indices.view(lprobs.shape)  # batch x beam x slots
        batch = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        return picked, tokens[batch, beam, slot], beam


def blocked_tokens(tokens: Tensor, size: int) -> Optional[Tensor]:
    """List the tokens that would repeat an n-gram of their hypothesis.

    As in fairseq, n = 1 blocks nothing: it would block ``</s>``, with which hypotheses start.

    Args:
        tokens: hypotheses so far, ``(N, t)``, ``</s>`` first, as in fairseq.
        size: n.

    Returns:
        ``(N, M)`` filled up with -1, or None when nothing is blocked.
    """
    rows: List[List[int]] = []
    for hypothesis in tokens.tolist():
        last = hypothesis[-(size - 1) :]  # all of it for n = 1, which equals no empty n-gram
        starts = range(max(0, len(hypothesis) - size + 1))
        rows.append(
            [hypothesis[i + size - 1] for i in starts if hypothesis[i : i + size - 1] == last]
        )
    width = max(map(len, rows))
    if not width:
        return None
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], device=tokens.device)


class _OverSlots:
    """What turns one of fairseq's generators into one over the nearest rows."""

    def __init__(
        self,
        models,
        tgt_dict,
        knn=32,
        search_options=None,
        search_strategy=None,
        no_repeat_ngram_size=0,
        **kwargs,
    ):
        beam = kwargs.get("beam_size", 1)
        table = models[0].decoder.continuous_output.table
        searcher = make_searcher(search_options or SearchOptions(), table)
        slots = SlotModel(models[0], knn, searcher)
        searcher.check(knn, 2 * beam)
        inner = search.BeamSearch(tgt_dict) if search_strategy is None else search_strategy
        if getattr(inner, "sampling_topk", 0) > knn:
            raise ValueError(
                f"--sampling-topk must be at most --knn, the rows that are found ({knn}), but is "
                f"{inner.sampling_topk}; raise --knn, or {_REMEDY}"
            )
        super().__init__(
            [slots], tgt_dict, search_strategy=SlotSearch(tgt_dict, inner, slots), **kwargs
        )
        self.slots = slots
        self.beam_size = beam
        self.vocab_size = table.num_specials + knn
        # blocked words are left out of the search for neighbours: blocking them in the answer
        # could leave too few
        self.ngram_size = no_repeat_ngram_size
        self.model.forward_decoder = self._following_hypotheses(self.model.forward_decoder)

    def _following_hypotheses(self, forward_decoder):
        def forward(tokens, *args, **kwargs):
            if self.ngram_size:
                self.slots.blocked = blocked_tokens(tokens, self.ngram_size)
            self.slots.searcher.follow(tokens)
            return forward_decoder(tokens, *args, **kwargs)

        return forward

    def _prefix_tokens(self, step, lprobs, scores, tokens, prefix_tokens, beam_size):
        # fairseq reads and writes lprobs at the index of the prefix token: give that token a slot,
        # and the slot's number in place of the token's
        specials = self.slots.table.num_specials
        forced = prefix_tokens[:, step].repeat_interleave(beam_size)
        rows = forced.ge(specials).nonzero().squeeze(1)
        if len(rows):
            lprobs[rows, specials] = self.slots.offer(rows, forced[rows])
            prefix_tokens = prefix_tokens.clone()
            column = prefix_tokens[:, step]
            prefix_tokens[:, step] = column.where(column.lt(specials), column.new_tensor(specials))
        return super()._prefix_tokens(step, lprobs, scores, tokens, prefix_tokens, beam_size)


class KNNSequenceGenerator(_OverSlots, SequenceGenerator):
    """fairseq's generator over the nearest rows of one model's target table.

    Args:
        models: one model with a continuous output.
        tgt_dict: target dictionary.
        knn: nearest rows that compete, beside the special symbols; at least 2 × beam.
        search_options: how they are found, a
            :class:`~fairseq_contout.search_options.SearchOptions`; exactly by default.
        kwargs: those of fairseq's ``SequenceGenerator``.

    Raises:
        ValueError: knn is too small for the beam or larger than the table, the search strategy
            looks at words, or the search does not fit the table or lacks what it needs.
    """


class KNNSequenceGeneratorWithAlignment(_OverSlots, SequenceGeneratorWithAlignment):
    """:class:`KNNSequenceGenerator` that also reports attention as an alignment."""
