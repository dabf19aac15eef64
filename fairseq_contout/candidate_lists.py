"""Search among the words that are listed for each sentence: nothing else can be produced."""

from pathlib import Path
from typing import List, Optional

import torch
from torch import Tensor

from fairseq_contout.messages import some
from fairseq_contout.searchers import Searcher
from fairseq_contout.shortlist import ShortlistEncoder, ShortlistSearch

_REMEDY = (
    "give them as --candidate-lists FILE to fairseq-generate, or after a tab in each line to "
    "fairseq-interactive"
)


class ListSearch(ShortlistSearch):
    """The nearest of the words that are allowed for a sentence.

    Probabilities are those given that the next word is one of them, or special:

        p(w | h, x) = exp(logit_w) / Σ_{u ∈ C(x)} exp(logit_u),   C(x) = specials ∪ list(x)

    Per step a sentence with M words costs beam · M · d.

    Args:
        table: the target table.
    """

    def __init__(self, table):
        Searcher.__init__(self, table)
        self._given: Optional[Tensor] = None
        self._words = self._sentences = self._gain = self.bonus = None

    def attend(self, encoder):
        """Return the encoder inside one that tells the search when it reads a batch.

        Raises:
            ValueError: there is no encoder.
        """
        if encoder is None:
            raise ValueError(
                "--knn-search lists takes the words that are listed for a source sentence, but a "
                "language model has none; take another search"
            )
        self._frequent = torch.zeros(0, dtype=torch.long, device=self.table.emittable.device)
        return ShortlistEncoder(encoder, self)

    def check(self, k: int, candidates: int):
        """Refuse what :meth:`Searcher.check` does: a short list is what was asked for."""
        Searcher.check(self, k, candidates)

    def give(self, lists: Optional[Tensor]):
        """Take the lists of the batch that is read next: words ``(B, M)``, filled up with 0."""
        self._given = lists

    def begin(self, sources: Tensor):
        """Hold the lists that were given for a batch of sources ``(B, T)``.

        Raises:
            ValueError: there are none.
        """
        if self._given is None or len(self._given) != len(sources):
            count = 0 if self._given is None else len(self._given)
            raise ValueError(
                f"--knn-search lists needs a list of words for each of the {len(sources)} "
                f"sentences, but has {count}; {_REMEDY}"
            )
        lists, self._given = self._given.to(sources.device), None
        specials, emittable = self.table.num_specials, self.table.emittable.to(sources.device)
        usable = lists.ge(specials) & emittable[lists]  # the table scores special symbols itself
        self._frequent = self._frequent.to(sources.device)
        self._hold(lists.masked_fill(~usable, -1))


def words_of(line: str, dictionary, where: str) -> Tensor:
    """Return the words of a list, without repetitions: ``(M,)``.

    Args:
        line: words with blanks between them.
        dictionary: the target dictionary (fairseq).
        where: what the line is, for a message.

    Raises:
        ValueError: a list without words, or words that the dictionary does not have.
    """
    words = list(dict.fromkeys(line.split()))
    unknown = [word for word in words if word not in dictionary]
    if unknown:
        raise ValueError(
            f"{where}: must list words of the target dictionary, but {some(unknown)} are "
            "none; leave them out, or decode with a --new-table that has them"
        )
    indices = torch.tensor([dictionary.index(word) for word in words])
    if not (indices >= dictionary.nspecial).any():
        raise ValueError(
            f"{where}: must list words beside special symbols, but lists none; {_REMEDY}"
        )
    return indices


def read_lists(path, dictionary, count: int) -> List[Tensor]:
    """Read the lists of a data set's sentences, a line each.

    Args:
        path: the file.
        dictionary: the target dictionary (fairseq).
        count: the number of sentences.

    Raises:
        ValueError: no such file, not UTF-8, another number of lines, or what :func:`words_of`
            refuses.
    """
    if not Path(path).is_file():
        raise ValueError(f"--candidate-lists {path}: no such file; give one with a line a sentence")
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--candidate-lists {path}: must be UTF-8, but is not ({error}); convert it"
        ) from error
    if len(lines) != count:
        raise ValueError(
            f"--candidate-lists {path}: must have a line for each of the {count} sentences of the "
            f"data, but has {len(lines)}; give the file of that data"
        )
    return [
        words_of(line, dictionary, f"--candidate-lists {path}, line {number}")
        for number, line in enumerate(lines, start=1)
    ]
