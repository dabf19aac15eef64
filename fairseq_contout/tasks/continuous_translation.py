"""``continuous_translation``: fairseq's translation task, decoding over nearest neighbours only."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_contout.tasks.candidate_lists import WithCandidateLists
from fairseq_contout.tasks.nearest import OverNearestRows, SearchConfig, knn_field
from fairseq_contout.tasks.new_table import NewTableConfig, WithNewTable


@dataclass
class ContinuousTranslationConfig(TranslationConfig, SearchConfig, NewTableConfig):
    """Options of ``continuous_translation``."""

    knn: int = knn_field("translation")


@register_task("continuous_translation", dataclass=ContinuousTranslationConfig)
class ContinuousTranslationTask(OverNearestRows, WithCandidateLists, WithNewTable, TranslationTask):
    """Translation that never makes a tensor of the vocabulary's size while it decodes.

    Training is that of ``translation``, and either task decodes the checkpoints of the other.
    With ``--new-table`` words are produced that no training has seen.
    """
