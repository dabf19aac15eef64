"""What hands the words that are listed for each sentence from a task's input to the search.

They travel as fairseq's ``constraints`` do, which a dataset keeps beside its sentences, and batches
and both of fairseq's programs pass on.
"""

from fairseq_contout.candidate_lists import ListSearch, read_lists, words_of


class WithCandidateLists:
    """Mixin for a translation task that decodes over nearest rows: ``--knn-search lists``."""

    _typed = None

    @property
    def _listed(self) -> bool:
        return str(self.cfg.knn_search) == "lists"

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split and, with ``--candidate-lists``, the lists of its sentences.

        Raises:
            ValueError: lists that are not those of the split.
        """
        super().load_dataset(split, epoch, combine, **kwargs)
        if self._listed and self.cfg.candidate_lists:
            data = self.datasets[split]
            lists = read_lists(self.cfg.candidate_lists, self.target_dictionary, len(data))
            data.constraints = lists

    def get_interactive_tokens_and_lengths(self, lines, encode_fn):
        """Encode lines of ``fairseq-interactive``; what stands after a tab is the list of a line.

        Raises:
            ValueError: a line without a list, or words that no dictionary has.
        """
        if self._listed:
            parts = [line.partition("\t") for line in lines]
            lines = [source for source, _, _ in parts]
            self._typed = [
                words_of(encode_fn(words.replace("\t", " ")), self.target_dictionary, f"{source!r}")
                for source, _, words in parts
            ]
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None):
        """Build the dataset of some sentences, with the lists that were typed with them."""
        if self._listed:
            constraints, self._typed = self._typed, None
        return super().build_dataset_for_inference(src_tokens, src_lengths, constraints)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Translate a batch; with ``--knn-search lists`` its constraints are lists of words."""
        searcher = getattr(getattr(generator, "slots", None), "searcher", None)
        if isinstance(searcher, ListSearch):
            searcher.give(constraints)
            constraints = None
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)
