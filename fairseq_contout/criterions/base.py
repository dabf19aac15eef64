"""What all criterions on embeddings share: masking, table look-up, reduction and logging."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor

from fairseq_contout.criterions.logged import log_means
from fairseq_contout.criterions.monitor import monitor
from fairseq_contout.criterions.term_options import TermsConfig, check_read, check_terms
from fairseq_contout.criterions.terms import (
    ContrastiveTerm,
    all_tokens,
    dispersion_term,
    doubled,
)
from fairseq_contout.losses import cosine_loss, cosine_similarity
from fairseq_contout.scores import finite

logger = logging.getLogger(__name__)


@dataclass
class ContinuousCriterionConfig(TermsConfig):
    """Options of every criterion on embeddings."""

    sentence_avg: bool = II("optimization.sentence_avg")
    skip_unknown: bool = field(
        default=False,
        metadata={
            "help": "target tokens that are <unk> do not count, so that predictions of unknown "
            "words are free to point where such words may stand in a table of more words"
        },
    )


#: Attribute of a task for which a model with a continuous output was built, with the kind of its
#: table (frozen or learned): fairseq shows a criterion its task when it is built, and the model
#: only with the first batch.
TASK_MARK = "has_continuous_output"


def _refuse_softmax(what: str):
    raise ValueError(
        f"a criterion on embeddings needs a model that predicts embeddings, but {what} ends in a "
        "softmax over the vocabulary; train with --arch continuous_transformer or "
        "continuous_lstm (of language models continuous_transformer_lm, continuous_lstm_lm or "
        "continuous_masked_lm), or with --criterion label_smoothed_cross_entropy"
    )


def continuous_output_of(model):
    """Return the continuous output of a model, wrapped for many processes or not.

    Raises:
        ValueError: the model ends in a softmax.
    """
    for part in ("decoder", "encoder"):  # the encoder of a masked language model
        output = getattr(getattr(model, part, None), "continuous_output", None)
        if output is not None:
            return output
    return _refuse_softmax(type(getattr(model, "module", model)).__name__)


class ContinuousCriterion(FairseqCriterion):
    """Base of the criterions: a subclass names its score and gives a loss per token.

    Attributes:
        score: the score by which models trained with this criterion decode.
        reads: options of the contrastive loss that it reads although that is not part of it.
        has_concentration: whether ||h|| is a concentration κ; its mean is logged then.
    """

    score = "cosine"
    has_concentration = False
    reads = ()

    @staticmethod
    def initial_length(dim: int) -> Optional[float]:
        """Return ‖h‖ when a training begins, in d dimensions; None: what Xavier's rule makes it."""
        return None

    def __init__(self, cfg, task):
        super().__init__(task)
        if isinstance(task, FairseqTask) and not hasattr(task, TASK_MARK):
            _refuse_softmax("the model that was built (build it before the criterion)")
        check_terms(cfg)
        if not cfg.contrastive_weight:
            check_read(cfg, self.reads)
        if cfg.dispersion_weight and getattr(task, TASK_MARK, None) == "frozen":
            raise ValueError(
                f"--dispersion-weight {cfg.dispersion_weight} spreads a learned table, but "
                "--target-table is a file, whose rows stay as they are; give --target-table "
                "learned, or leave it out"
            )
        self.cfg = cfg
        self.sentence_avg = cfg.sentence_avg
        self.dictionary = task.target_dictionary
        self.unknown_idx = self.dictionary.unk()
        self._calibrating = False
        # without it a criterion has no parameters, and fairseq does not wrap or save any
        self.contrastive = None
        if cfg.contrastive_weight:
            self.contrastive = ContrastiveTerm(cfg, task.target_dictionary)

    def load_state_dict(self, state_dict, *args, **options):
        """Load the state of a checkpoint; parts that another criterion had, or lacked, begin anew.

        So a model goes on with another loss (``--finetune-from-model``). A part of the same name
        must be complete.
        """
        own, given = self.state_dict(), dict(state_dict or {})
        parts, found = ({name.split(".")[0] for name in names} for names in (own, given))
        if parts != found:
            logger.warning(
                f"the checkpoint has another criterion's state than {type(self).__name__}'s: "
                f"{', '.join(sorted(parts - found)) or 'nothing'} begins anew, "
                f"{', '.join(sorted(found - parts)) or 'nothing'} is left out"
            )
        kept = {name: value for name, value in given.items() if name.split(".")[0] in parts}
        anew = {name: value for name, value in own.items() if name.split(".")[0] not in found}
        return super().load_state_dict({**kept, **anew}, *args, **options)

    def token_losses(self, hidden: Tensor, target: Tensor, table) -> Tensor:
        """Return the loss of each token.

        Args:
            hidden: predictions ``(N, d)``, float32 or better, padding left out.
            target: their tokens ``(N,)``.
            table: the :class:`~fairseq_contout.target_table.TargetTable`.

        Returns:
            ``(N,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define token_losses")

    def pair_losses(self, first: Tensor, second: Tensor, target: Tensor, table) -> Tensor:
        """Return the mean loss of two predictions of each token, ``(N, d)`` both: ``(N,)``."""
        both = (self.token_losses(hidden, target, table) for hidden in (first, second))
        return sum(both) / 2

    def forward(self, model, sample, reduce=True):
        """Compute the summed loss of a batch, its sample size and what is logged.

        The loss is summed over the tokens that are no padding (with ``--skip-unknown``, and no
        ``<unk>``). ``sample_size``, by which fairseq divides the gradient, is their number, or the
        number of sentences under ``--sentence-avg``. With ``reduce=False`` the loss is ``(B, T)``,
        0 where nothing counts.

        Raises:
            ValueError: the model has no continuous output; a target may not be emitted (``<s>``).
        """
        table = continuous_output_of(model).table
        twice = self.training and bool(self.cfg.consistency_weight or self.cfg.r_drop)
        net_input = sample["net_input"]
        net_output = model(**(doubled(net_input) if twice else net_input))
        target = model.get_targets(sample, net_output)
        real = target.ne(self.padding_idx)  # B x T
        if self.cfg.skip_unknown:
            real = real & target.ne(self.unknown_idx)
        predicted = net_output[0]
        if predicted.dtype in (torch.float16, torch.bfloat16):
            predicted = predicted.float()  # norms and normalisers overflow or lose digits below
        # one view of the batch, or two that differ in what dropout left out: N x d each
        count = 2 if twice else 1
        views = [predicted[start::count][real] for start in range(count)]
        with torch.autocast(predicted.device.type, enabled=False):  # --amp is for the model
            tokens = target[real]
            self._check_targets(tokens, table)
            losses, sample_size, log = self._of_views(views, tokens, table, target.size(0))
        if reduce:
            return losses.sum(), sample_size, log
        full = losses.new_zeros(target.shape)
        full[real] = losses
        return full, sample_size, log

    def _check_targets(self, tokens: Tensor, table):
        able = table.emittable[tokens]
        if not bool(able.all()):
            index = int(tokens[~able][0])
            symbol = self.dictionary.symbols[index]
            raise ValueError(
                f"a target must be a symbol that the model may emit, but one is {symbol!r} (index "
                f"{index}): <s>, <pad>, <mask> and fairseq's padding words have probability 0; "
                "leave it out of the target text, or turn off the option that adds it (such as "
                "--prepend-bos)"
            )

    def _of_views(self, views: List[Tensor], tokens: Tensor, table, sentences: int):
        """Return the losses ``(N,)``, the sample size and the log, and count the tokens."""
        hidden = views[0]
        # not what the sample says: a masked language model reads more tokens than it predicts
        sample_size = sentences if self.sentence_avg else len(tokens)
        losses = self._view_losses(views, tokens, table)
        losses = losses + self._dispersion(len(tokens), table, sample_size)
        log = {
            "loss": losses.detach().sum(),
            "ntokens": len(tokens),
            "nsentences": sentences,
            "sample_size": sample_size,
        }
        if self.has_concentration:
            log["concentration"] = hidden.detach().norm(dim=-1).sum()
        if not self.training:
            log.update(self._validation_log(hidden, tokens, table))
        else:
            self._calibrating = False
            for module in self.children():
                if isinstance(module, ContrastiveTerm):
                    module.observe(tokens)
            if table.prior is not None:
                table.prior.observe(all_tokens(tokens))
        return losses, sample_size, log

    def _view_losses(self, views: List[Tensor], tokens: Tensor, table) -> Tensor:
        """Return the loss of each token, averaged over the views, and how far they disagree."""
        of_views = self.token_losses if len(views) == 1 else self.pair_losses
        losses = of_views(*views, tokens, table)
        if self.contrastive is not None:
            added = self.contrastive(views[0], tokens, table, *views[1:])
            losses = losses + self.cfg.contrastive_weight * added
        if len(views) == 2 and self.cfg.consistency_weight:
            losses = losses + self.cfg.consistency_weight * cosine_loss(*views)
        return losses

    def _dispersion(self, count: int, table, sample_size):
        """Return what the dispersion of the table adds to the loss of each token."""
        if not (self.cfg.dispersion_weight and self.training):
            return 0
        # fairseq divides by the sample size: the term counts once an update, not once a token
        return (
            self.cfg.dispersion_weight
            * sample_size
            / max(count, 1)
            * dispersion_term(table, self.cfg)
        )

    @torch.no_grad()
    def _validation_log(self, hidden: Tensor, tokens: Tensor, table) -> Dict[str, Any]:
        # The first validation batch after training starts a new calibration of the scale. It ends
        # in the checkpoint, which fairseq writes after validating.
        log = {}
        if not self._calibrating:
            table.calibration.reset()
            self._calibrating = True
            if table.learned:
                log = monitor(table, tokens)
        found = table.validate(finite(hidden), tokens)
        return {
            **log,
            "correct": found.correct,
            "cosine": cosine_similarity(hidden, table.rows(tokens)).sum(),
            "validated": tokens.numel(),
            "nll_grid": found.nll,
            "bins": found.bins,
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Log means over all tokens of all processes.

        loss (of the criterion's own unit, per token or sentence), κ per token; on validation data
        also accuracy (per cent of predictions whose nearest row is the target), mean cosine, ece
        (expected calibration error in per cent, of the probability of the nearest row), and
        nll_loss (bits per token) and ppl at the scale that is calibrated on the same data,
        comparable with a softmax whose temperature is fitted, too; with --unigram-prior its weight
        β as prior_weight; of a learned table, how spread it is
        (:mod:`~fairseq_contout.criterions.monitor`).
        """
        log_means(logging_outputs, cls.has_concentration)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Sums of sums are sums: fairseq may add up the logs of the processes before reducing."""
        return True
