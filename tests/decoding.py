"""Loads a checkpoint once and decodes one batch of the test set with it, densely or sparsely."""

from argparse import Namespace

import torch
from fairseq import checkpoint_utils
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_contout.tasks.continuous_translation import (
    ContinuousTranslationConfig,
    ContinuousTranslationTask,
)


class Decoder:
    """A trained model and a batch.

    Args:
        data: the folder that fairseq-preprocess made.
        checkpoint: the checkpoint file.
        overrides: as in ``--model-overrides``.
    """

    def __init__(self, data, checkpoint, **overrides):
        options = dict(data=str(data), source_lang="src", target_lang="tgt")
        options.update(dataset_impl=None, train_subset="train", required_seq_len_multiple=1)
        dense = TranslationTask.setup_task(TranslationConfig(**options))
        self.dictionary = dense.target_dictionary
        dictionaries = dense.source_dictionary, dense.target_dictionary
        self.tasks = {None: dense}
        for k in (2, 5, 10, 1000):
            config = ContinuousTranslationConfig(knn=k, **options)
            self.tasks[k] = ContinuousTranslationTask(config, *dictionaries)
        models, _ = checkpoint_utils.load_model_ensemble(
            [str(checkpoint)], arg_overrides=overrides, task=dense
        )
        self.model = models[0].eval()
        self.table = self.model.decoder.continuous_output.table
        dense.load_dataset("test")
        dataset = dense.dataset("test")
        self.batch = dataset.collater([dataset[i] for i in range(12)])

    def build(self, knn=None, models=None, **options):
        """Build the generator of the dense path, or of the sparse path over ``knn`` rows."""
        options = {"max_len_b": 12, **options}
        return self.tasks[knn].build_generator(models or [self.model], Namespace(**options))

    def generate(self, knn=None, prefix_size=0, models=None, seed=0, **options):
        """Decode the batch: one n-best list of fairseq's hypotheses for each sentence."""
        generator = self.build(knn, models, **options)
        prefix = self.batch["target"][:, :prefix_size] if prefix_size else None
        torch.manual_seed(seed)
        return generator.generate(models or [self.model], self.batch, prefix_tokens=prefix)

    @torch.no_grad()
    def predictions(self, tokens):
        """Predict h for each position of hypotheses, by one pass without incremental state.

        Args:
            tokens: one hypothesis for each sentence of the batch, ``</s>`` last.

        Returns:
            a tensor ``(length, d)`` for each.
        """
        width, eos = max(map(len, tokens)), self.dictionary.eos()
        previous = torch.full((len(tokens), width), self.dictionary.pad())
        for i, words in enumerate(tokens):
            previous[i, : len(words)] = torch.cat((torch.tensor([eos]), words[:-1]))
        inputs = self.batch["net_input"]
        hidden = self.model(inputs["src_tokens"], inputs["src_lengths"], previous)[0]
        return [hidden[i, : len(words)] for i, words in enumerate(tokens)]


def assert_same_hypotheses(one, other, rtol=1e-4, atol=1e-4):
    """Hold two results to the same tokens in the same order, and to the same scores."""
    assert len(one) == len(other)
    for left, right in zip(one, other):
        assert [h["tokens"].tolist() for h in left] == [h["tokens"].tolist() for h in right]
        for a, b in zip(left, right):
            for score in ("score", "positional_scores"):
                torch.testing.assert_close(a[score], b[score], rtol=rtol, atol=atol)
