"""How decoding_cost.py decodes: fairseq's generator or the plugin's, and what its search finds."""

import time
from contextlib import contextmanager
from typing import Optional

import torch
from decoding_settings import Setting
from fairseq.search import BeamSearch
from torch import Tensor

#: Method → options of the search, the defaults for the rest; None: fairseq's generator, all words.
SEARCHES = {
    "softmax": None,
    "dense": None,
    "exact": {},
    "exact-bfloat16": {"knn_rows": "bfloat16"},
    "exact-int8": {"knn_rows": "int8"},
    "hnsw": {"knn_search": "hnsw"},
    "ivf": {"knn_search": "ivf"},
    "ivfpq": {"knn_search": "ivfpq"},
    "shortlist": {"knn_search": "shortlist"},
}
#: Option that says how much of an index is looked at → the methods that have it.
LOOKS = {"probes": ("ivf", "ivfpq"), "ef": ("hnsw",)}
#: Words that compete at a step, fairseq_contout's default of --knn.
KNN = 32
#: Queries of the recall, drawn from those that a decoding made, and how many at a time.
RECALL_QUERIES, RECALL_PART = 1000, 250


class ForcedLengths(BeamSearch):
    """Beam search in which all beams of a sentence end after a given number of words.

    Args:
        dictionary: target dictionary.
        lengths: words of each sentence by its id, ``(N,)``.
    """

    def __init__(self, dictionary, lengths: Tensor):
        super().__init__(dictionary)
        self.lengths = lengths

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        """Pick candidates as fairseq's beam search: ``</s>`` where it is time, else words."""
        over = self.lengths[original_batch_idxs] <= step
        end = lprobs[:, :, self.eos].masked_fill(~over.unsqueeze(1), -torch.inf)
        if over.any():
            lprobs[over] = -torch.inf
        lprobs[:, :, self.eos] = end
        return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)


def make_generator(name: str, setting: Setting, arguments, lengths: Optional[Tensor] = None):
    """Return fairseq's generator over all words, or the plugin's over what a search finds.

    Args:
        name: a key of :data:`SEARCHES`.
        setting: what is decoded.
        arguments: beam, folder of index files, and how many words are frequent.
        lengths: words of each sentence by its id, to which the softmax is held.
    """
    from fairseq.sequence_generator import SequenceGenerator

    from fairseq_contout.generator import KNNSequenceGenerator
    from fairseq_contout.search_options import APPROXIMATE, SearchOptions

    options = {"beam_size": arguments.beam, **setting.options}
    if name == "softmax":
        if lengths is not None:
            options["search_strategy"] = ForcedLengths(setting.target, lengths)
        return SequenceGenerator([setting.softmax], setting.target, **options)
    if SEARCHES[name] is None:
        return SequenceGenerator([setting.ours], setting.target, **options)
    search = dict(SEARCHES[name])
    if search.get("knn_search") in APPROXIMATE:
        search.update(knn_cache=arguments.cache, knn_frequent=arguments.frequent)
    if name == "shortlist":
        search["shortlist"] = setting.lexicon
    search = SearchOptions(**search)
    return KNNSequenceGenerator(
        [setting.ours], setting.target, knn=KNN, search_options=search, **options
    )


def look_at(generator, option: Optional[str], value: Optional[int]):
    """Let an index that is there already look at more or less of its rows."""
    if option == "ef":
        generator.slots.searcher.index.hnsw.efSearch = value
    elif option == "probes":
        index = generator.slots.searcher.index
        index.nprobe = min(value, index.nlist)


def decode(generator, batches: list):
    """Decode all batches: seconds, and the n-best list of each sentence by its id."""
    begin = time.perf_counter()
    answers = [generator.generate(None, sample) for sample in batches]  # which ignores its models
    seconds = time.perf_counter() - begin
    ids = torch.cat([sample["id"] for sample in batches]).tolist()
    return seconds, dict(zip(ids, (best for answer in answers for best in answer)))


class Recall:
    """Which words a search found for the queries that a decoding made."""

    def __init__(self):
        self.queries, self.found = [], []

    @contextmanager
    def listening(self, searcher):
        """Note what is asked and found in the meantime."""
        search = searcher.search

        def noted(query, k):
            found = search(query, k)
            self.queries.append(query)
            missing = found.logits[:, :10].isneginf()
            self.found.append(found.indices[:, :10].masked_fill(missing, -1))
            return found

        searcher.search = noted
        try:
            yield
        finally:
            del searcher.search

    def shares(self, table):
        """Return the shares of the 1 and the 10 nearest words of all that were found."""
        from fairseq_contout.scores import Query
        from fairseq_contout.searchers import ExactSearch

        found = torch.cat(self.found)
        drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(1))
        drawn = drawn[:RECALL_QUERIES]
        found = found[drawn]
        parts = [
            None if field[0] is None else torch.cat(field)[drawn].split(RECALL_PART)
            for field in zip(*self.queries)
        ]
        search, shared = ExactSearch(table), []
        for number, own in enumerate(found.split(RECALL_PART)):
            query = Query(*(part and part[number] for part in parts))
            nearest = search.search(query, found.size(1)).indices
            shared.append((own.unsqueeze(2) == nearest.unsqueeze(1)).any(dim=1).float())
        shared = torch.cat(shared)
        return shared[:, 0].mean().item(), shared.mean().item()
