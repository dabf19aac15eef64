"""IBM model 1: how likely each target word is given each source word, by EM on parallel text.

    p(t_1 … t_n | s_1 … s_m) ∝ Π_j Σ_{i=0}^m p(t_j | s_i),   s_0 the empty word

An iteration takes one pass over all pairs of a source and a target token that share a sentence.

Source: Brown, Della Pietra, Della Pietra and Mercer (1993), The Mathematics of Statistical Machine
Translation: Parameter Estimation, https://aclanthology.org/J93-2003/
"""

from typing import List, NamedTuple

import numpy as np

#: Pairs of tokens that are counted at a time.
_CHUNK_PAIRS = 1 << 23


class Translations(NamedTuple):
    """Pairs of words that share a sentence, in the order of source and target words.

    Attributes:
        source: ``(P,)``; the empty word comes after all others.
        target: ``(P,)``.
        probability: p(target | source), ``(P,)`` float64.
    """

    source: np.ndarray
    target: np.ndarray
    probability: np.ndarray


class _Chunk(NamedTuple):
    pairs: np.ndarray  # number of the pair of words, for each pair of tokens
    starts: np.ndarray  # where the pairs of each target token begin
    counts: np.ndarray  # how many they are


class Model1:
    """Model 1 of a text; :meth:`step` does one iteration of EM, from equal probabilities on.

    Args:
        sources: indices of the source words of each sentence.
        targets: of the target words; as many sentences.
        source_size: source words there are, V.
        target_size: target words there are.
    """

    def __init__(self, sources: List, targets: List, source_size: int, target_size: int):
        self.empty = source_size
        own = []
        for group in _groups(sources, targets):
            source, target, starts, counts = self._cross(*group)
            keys, pairs = np.unique(source * target_size + target, return_inverse=True)
            own.append((keys, pairs, starts, counts))
        keys = np.unique(np.concatenate([entry[0] for entry in own]))
        self.chunks = [
            _Chunk(np.searchsorted(keys, part).astype(np.int32)[pairs], *rest)
            for part, pairs, *rest in own
        ]
        self.source, self.target = keys // target_size, keys % target_size
        self.probability = np.full(len(keys), 1.0 / target_size)

    def _cross(self, sources: List, targets: List):
        # all pairs of tokens of each sentence, those of one target token one after the other
        sources = [[*words, self.empty] for words in sources]
        flat, tokens = np.concatenate(sources), np.concatenate(targets)
        lengths = np.array([len(words) for words in sources])
        sentence = np.repeat(np.arange(len(sources)), [len(words) for words in targets])
        counts = lengths[sentence]
        starts = np.cumsum(counts) - counts
        begins = (np.cumsum(lengths) - lengths)[sentence]
        within = np.arange(counts.sum()) - np.repeat(starts - begins, counts)
        return flat[within].astype(np.int64), np.repeat(tokens, counts), starts, counts

    def step(self) -> float:
        """Do one iteration; returns the mean log-likelihood of a target token before it."""
        expected, likelihood, tokens = np.zeros(len(self.probability)), 0.0, 0
        for chunk in self.chunks:
            weights = self.probability[chunk.pairs]
            sums = np.add.reduceat(weights, chunk.starts)
            likelihood += np.log(sums / chunk.counts).sum()
            tokens += len(sums)
            weights /= np.repeat(sums, chunk.counts)
            expected += np.bincount(chunk.pairs, weights, minlength=len(expected))
        self.probability = expected / np.bincount(self.source, expected)[self.source]
        return likelihood / tokens

    def translations(self) -> Translations:
        """Return the probabilities that the iterations led to."""
        return Translations(self.source, self.target, self.probability)


def _groups(sources: List, targets: List):
    begin = pairs = 0
    for i, (source, target) in enumerate(zip(sources, targets)):
        pairs += (len(source) + 1) * len(target)
        if pairs >= _CHUNK_PAIRS or i == len(sources) - 1:
            yield sources[begin : i + 1], targets[begin : i + 1]
            begin, pairs = i + 1, 0
