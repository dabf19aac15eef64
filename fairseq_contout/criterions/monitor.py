"""What is logged of a learned table at each validation, so that a collapse is seen."""

import logging
from typing import Dict

import torch
from torch import Tensor

from fairseq_contout.dispersion import (
    effective_rank,
    hubness,
    mean_pairwise_cosine,
    mean_token_cosine,
    smallest_angle,
)

logger = logging.getLogger(__name__)

#: Names in the log: mean cosine of two rows, and of the rows of two tokens of the text; smallest
#: angle of two rows (degrees), effective rank, hubness (skewness of the 10-occurrence).
MONITORS = ("table_cosine", "token_cosine", "table_angle", "table_rank", "table_hubness")
#: Rows that are compared with each other; of a larger table, evenly spaced ones.
MONITORED_ROWS = 4096
#: A table is collapsing when one of its mean cosines is above this, or its effective rank below
#: this share of the dimension. Random rows have 0 and nearly 1, trained ones keep near them.
COLLAPSED_COSINE, COLLAPSED_RANK = 0.5, 0.1


@torch.no_grad()
def monitor(table, tokens: Tensor) -> Dict[str, float]:
    """Measure the spread of a learned table's rows, and warn of a collapse.

    Cost O(M² d) with M rows, at most :data:`MONITORED_ROWS`.

    Args:
        table: the learned table.
        tokens: targets, ``(N,)``, those of the first batch of validation data: frequent words
            collapse first.
    """
    words, counts = tokens.unique(return_counts=True)
    index = table.emittable.nonzero().squeeze(1)
    count = len(index)
    index = index[:: -(-len(index) // MONITORED_ROWS)]
    rows = table.rows(index)
    values = {
        "table_cosine": mean_pairwise_cosine(rows),
        "token_cosine": mean_token_cosine(table.rows(words), counts),
        "table_angle": smallest_angle(rows),
        "table_rank": effective_rank(rows),
        "table_hubness": hubness(rows, min(10, len(rows) - 1)),
        "monitored": 1,
    }
    cosine = max(values["table_cosine"], values["token_cosine"])
    if cosine > COLLAPSED_COSINE or values["table_rank"] < COLLAPSED_RANK * min(rows.shape):
        logger.warning(
            "the learned target table is collapsing: mean cosine of two rows "
            f"{values['table_cosine']:.3f}, of the rows of two tokens of a validation batch "
            f"{values['token_cosine']:.3f} (up to {COLLAPSED_COSINE} is sound), effective rank "
            f"{values['table_rank']:.1f} of {min(rows.shape)}. The loss pulls rows together and "
            "nothing pushes them apart: add --contrastive-weight 1, --stop-gradient-targets or "
            f"--dispersion-weight {count} (as many as there are rows), take --criterion "
            "contrastive, or freeze the table (--target-table FILE)"
        )
    return values
