"""fairseq's commands called in this process, a small copy task for them, and what they print."""

import contextlib
import importlib
import io
import logging
import random
import re
import sys
from pathlib import Path
from typing import List, NamedTuple
from unittest import mock

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary

import fairseq_contout
from fairseq_contout.target_table import normalize_rows, save_table

USER_DIR = str(Path(fairseq_contout.__file__).resolve().parent)
SYLLABLES = ("ba", "do", "ki", "lu", "me", "po")
#: subword-nmt codes that split a word into syllables
BPE_CODES = "#version: 0.2\n" + "".join(f"{s[0]} {s[1]}\n{s[0]} {s[1]}</w>\n" for s in SYLLABLES)
#: words that training sees once: they make the table larger than what the sparse path looks at
RARE = tuple(f"rare{i}" for i in range(20))


def call(command, *arguments, stdin=""):
    """Run ``fairseq-COMMAND`` as its command line would, in this process; return what it prints."""
    module = importlib.import_module(f"fairseq_cli.{command}")
    arguments = [str(argument) for argument in arguments]
    if command != "preprocess":
        # fairseq leaves out the last batch when its size is no multiple of 8, the default
        arguments += ["--required-batch-size-multiple", "1", "--user-dir", USER_DIR, "--cpu"]
        arguments += ["--no-progress-bar", "--log-format", "simple", "--num-workers", "0"]
    # fairseq keeps the best loss of one run for the next in the same process
    vars(checkpoint_utils.save_checkpoint).clear()
    output, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(output), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(sys, "argv", [f"fairseq-{command}", *arguments]))
            stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
            stack.enter_context(contextlib.redirect_stdout(output))
            module.cli_main()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return output.getvalue()


class Translation(NamedTuple):
    """One hypothesis that ``fairseq-generate`` or ``fairseq-interactive`` printed.

    Attributes:
        text: the words, before subwords are joined.
        score: log2 p per token.
        positional: log2 p of each token.
        alignment: what ``--print-alignment`` adds.
    """

    text: str
    score: float
    positional: List[float]
    alignment: str


def translations(output):
    """Collect hypotheses from what was printed: sentence → n-best list."""
    kinds = {kind: {} for kind in "HPA"}
    for kind, sentence, rest in re.findall(r"^([HPA])-(\d+)\t(.*)$", output, re.MULTILINE):
        kinds[kind].setdefault(int(sentence), []).append(rest)
    result = {}
    for sentence, hypotheses in kinds["H"].items():
        alignments = kinds["A"].get(sentence, [""] * len(hypotheses))
        result[sentence] = [
            Translation(
                line.split("\t")[1], float(line.split("\t")[0]), list(map(float, p.split())), a
            )
            for line, p, a in zip(hypotheses, kinds["P"][sentence], alignments)
        ]
    return result


def references(output):
    """Collect the references that ``fairseq-generate`` printed: sentence → text."""
    found = re.findall(r"^T-(\d+)\t(.*)$", output, re.MULTILINE)
    return {int(sentence): text for sentence, text in found}


def token_accuracy(output):
    """Share of positions at which the best hypothesis and the reference have the same token."""
    best, right, total = translations(output), 0, 0
    expected = references(output)
    assert expected and best.keys() == expected.keys()
    for sentence, reference in expected.items():
        wanted, got = reference.split(), best[sentence][0].text.split()
        right += sum(a == b for a, b in zip(wanted, got))
        total += max(len(wanted), len(got))
    return right / total


def sentence_pair(draw):
    """Draw a sentence of 2 to 4 syllables, some of which make up one word, in subwords.

    The target is the source without its first word, ``x``, so that the two dictionaries differ
    and a mix-up of them does not go unseen.
    """
    syllables = [draw.choice(SYLLABLES) for _ in range(draw.randint(2, 4))]
    joined = [draw.random() < 0.4 for _ in syllables[1:]] + [False]
    text = " ".join(s + "@@" * within for s, within in zip(syllables, joined))
    return f"x {text} .", f"{text} ."


def write_corpus(folder, sizes, seed=0):
    """Write PREFIX.src and PREFIX.tgt for each prefix and its number of pairs."""
    for i, (prefix, count) in enumerate(sizes.items()):
        draw = random.Random(100 * seed + i)
        pairs = [sentence_pair(draw) for _ in range(count)]
        if prefix == "train":
            pairs += [(f"x {word} .", f"{word} .") for word in RARE]
        for side, language in enumerate(("src", "tgt")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{prefix}.{language}").write_text(text)


def write_table(path, dictionary, dim=32, seed=0):
    """Write a table of random unit rows for a dictionary, or for that in a file."""
    if not isinstance(dictionary, Dictionary):
        dictionary = Dictionary.load(str(dictionary))
    rows = torch.randn(len(dictionary), dim, generator=torch.Generator().manual_seed(seed))
    origins = {"random": len(rows)}
    save_table(path, normalize_rows(rows), dictionary, source="random", origins=origins)
    return path
