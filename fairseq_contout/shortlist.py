"""Search among the words that are likely given the source sentence, by a lexicon.

Sources: Jean, Cho, Memisevic and Bengio (2015), On Using Very Large Target Vocabulary for Neural
Machine Translation, https://arxiv.org/abs/1412.2007; L'Hostis, Grangier and Auli (2016), Vocabulary
Selection Strategies for Neural Machine Translation, https://arxiv.org/abs/1610.00072; for the
bonus of new words Arthur, Neubig and Nakamura (2016), Incorporating Discrete Translation Lexicons
into Neural Machine Translation, https://aclanthology.org/D16-1162
"""

from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_contout.knn import Neighbours, best_of
from fairseq_contout.lexicon_file import load_lexicon
from fairseq_contout.scores import Query
from fairseq_contout.searchers import Searcher
from fairseq_contout.symbols import dictionary_signature, signature_hex


class ShortlistSearch(Searcher):
    """The nearest of the words that the lexicon gives for a sentence, and of the frequent ones.

    A sentence's words are the union of those of its tokens. Probabilities are those given that the
    next word is one of them, or special:

        p(w | h, x) = exp(logit_w) / Σ_{u ∈ C(x)} exp(logit_u),
        C(x) = specials ∪ frequent ∪ ∪_{s ∈ x} best(s)

    Per step a sentence with M words of its own and F frequent ones costs beam · (M + F) · d.

    A model hardly ever takes a word that its training did not have for another. With a bonus B, a
    word of a sentence's list that --new-table brought has the logit

        logit_w + B + max_{s ∈ x} log p(w | s)

    until a hypothesis has it.

    Args:
        table: the target table.
        path: the lexicon's file.
        bonus: B; None gives none, and leaves the lexicon's probabilities out.

    Raises:
        ValueError: a bonus, but no new words.
    """

    def __init__(self, table, path: str, bonus: Optional[float] = None):
        super().__init__(table)
        self.path, self.bonus = path, bonus
        self._words = self._sentences = self._logs = self._gain = self._written = None
        if bonus is not None and (table.new_words is None or not table.new_words.any()):
            raise ValueError(
                f"--new-word-bonus {bonus} is for the words that --new-table brings, but there is "
                "none; give a --new-table FILE with words that the model was not trained with, or "
                "leave it out"
            )

    def attend(self, encoder):
        """Return the encoder inside one that tells the search which sentences it reads.

        Raises:
            ValueError: there is no encoder, or the lexicon is of other dictionaries.
        """
        if encoder is None:
            raise ValueError(
                "--knn-search shortlist takes the words that are likely given a source sentence, "
                "but a language model has none; take another search"
            )
        lexicon = load_lexicon(
            self.path,
            dictionary_signature(encoder.dictionary),
            signature_hex(self.table.signature),
            len(self.table.weight),
        )
        usable = self.table.emittable.cpu().clone()
        usable[: self.table.num_specials] = False  # the table scores these itself
        usable = torch.cat((usable, usable.new_zeros(1)))  # the last place is that of -1
        frequent = lexicon.frequent[usable[lexicon.frequent]].unique()
        if not len(frequent):
            raise ValueError(
                f"--shortlist {self.path}: must hold frequent words, which compete whatever the "
                "source is, but has none; make it again with preprocess/build_lexicon.py"
            )
        usable[frequent] = False  # they need not be there a second time
        self._best = lexicon.best.masked_fill(~usable[lexicon.best], -1)
        self._logs = lexicon.log_probability
        # no word of a sentence, whatever a text had that was read as one: batches differ in it
        self._best[encoder.dictionary.pad()] = -1
        self._frequent = frequent
        return ShortlistEncoder(encoder, self)

    def check(self, k: int, candidates: int):
        """Refuse what :meth:`Searcher.check` does, and lists that may be too short for a beam."""
        super().check(k, candidates)
        specials = int(self.table.emittable[: self.table.num_specials].sum())
        frequent = len(self._frequent)
        if frequent + specials < candidates:
            raise ValueError(
                f"--shortlist {self.path}: must give a step 2 x beam ({candidates}) candidates, "
                f"but a sentence of words without a list of their own has {frequent + specials}, "
                f"{frequent} frequent words and {specials} special symbols; lower --beam, or make "
                "the file again with preprocess/build_lexicon.py and a larger --frequent"
            )

    def begin(self, sources: Tensor):
        """Take the shortlists of a batch: source tokens ``(B, T)``, one beam for each sentence."""
        if self._best.device != sources.device:
            self._best = self._best.to(sources.device)
            self._frequent = self._frequent.to(sources.device)
            self._logs = self._logs.to(sources.device)
        self._hold(self._best[sources].flatten(1), self._logs[sources].flatten(1))

    def _hold(self, words: Tensor, logs: Optional[Tensor] = None):
        """Keep the words of a batch's sentences ``(B, M)``, -1 for none, their rows and bonus."""
        self._words, order = _distinct(words, logs)
        self._rows = self.table.rows(self._words.clamp(min=0))  # B x M' x d
        self._sentences = torch.arange(len(words), device=words.device)
        if self.bonus is not None:
            new = self.table.new_words.to(words.device)[self._words.clamp(min=0)]
            self._gain = (logs.gather(1, order) + self.bonus).masked_fill(~new, 0)

    def reorder(self, order: Tensor):
        """Follow fairseq's generator: beam i is now of the sentence that ``order[i]`` was of.

        The beams of a sentence stay together, and sentences in their order. Finished ones go.
        """
        left_out = len(order) < len(self._sentences)
        self._sentences = self._sentences[order]
        if left_out:
            kept = self._sentences.unique()
            self._words, self._rows = self._words[kept], self._rows[kept]
            self._gain = None if self._gain is None else self._gain[kept]
            self._sentences = torch.searchsorted(kept, self._sentences)

    def follow(self, tokens: Tensor):
        """Take the hypotheses so far, whose words have no bonus a second time."""
        self._written = tokens

    def covers(self, beams: Tensor, tokens: Tensor) -> Tensor:
        """Tell which words are special or on the shortlist of a beam's sentence."""
        own = self._words[self._sentences[beams]].eq(tokens.unsqueeze(1)).any(dim=1)
        return own | torch.isin(tokens, self._frequent) | tokens.lt(self.table.num_specials)

    def gain(self, beams: Tensor, tokens: Tensor) -> Tensor:
        """Return the bonus of words ``(M,)`` of beams ``(M,)``: 0 for one that has none."""
        if self._gain is None:
            return super().gain(beams, tokens)
        sentences, tokens = self._sentences[beams], tokens.unsqueeze(1)
        gain = self._gain[sentences].masked_fill(self._words[sentences] != tokens, 0).sum(dim=1)
        return gain.masked_fill((self._written[beams] == tokens).any(dim=1), 0)

    def _prepare(self):
        self._frequent_rows = self.table.rows(self._frequent)

    def _search(self, query: Query, k: int) -> Neighbours:
        vector = query.vector
        if self._words is None or len(vector) != len(self._sentences):
            raise ValueError(
                "a shortlist is of the sentences that the encoder read last, but it has read "
                f"{0 if self._words is None else len(self._sentences)} for {len(vector)} "
                "predictions; decode with fairseq's generator"
            )
        frequent = vector @ self._frequent_rows.to(vector.dtype).t()  # N x F
        beams = vector.view(len(self._words), -1, vector.size(1))  # B x beam x d
        own = torch.bmm(beams, self._rows.to(vector.dtype).transpose(1, 2))  # B x beam x M
        words = self._words[self._sentences]  # N x M
        products = torch.cat((frequent, own.flatten(0, 1)), dim=1)
        indices = torch.cat((self._frequent.expand(len(vector), -1), words), dim=1)
        none, indices = indices < 0, indices.clamp(min=0)
        logits = query.finish(products, self.table.log_prior(indices))
        if self._gain is not None:
            written = (words.unsqueeze(2) == self._written.unsqueeze(1)).any(dim=2)
            gain = self._gain[self._sentences].masked_fill(written, 0)
            logits[:, frequent.size(1) :] += gain.to(logits.dtype)
        logits = logits.masked_fill(none, -torch.inf)
        return Neighbours(*best_of(logits, indices, k), logits.logsumexp(dim=1))


def _distinct(words: Tensor, weights: Optional[Tensor] = None):
    # each line's words once, in the order of indices, -1 at its end: (B, M) → (B, M'); and the
    # place in the line that each comes from, that of the largest weight
    order = torch.arange(words.size(1), device=words.device).expand_as(words)
    if weights is not None:
        order = weights.argsort(dim=1, descending=True)
    for _ in range(2):  # the second time without repetitions
        found = words.gather(1, order)
        step = found.argsort(dim=1, descending=True, stable=True)
        order, found = order.gather(1, step), found.gather(1, step)
        repeated = torch.zeros_like(found, dtype=torch.bool)
        repeated[:, 1:] = found[:, 1:] == found[:, :-1]
        words = words.scatter(1, order, found.masked_fill(repeated, -1))
    size = int((found >= 0).sum(dim=1).max())
    return found[:, :size], order[:, :size]


class ShortlistEncoder(nn.Module):
    """An encoder whose reading, and whose reordering by the generator, the search is told of.

    It offers what fairseq's generator asks an encoder for.
    """

    def __init__(self, encoder, search: ShortlistSearch):
        super().__init__()
        self.encoder, self._search = encoder, search

    def forward_torchscript(self, net_input):
        """Read a batch."""
        self._search.begin(net_input["src_tokens"])
        return self.encoder.forward_torchscript(net_input)

    def reorder_encoder_out(self, encoder_out, new_order):
        """Reorder what was read."""
        self._search.reorder(new_order)
        return self.encoder.reorder_encoder_out(encoder_out, new_order)
