"""How the rows that compete at a step of decoding are found: the options, checked in one place."""

import math
from dataclasses import dataclass, fields
from typing import Optional

from fairseq_contout.approximate import ApproximateSearch
from fairseq_contout.candidate_lists import ListSearch
from fairseq_contout.searchers import ExactSearch, Searcher
from fairseq_contout.shortlist import ShortlistSearch

#: What ``--knn-search`` may be.
SEARCHES = ("exact", "hnsw", "ivf", "ivfpq", "shortlist", "lists")
#: What ``--knn-rows`` may be.
ROW_TYPES = ("float32", "bfloat16", "int8")
#: Searches that look into a FAISS index.
APPROXIMATE = ("hnsw", "ivf", "ivfpq")

#: Words that are looked at beside an index, a tenth of all at most.
MOST_FREQUENT = 10_000

#: Option → the searches that it belongs to.
_OWNERS = {
    "knn_rows": ("exact",),
    "knn_cache": APPROXIMATE,
    "knn_frequent": APPROXIMATE,
    "normalizer_sample": APPROXIMATE,
    "hnsw_links": ("hnsw",),
    "hnsw_ef_construction": ("hnsw",),
    "hnsw_ef": ("hnsw",),
    "ivf_lists": ("ivf", "ivfpq"),
    "ivf_probes": ("ivf", "ivfpq"),
    "pq_bytes": ("ivfpq",),
    "shortlist": ("shortlist",),
    "new_word_bonus": ("shortlist",),
    "candidate_lists": ("lists",),
}
#: Option → the least that it may be.
_LEAST = {
    "knn_frequent": 0,
    "normalizer_sample": 1,
    "hnsw_links": 2,
    "hnsw_ef_construction": 1,
    "hnsw_ef": 1,
    "ivf_lists": 1,
    "ivf_probes": 1,
    "pq_bytes": 1,
}
_DEFAULTS = {
    "knn_rows": "float32",
    "normalizer_sample": 4096,
    "hnsw_links": 32,
    "hnsw_ef_construction": 200,
    "hnsw_ef": 128,
    "ivf_probes": 32,
}


def flag(name: str) -> str:
    """Return an option as it is written on the command line."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class SearchOptions:
    """What the flags of the same names ask for; None takes the default.

    Raises:
        ValueError: an unknown search, an option of another search, or a number out of range.
    """

    knn_search: str = "exact"
    knn_rows: Optional[str] = None
    knn_cache: Optional[str] = None
    knn_frequent: Optional[int] = None
    normalizer_sample: Optional[int] = None
    hnsw_links: Optional[int] = None
    hnsw_ef_construction: Optional[int] = None
    hnsw_ef: Optional[int] = None
    ivf_lists: Optional[int] = None
    ivf_probes: Optional[int] = None
    pq_bytes: Optional[int] = None
    shortlist: Optional[str] = None
    new_word_bonus: Optional[float] = None
    candidate_lists: Optional[str] = None

    def __post_init__(self):
        if self.knn_search not in SEARCHES:
            raise ValueError(
                f"--knn-search must be one of {', '.join(SEARCHES)}, but is {self.knn_search!r}; "
                "choose one of them"
            )
        for name, owners in _OWNERS.items():
            value = getattr(self, name)
            if value is not None and self.knn_search not in owners:
                raise ValueError(
                    f"{flag(name)} {value} belongs to --knn-search {' or '.join(owners)}, but that "
                    f"is {self.knn_search}; leave {flag(name)} out or change --knn-search"
                )
            if value is not None and name in _LEAST and value < _LEAST[name]:
                raise ValueError(
                    f"{flag(name)} must be {_LEAST[name]} or more, but is {value}; raise it or "
                    "leave it out"
                )
        if self.knn_rows not in (None, *ROW_TYPES):
            raise ValueError(
                f"--knn-rows must be one of {', '.join(ROW_TYPES)}, but is {self.knn_rows!r}; "
                "choose one of them"
            )
        if self.new_word_bonus is not None and not math.isfinite(self.new_word_bonus):
            raise ValueError(
                f"--new-word-bonus must be a finite number, but is {self.new_word_bonus}; change it"
            )
        if self.knn_search == "shortlist" and not self.shortlist:
            raise ValueError(
                "--knn-search shortlist needs --shortlist FILE, the words that are likely given a "
                "source; make it with preprocess/build_lexicon.py"
            )

    @classmethod
    def of(cls, config) -> "SearchOptions":
        """Take the options out of a task's configuration.

        Raises:
            ValueError: as the constructor.
        """
        found = {field.name: getattr(config, field.name) for field in fields(cls)}
        found["knn_search"] = str(found["knn_search"])  # an enumeration's member from hydra
        return cls(**found)

    def get(self, name: str):
        """Return an option's value, or its default."""
        value = getattr(self, name)
        return _DEFAULTS[name] if value is None else value

    def frequent_of(self, words: int) -> int:
        """Return how many of the words that may be emitted are looked at beside an index.

        Raises:
            ValueError: none would be left for the index.
        """
        if self.knn_frequent is None:
            return min(MOST_FREQUENT, words // 10)
        if self.knn_frequent >= words:
            raise ValueError(
                f"--knn-frequent must be less than the words of the table ({words}), but is "
                f"{self.knn_frequent}; lower it, or take --knn-search exact, which looks at all"
            )
        return self.knn_frequent


def make_searcher(options: SearchOptions, table) -> Searcher:
    """Return the search that options ask for.

    Raises:
        ValueError: options that do not fit the table, or what the search needs is missing.
    """
    if options.knn_search in APPROXIMATE:
        return ApproximateSearch(table, options)
    if options.knn_search == "shortlist":
        return ShortlistSearch(table, options.shortlist, options.new_word_bonus)
    if options.knn_search == "lists":
        return ListSearch(table)
    return ExactSearch(table, options.get("knn_rows"))
