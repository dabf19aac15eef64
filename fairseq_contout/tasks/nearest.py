"""What makes a task of fairseq decode over the nearest rows of the target table."""

from dataclasses import field

from fairseq_contout.generator import (
    KNNSequenceGenerator,
    KNNSequenceGeneratorWithAlignment,
    refuse_unsupported,
)


def knn_field(task: str):
    """Return the option ``--knn`` of a task whose results over all rows are those of ``task``."""
    return field(
        default=32,
        metadata={
            "help": "nearest rows of the target table that compete at each step, beside the "
            f"special symbols; from 2 x beam on, results are those of --task {task}"
        },
    )


class OverNearestRows:
    """Mixin for a task of fairseq that has ``knn``: put it before the task's class."""

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
            ValueError: an option that only a distribution over the whole vocabulary can serve.
        """
        if seq_gen_cls is None and not getattr(args, "score_reference", False):
            refuse_unsupported(args, models, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
            extra_gen_cls_kwargs = dict(extra_gen_cls_kwargs or {}, knn=self.knn)
            seq_gen_cls = KNNSequenceGenerator
            if getattr(args, "print_alignment", None):
                seq_gen_cls = KNNSequenceGeneratorWithAlignment
                extra_gen_cls_kwargs["print_alignment"] = args.print_alignment
        return super().build_generator(
            models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
        )
