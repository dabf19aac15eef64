"""What test_search_*.py share: a table large enough for every search, and a tiny model."""

from argparse import Namespace

import torch
from factory import make_batch, make_dictionary, make_model, make_table

from fairseq_contout.learned_table import LearnedTable
from fairseq_contout.lexicon_file import Lexicon, save_lexicon
from fairseq_contout.prior_calibration import WEIGHTS
from fairseq_contout.scale_grid import GRID
from fairseq_contout.search_options import SearchOptions
from fairseq_contout.tasks.continuous_translation import (
    ContinuousTranslationConfig,
    ContinuousTranslationTask,
)

WORDS = 300
#: name → options under which a search misses nothing: with 8 x 40 codes ivfpq scores all rows again
WHOLE = {
    "bfloat16": {"knn_rows": "bfloat16"},
    "int8": {"knn_rows": "int8"},
    "hnsw": {"knn_search": "hnsw", "hnsw_ef": 400},
    "ivf": {"knn_search": "ivf", "ivf_lists": 9, "ivf_probes": 9},
    "ivfpq": {"knn_search": "ivfpq", "ivf_lists": 9, "ivf_probes": 9, "pq_bytes": 4},
}
FOUND = 40


def whole(name) -> SearchOptions:
    return SearchOptions(**WHOLE[name])


def large_table(score="cosine", **options):
    """Return a table of WORDS words and four padding words, and 20 predictions."""
    table, _ = make_table(score, WORDS, padding_words=4, **options)
    return table, 2 * torch.randn(20, 8, generator=torch.Generator().manual_seed(3))


def learned_from(frozen):
    """Return a learned table of the rows of a frozen one."""
    weight = torch.nn.Parameter(5 * frozen.weight)
    return LearnedTable(weight, make_dictionary(WORDS, 4), frozen.score, frozen.fixed_scale)


class TinyModel:
    """An untrained model of WORDS words, a batch of five sentences, and decoding of them."""

    def __init__(self, folder, arch="continuous_transformer_tiny", dim=16, **options):
        self.dictionary = make_dictionary(WORDS, padding_words=4)
        self.model = make_model(folder, self.dictionary, arch=arch, dim=dim, scale=9.0, **options)
        self.model.eval()
        self.table = self.model.decoder.continuous_output.table
        self.batch = make_batch(self.dictionary, (9, 7, 5, 4, 2))
        with torch.no_grad():  # sentences must end, some sooner than others
            hidden = self.model(**self.batch["net_input"])[0].flatten(0, 1)
            end = torch.nn.functional.normalize(hidden, dim=1).mean(dim=0)
            end = torch.nn.functional.normalize(end, dim=0) + 1.5 * self.table.weight[2]
            self.table.weight[2] = torch.nn.functional.normalize(end, dim=0)

    def build(self, search=None, knn=FOUND, **options):
        config = ContinuousTranslationConfig(data="none", knn=knn, **(search or {}))
        task = ContinuousTranslationTask(config, self.dictionary, self.dictionary)
        return task.build_generator([self.model], Namespace(**{"max_len_b": 9, **options}))

    def generate(self, search=None, knn=FOUND, batch=None, prefix=None, **options):
        generator = self.build(search, knn, **options)
        torch.manual_seed(0)
        return generator.generate([self.model], batch or self.batch, prefix_tokens=prefix)


#: β of :func:`give_prior`
PRIOR_WEIGHT = 0.6


def give_prior(table, weight=PRIOR_WEIGHT):
    """Give a table counts, some of them 0, and sums that are lowest at τ = 9 and this β."""
    table.add_prior()
    draw = torch.Generator().manual_seed(11)
    ranks = torch.randperm(len(table.weight), generator=draw)
    table.prior.counts.copy_((400 / (1 + ranks)).long())  # Zipf's law
    sums = 10 * (torch.tensor(WEIGHTS).double().unsqueeze(1) - weight) ** 2 + (GRID / 9).log() ** 2
    state = torch.cat((torch.ones(1, dtype=torch.float64), sums.flatten()))
    table.calibration.load(state)
    return table


#: name → options of decoding
OPTIONS = {
    "plain": {"beam": 4},
    "greedy": {"beam": 1},
    "prefix": {"beam": 4, "prefix_size": 3},
    "no-repeat": {"beam": 4, "no_repeat_ngram_size": 2},
    "sampling": {"beam": 4, "sampling": True, "sampling_topk": 5},
    "temperature": {"beam": 4, "temperature": 2.0},
    "alignment": {"beam": 4, "print_alignment": "hard"},
    "many": {"beam": 3, "prefix_size": 2, "no_repeat_ngram_size": 2, "lenpen": 0.5, "unkpen": 1.0},
}


def save_shortlist(folder, tiny, best, frequent, logs=None):
    """Keep a lexicon and return the options of a search with it."""
    path, lexicon = folder / "lexicon.safetensors", Lexicon.alike(best, frequent)
    if logs is not None:
        lexicon = lexicon._replace(log_probability=logs)
    save_lexicon(path, lexicon, tiny.dictionary, tiny.dictionary)
    return {"knn_search": "shortlist", "shortlist": str(path)}


def generate(tiny, search, prefix_size=0, batch=None, **options):
    """Decode with a search; the first prefix_size words of each target are forced."""
    batch = batch or tiny.batch
    prefix = batch["target"][:, :prefix_size] if prefix_size else None
    return tiny.generate(search, batch=batch, prefix=prefix, **options)
