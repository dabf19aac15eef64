"""What fairseq logs of a criterion on embeddings: means over all tokens of all processes."""

import math
from typing import Any, Dict, List

from fairseq.logging import metrics

from fairseq_contout.calibration import kept_sums
from fairseq_contout.criterions.monitor import MONITORS
from fairseq_contout.prior_calibration import fitted_error, lowest_pair, lowest_sum


def log_means(logging_outputs: List[Dict[str, Any]], has_concentration: bool) -> None:
    """Log what ``ContinuousCriterion.reduce_metrics`` tells of.

    Args:
        logging_outputs: the third value of ``forward``, of each batch or summed.
        has_concentration: whether the criterion has a κ.
    """

    def total(key):
        return sum(log.get(key, 0) for log in logging_outputs)

    if total("monitored"):
        count = total("monitored")
        for name in MONITORS:
            metrics.log_scalar(name, total(name) / count, count, round=4)
    # a batch of few words may have none that is masked
    tokens, size = total("ntokens") or 1, total("sample_size") or 1
    validated = total("validated")
    metrics.log_scalar("loss", total("loss") / size, size, round=4)
    if has_concentration:
        metrics.log_scalar("kappa", total("concentration") / tokens, tokens, round=3)
    if validated:
        metrics.log_scalar("accuracy", 100 * total("correct") / validated, validated, round=3)
        metrics.log_scalar("cosine", total("cosine") / validated, validated, round=4)
        # fairseq sums up names with an underscore, but does not print them
        metrics.log_scalar("_nll_grid", total("nll_grid"))
        metrics.log_scalar("_nll_tokens", validated)
        metrics.log_scalar("_bins", total("bins"))

        def bits(meters):
            lowest = lowest_sum(meters["_nll_grid"].sum)
            return lowest / float(meters["_nll_tokens"].sum) / math.log(2)

        def error(meters):
            return round(100 * fitted_error(meters["_nll_grid"].sum, meters["_bins"].sum), 2)

        def weight(meters):
            return round(lowest_pair(kept_sums(meters["_nll_grid"].sum))[1], 3)

        metrics.log_derived("ece", error)
        metrics.log_derived("nll_loss", lambda meters: round(bits(meters), 3))
        metrics.log_derived("ppl", lambda meters: round(2 ** min(bits(meters), 100.0), 2))
        if total("nll_grid").dim() == 2:
            metrics.log_derived("prior_weight", weight)
