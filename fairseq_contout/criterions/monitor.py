"""What is logged of a learned table at each validation, so that a collapse is seen."""

import logging
from typing import Dict

import torch

from fairseq_contout.dispersion import effective_rank, hubness, mean_pairwise_cosine, smallest_angle

logger = logging.getLogger(__name__)

#: Names in the log: mean cosine of two rows, smallest angle of two rows (degrees), effective rank,
#: hubness (skewness of the 10-occurrence).
MONITORS = ("table_cosine", "table_angle", "table_rank", "table_hubness")
#: Rows that are compared with each other; of a larger table, evenly spaced ones.
MONITORED_ROWS = 4096
#: A table is collapsing when its mean cosine is above this, or its effective rank below this share
#: of the dimension. Random rows have 0 and nearly 1, trained ones keep near them.
COLLAPSED_COSINE, COLLAPSED_RANK = 0.5, 0.1


@torch.no_grad()
def monitor(table) -> Dict[str, float]:
    """Measure the spread of a learned table's rows, and warn of a collapse.

    Cost O(M² d) with M rows, at most :data:`MONITORED_ROWS`.
    """
    index = table.emittable.nonzero().squeeze(1)
    index = index[:: -(-len(index) // MONITORED_ROWS)]
    rows = table.rows(index)
    values = {
        "table_cosine": mean_pairwise_cosine(rows),
        "table_angle": smallest_angle(rows),
        "table_rank": effective_rank(rows),
        "table_hubness": hubness(rows, min(10, len(rows) - 1)),
        "monitored": 1,
    }
    cosine, share = values["table_cosine"], values["table_rank"] / min(rows.shape)
    if cosine > COLLAPSED_COSINE or share < COLLAPSED_RANK:
        logger.warning(
            f"the learned target table is collapsing: mean cosine of two rows {cosine:.3f} (up to "
            f"{COLLAPSED_COSINE} is sound), effective rank {values['table_rank']:.1f} of "
            f"{min(rows.shape)}. The loss pulls rows together and nothing pushes them apart: add "
            "--contrastive-weight 1 or --dispersion-weight 1, take --criterion contrastive, or "
            "freeze the table (--target-table FILE)"
        )
    return values
