"""``continuous_language_modeling``: fairseq's task, over nearest rows, or with text backward."""

from dataclasses import dataclass, field

from fairseq.data import BaseWrapperDataset
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask

from fairseq_contout.tasks.nearest import OverNearestRows, SearchConfig, knn_field


@dataclass
class ContinuousLanguageModelingConfig(LanguageModelingConfig, SearchConfig):
    """Options of ``continuous_language_modeling``."""

    knn: int = knn_field("language_modeling")
    backward: bool = field(
        default=False,
        metadata={"help": "read text from its end: each token is predicted from those after it"},
    )


class BackwardDataset(BaseWrapperDataset):
    """The blocks of a language model's data from their ends.

    A block s_0 … s_n has the source s_0 … s_{n-1} and the target s_1 … s_n; backward it has the
    source s_n … s_1 and the target s_{n-1} … s_0.
    """

    def __getitem__(self, index):
        item = self.dataset[index]
        return {**item, "source": item["target"].flip(0), "target": item["source"].flip(0)}


@register_task("continuous_language_modeling", dataclass=ContinuousLanguageModelingConfig)
class ContinuousLanguageModelingTask(OverNearestRows, LanguageModelingTask):
    """Language modelling that generates without a tensor of the vocabulary's size, or backward.

    Training and scoring are those of ``language_modeling``, and either task reads the checkpoints
    of the other. With ``--backward`` the order of the tokens is the reverse, which is one half of
    ELMo's bidirectional language model.
    """

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split.

        Raises:
            ValueError: ``--backward`` with ``--add-bos-token``.
        """
        if self.args.backward and self.args.add_bos_token:
            raise ValueError(
                "--add-bos-token puts a symbol before each block that --backward would ask to be "
                "predicted; leave it out"
            )
        super().load_dataset(split, epoch, combine, **kwargs)
        if self.args.backward:
            self.datasets[split] = BackwardDataset(self.datasets[split])

    def eval_lm_dataloader(self, dataset, *args, context_window=0, **kwargs):
        """Return the batches that ``fairseq-eval-lm`` scores.

        Raises:
            ValueError: ``--backward`` with ``--context-window``.
        """
        if self.args.backward and context_window:
            raise ValueError(
                f"--context-window {context_window} puts the end of the block before in front of "
                "each, but --backward reads blocks from their ends; leave it out"
            )
        return super().eval_lm_dataloader(dataset, *args, context_window=context_window, **kwargs)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Generate what follows a prefix.

        Raises:
            ValueError: ``--backward``: nothing is generated from its end.
        """
        if self.args.backward:
            raise ValueError(
                "a model trained with --backward predicts what comes before, which fairseq's "
                "generator does not write down in the right order; give a forward model"
            )
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)
