"""What makes a task of fairseq decode over the nearest rows of the target table."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_contout.generator import (
    KNNSequenceGenerator,
    KNNSequenceGeneratorWithAlignment,
    refuse_unsupported,
)
from fairseq_contout.search_options import MOST_FREQUENT, ROW_TYPES, SEARCHES, SearchOptions


def knn_field(task: str):
    """Return the option ``--knn`` of a task whose results over all rows are those of ``task``."""
    return field(
        default=32,
        metadata={
            "help": "nearest rows of the target table that compete at each step, beside the "
            f"special symbols; from 2 x beam on, results are those of --task {task}"
        },
    )


def _option(help_text: str):
    return field(default=None, metadata={"help": help_text})


@dataclass
class SearchConfig(FairseqDataclass):
    """How the nearest rows are found; the defaults are those of ``search_options.py``."""

    knn_search: ChoiceEnum(list(SEARCHES)) = field(
        default="exact",
        metadata={
            "help": "exact: all rows; hnsw, ivf, ivfpq: a FAISS index, for very large tables; "
            "shortlist: words likely given the source (--shortlist); lists: the words that are "
            "listed for each sentence (--candidate-lists, or after a tab in fairseq-interactive)"
        },
    )
    knn_rows: Optional[str] = _option(
        f"exact: how rows are kept for the search, one of {', '.join(ROW_TYPES)}; default float32. "
        "The best are scored again with the table's own"
    )
    knn_cache: Optional[str] = _option(
        "hnsw, ivf, ivfpq: folder where an index is kept; without one it is built in each process"
    )
    knn_frequent: Optional[int] = _option(
        "hnsw, ivf, ivfpq: the most frequent words, as many as this, are all looked at; the "
        f"index holds the others; default {MOST_FREQUENT}, or a tenth of the words if less"
    )
    normalizer_sample: Optional[int] = _option(
        "hnsw, ivf, ivfpq: rows drawn once, from which the part of the normaliser that the rows "
        "found do not make is estimated; default 4096"
    )
    hnsw_links: Optional[int] = _option("hnsw: neighbours that a row keeps; default 32")
    hnsw_ef_construction: Optional[int] = _option(
        "hnsw: rows that are looked at when one is added; default 200"
    )
    hnsw_ef: Optional[int] = _option("hnsw: rows that a search looks at; default 128")
    ivf_lists: Optional[int] = _option(
        "ivf, ivfpq: clusters of rows; default 4 times the square root of the words"
    )
    ivf_probes: Optional[int] = _option("ivf, ivfpq: clusters that a search looks at; default 32")
    pq_bytes: Optional[int] = _option(
        "ivfpq: bytes of a row's code, a divisor of the dimension; default the largest that is at "
        "most a quarter of it"
    )
    shortlist: Optional[str] = _option(
        "shortlist: the lexicon's file, made with preprocess/build_lexicon.py"
    )
    new_word_bonus: Optional[float] = _option(
        "shortlist: added, with the logarithm of its probability in the lexicon, to the logit of a "
        "word that --new-table brought; default: neither"
    )
    candidate_lists: Optional[str] = _option(
        "lists: text file with a line for each sentence of the data: the words that may be its "
        "translation's, as the target text is tokenised and segmented"
    )


class OverNearestRows:
    """Mixin for a task of fairseq whose configuration has ``knn`` and :class:`SearchConfig`'s
    options: put it before the task's class.
    """

    def build_generator(
        self,
        models,
        args,
        seq_gen_cls=None,
        extra_gen_cls_kwargs=None,
        prefix_allowed_tokens_fn=None,
    ):
        """Build a :class:`~fairseq_contout.generator.KNNSequenceGenerator`.

        ``--score-reference`` needs no search and gets fairseq's scorer.

        Raises:
            ValueError: an option that only a distribution over the whole vocabulary can serve, or
                a search that is not to be had.
        """
        if seq_gen_cls is None and not getattr(args, "score_reference", False):
            refuse_unsupported(args, models, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
            # fairseq's task of language models keeps its configuration under another name
            config = self.args if self.cfg is None else self.cfg
            extra_gen_cls_kwargs = dict(
                extra_gen_cls_kwargs or {},
                knn=config.knn,
                search_options=SearchOptions.of(config),
            )
            seq_gen_cls = KNNSequenceGenerator
            if getattr(args, "print_alignment", None):
                seq_gen_cls = KNNSequenceGeneratorWithAlignment
                extra_gen_cls_kwargs["print_alignment"] = args.print_alignment
        return super().build_generator(
            models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
        )
