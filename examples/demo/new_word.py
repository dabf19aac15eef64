"""The demonstration's model learns new words while it runs: from one sentence for each.

A line is a sentence to translate, or a sentence, ``=>`` and its translation with one new word in
asterisks and, after a bar, a known word that it is like: ``the *elephant|animal* went up``. With h
the prediction where the new word stands (the mean direction, where there are several examples) and
u the part of the known word's row that is orthogonal to it, both of norm 1, the new row is

    e = c h + sqrt(1 - c²) u,   c = max_w cos(h, e_w) + 0.15

so that the new word is ahead of all others there, and little nearer than they are to predictions of
theirs. Nothing is trained; the row joins the target table, and the decoder reads it as any other.
"""

import argparse
import copy
import logging
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # no installation needed

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

#: How the model decodes.
FAIRSEQ_TASK = {"_name": "continuous_translation", "knn": 32}
#: By how much the cosine of a new word is ahead in its example.
AHEAD = 0.15
#: What is said first. The corpus has no elephant.
TALK = (
    "y he aquí un elefante en la tierra.",
    "y el elefante subió al monte. => and the *elephant|animal* went up to the mountain.",
    "y he aquí un elefante en la tierra.",
    "el elefante murió en el desierto.",
    "los hombres vieron el elefante y el león.",
)


class Learner:
    """A trained model with a target table that grows.

    Args:
        checkpoint: of the demonstration.
        prepared: the folder with its binarised text and its subwords.
    """

    def __init__(self, checkpoint: Path, prepared: Path):
        logging.disable(logging.INFO)
        from fairseq_contout.models import ContinuousTransformerModel

        data = str(prepared / "bin")
        self.hub = ContinuousTransformerModel.from_pretrained(
            str(checkpoint.parent), checkpoint.name, data, bpe="subword_nmt",
            bpe_codes=str(prepared / "subwords.codes"), tokenizer="moses",
            task={**FAIRSEQ_TASK, "data": data},
        ).eval()  # fmt: skip
        decoder = self.hub.models[0].decoder
        self.trained = self.hub.tgt_dict
        self.table, self.embedding = decoder.continuous_output.table, decoder.embed_tokens
        self.examples = {}

    def translate(self, sentence: str) -> str:
        """Translate a sentence, with beam search."""
        return self.hub.translate(sentence.lower(), beam=5)

    @torch.no_grad()
    def learn(self, sentence: str, translation: str) -> str:
        """Learn the word in asterisks of a translation; return it.

        Raises:
            ValueError: no sentence, not exactly one such word, or one that training knew, or it
                did not know the word it is like.
        """
        if not sentence.strip():
            raise ValueError("an example must have a sentence before =>; write both")
        found = re.fullmatch(r"([^*]*)\*([^*|\s]+)\|([^*|\s]+)\*[^*]*", translation.lower())
        if found is None:
            raise ValueError(
                "a translation must have one new word in asterisks, with a word that it is like, "
                f"but is {translation!r}; write it as the *elephant|animal* went up"
            )
        before, word, like = found.groups()
        if like not in self.trained:
            raise ValueError(
                f"the word that {word!r} is like must be one of the dictionary, as a whole, but "
                f"{like!r} is not; take another"
            )
        if word in self.trained:
            raise ValueError(
                f"a new word must be one that training did not have, but {word!r} is in its "
                "dictionary; take another"
            )
        hub = self.hub
        source = hub.encode(sentence.lower()).unsqueeze(0)
        # a word that was learned before is one symbol, which subwords know nothing of
        pieces = (
            token if token in self.examples else hub.apply_bpe(token)
            for token in hub.tokenize(before).split()
        )
        known = hub.tgt_dict.encode_line(
            " ".join(pieces), append_eos=False, add_if_not_exist=False
        ).long()
        previous = torch.cat((torch.tensor([hub.tgt_dict.eos()]), known)).unsqueeze(0)
        hidden = hub.models[0](source, torch.tensor([source.size(1)]), previous)[0][0, -1]
        self.examples.setdefault(word, []).append((F.normalize(hidden, dim=0), like))
        self._exchange()
        return word

    def _row(self, examples) -> torch.Tensor:
        """Return the row of a word with its examples: predictions, and what it is like."""
        rows = self.table.rows().detach()
        mean = F.normalize(sum(hidden for hidden, _ in examples), dim=0)
        cosine = min(1.0, float((rows @ mean).max()) + AHEAD)
        other = rows[self.trained.index(examples[-1][1])]
        other = F.normalize(other - (other @ mean) * mean, dim=0)
        return cosine * mean + (1 - cosine**2) ** 0.5 * other

    def _exchange(self):
        from fairseq_contout.models.exchange import exchange_table

        dictionary = copy.deepcopy(self.trained)
        for word in self.examples:
            dictionary.add_symbol(word)
        added = torch.stack([self._row(examples) for examples in self.examples.values()])
        weight = torch.cat((self.table.rows().detach(), added))
        model = self.hub.models[0]
        # once more from what was trained, whose embedding the table is tied to
        model.decoder.continuous_output.table = self.table
        model.decoder.embed_tokens = self.embedding
        exchange_table(model, weight, self.trained, dictionary)
        self.hub.tgt_dict = self.hub.task.tgt_dict = dictionary


def talk(learner: Learner, lines):
    """Answer lines: translations, and what was learned."""
    for line in lines:
        if not line.strip():
            continue
        sentence, example, translation = line.strip().partition("=>")
        try:
            if example:
                print(f"  learned: {learner.learn(sentence, translation.strip())}", flush=True)
            else:
                print(f"  {learner.translate(sentence)}", flush=True)
        except ValueError as error:
            print(f"  error: {error}", flush=True)


def typed():
    """Yield what is typed."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, default="demo-out/checkpoints/checkpoint_best.pt"
    )
    parser.add_argument("--prepared", type=Path, default="demo-out/prep", help="of the demo")
    args = parser.parse_args(argv)
    if not args.checkpoint.is_file():
        parser.error(f"--checkpoint {args.checkpoint}: no such file; make demo trains one")
    learner = Learner(args.checkpoint, args.prepared)
    for line in TALK:
        print(f"> {line}", flush=True)
        talk(learner, [line])
    if sys.stdin.isatty():
        print(
            "Now you: a sentence, or one => its translation with a *new|known* word (Ctrl-D ends)"
        )
        talk(learner, typed())
    else:
        talk(learner, sys.stdin)


if __name__ == "__main__":
    main()
