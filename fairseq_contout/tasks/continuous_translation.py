"""``continuous_translation``: fairseq's translation task, decoding over nearest neighbours only."""

from dataclasses import dataclass, field

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_contout.generator import (
    KNNSequenceGenerator,
    KNNSequenceGeneratorWithAlignment,
    refuse_unsupported,
)


@dataclass
class ContinuousTranslationConfig(TranslationConfig):
    """Options of ``continuous_translation``."""

    knn: int = field(
        default=32,
        metadata={
            "help": "nearest rows of the target table that compete at each step, beside the "
            "special symbols; from 2 x beam on, results are those of --task translation"
        },
    )


@register_task("continuous_translation", dataclass=ContinuousTranslationConfig)
class ContinuousTranslationTask(TranslationTask):
    """Translation that never makes a tensor of the vocabulary's size while it decodes.

    Training is that of ``translation``, and either task decodes the checkpoints of the other.
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
            ValueError: an option that only a distribution over the whole vocabulary can serve.
        """
        if seq_gen_cls is None and not getattr(args, "score_reference", False):
            refuse_unsupported(args, models, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
            extra_gen_cls_kwargs = dict(extra_gen_cls_kwargs or {}, knn=self.cfg.knn)
            seq_gen_cls = KNNSequenceGenerator
            if getattr(args, "print_alignment", None):
                seq_gen_cls = KNNSequenceGeneratorWithAlignment
                extra_gen_cls_kwargs["print_alignment"] = args.print_alignment
        return super().build_generator(
            models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
        )
