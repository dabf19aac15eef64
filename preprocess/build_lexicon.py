#!/usr/bin/env python3
"""Learn from parallel text which target words are likely given each source word: a shortlist.

IBM model 1 gives p(target word | source word). The likeliest words of each source word are kept,
its own spelling first where the target dictionary has it, and the most frequent target words for
all. A source word that the text does not have can take its nearest target word in a space of both
languages. Decoding: --knn-search shortlist --shortlist FILE.
"""

import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402

from preprocess.assemble import load_dictionary  # noqa: E402
from preprocess.common import (  # noqa: E402
    Parser,
    check_output,
    describe_command,
    number,
    progress,
    read_pairs,
    run,
    without_notes,
)
from preprocess.model1 import Model1  # noqa: E402

FILES = ("input", "dictionary", "neighbours")
NOT_OF_THE_LEXICON = ("output", "held_out", "quiet")


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--input",
        nargs=2,
        required=True,
        metavar=("SOURCE", "TARGET"),
        help="the training text, segmented, a line for a line (also .gz, .xz)",
    )
    parser.add_argument(
        "--dictionary",
        nargs=2,
        required=True,
        metavar=("SOURCE", "TARGET"),
        help="fairseq's dictionaries of both languages",
    )
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="the lexicon")
    parser.add_argument(
        "--words", type=number(int, 1), default=50, help="target words of each source word"
    )
    parser.add_argument(
        "--frequent", type=number(int, 1), default=1000, help="target words that always compete"
    )
    parser.add_argument(
        "--min-probability",
        type=number(float, 0, 1),
        default=1e-6,
        help="least p(target | source) of a word that is kept",
    )
    parser.add_argument("--iterations", type=number(int, 1), default=3, help="of EM")
    parser.add_argument(
        "--max-length",
        type=number(int, 1),
        default=100,
        help="leave out pairs with more tokens on a side",
    )
    parser.add_argument(
        "--lines",
        type=number(int, 1),
        metavar="N",
        help="learn from the first N lines: about 12 bytes for each pair of tokens are in memory",
    )
    parser.add_argument(
        "--neighbours",
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="tables of both dictionaries in one space: a source word that the text does not have "
        "is given the target word of the nearest row",
    )
    parser.add_argument(
        "--neighbour-cosine",
        type=number(float, -1, 1),
        default=0.4,
        help="least cosine of a neighbour",
    )
    parser.add_argument(
        "--neighbour-probability",
        type=number(float, 1e-6, 1),
        default=0.1,
        help="its probability: how often the nearest row is that of the translation",
    )
    parser.add_argument(
        "--held-out",
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="other text: print how many of its target tokens the shortlists hold",
    )
    return parser


def read_indices(paths, dictionaries, args):
    """Return the indices of the words of each pair of sentences, for either side.

    Raises:
        ValueError: the files differ in their number of lines, or hold no pair to learn from.
    """
    indices = [dictionary.indices for dictionary in dictionaries]
    unknown = [dictionary.unk() for dictionary in dictionaries]
    kept = [], []
    pairs = islice(read_pairs(*paths), args.lines)
    for lines in progress(pairs, "reading", args.quiet):
        words = [line.split() for line in lines]
        if all(1 <= len(side) <= args.max_length for side in words):
            for side, own, index, unk in zip(kept, words, indices, unknown):
                side.append([index.get(word, unk) for word in own])
    if not kept[0]:
        raise ValueError(
            f"{paths[0]}: must hold pairs of 1 to {args.max_length} tokens, but holds none; "
            "raise --max-length or give other text"
        )
    return kept


def same_spelling(source, target) -> np.ndarray:
    """Return for each source word the target word that is spelled so, or -1."""
    own = [target.indices.get(symbol, -1) for symbol in source.symbols]
    return np.where(np.arange(len(own)) < source.nspecial, -1, own)


def nearest_words(args, source, target, usable) -> np.ndarray:
    """Return for each source word the target word whose row is nearest, or -1.

    It is -1 for special symbols, without ``--neighbours``, and where the cosine is below
    ``--neighbour-cosine``.

    Raises:
        ValueError: tables of other dictionaries, or of two dimensions.
    """
    nearest = np.full(len(source), -1)
    if not args.neighbours:
        return nearest
    with without_notes():
        from fairseq_contout.table_file import load_table
    own, others = (load_table(path, d) for path, d in zip(args.neighbours, (source, target)))
    if own.size(1) != others.size(1):
        raise ValueError(
            f"--neighbours {' '.join(map(str, args.neighbours))}: must be rows of one space, but "
            f"have {own.size(1)} and {others.size(1)} numbers; make them from the same vectors"
        )
    words = torch.from_numpy(usable.nonzero()[0])
    others = others[words].t()
    for place in torch.arange(source.nspecial, len(source)).split(1024):
        cosine, index = (own[place] @ others).max(dim=1)
        found = words[index].masked_fill(cosine < args.neighbour_cosine, -1)
        nearest[place.numpy()] = found.numpy()
    return nearest


def choose(model: Model1, source, target, usable, frequent, args):
    """Choose each source word's target words, other than the frequent ones, which all have.

    A word's own spelling comes first, unless the text has the word and makes its spelling less
    likely than ``--min-probability``: German *die* is not English *die*. Where the text does not
    have the word, its spelling has probability 1, and its neighbour comes next.

    Returns:
        the words, ``(V_source, N)`` int64, likeliest first, filled up with -1; and the logarithms
        of their probabilities, ``(V_source, N)`` float64, 0 where there is no word.
    """
    found, twin = model.translations(), same_spelling(source, target)
    near = nearest_words(args, source, target, usable)
    usable = usable.copy()
    usable[frequent] = False
    twin = np.where(np.append(usable, False)[twin], twin, -1)
    word = found.source != model.empty
    likely = (found.probability >= args.min_probability) & (found.probability > 0)
    twins = word & (np.append(twin, -1)[found.source] == found.target)
    own = np.full(len(source) + 1, -np.inf)  # that of a word's spelling, and of the empty word
    unseen = ~np.isin(np.arange(len(source)), found.source)
    own[: len(source)][unseen] = 0
    own[found.source[twins & likely]] = np.log(found.probability[twins & likely])
    twin = np.where(np.isfinite(own[:-1]), twin, -1)
    chosen = (word & ~twins & usable[found.target] & likely).nonzero()[0]
    chosen = chosen[np.lexsort((-found.probability[chosen], found.source[chosen]))]
    owner = found.source[chosen]
    # the place of each in the list of its word, after the word's twin
    place = np.arange(len(owner)) - np.searchsorted(owner, owner) + (twin >= 0)[owner]
    fits = place < args.words
    best = np.full((len(source), args.words), -1)
    best[:, 0] = twin
    best[owner[fits], place[fits]] = found.target[chosen[fits]]
    logs = np.zeros(best.shape)
    logs[:, 0] = np.where(twin >= 0, own[:-1], 0)
    logs[owner[fits], place[fits]] = np.log(found.probability[chosen[fits]])
    place = (twin >= 0).astype(int)
    more = unseen & (near != twin) & np.append(usable, False)[near] & (place < args.words)
    best[more, place[more]] = near[more]
    logs[more, place[more]] = np.log(args.neighbour_probability)
    return best, logs


def frequent_words(target, usable, count: int) -> np.ndarray:
    """Return the indices of the most frequent usable words of a dictionary, most frequent first."""
    order = np.argsort(-np.array(target.count), kind="stable")
    return order[usable[order]][:count]


def coverage(best, frequent, sources, targets, specials: int):
    """Return the share of target tokens on their sentence's shortlist, and its mean size."""
    found = tokens = sizes = 0
    for source, target in zip(sources, targets):
        words = {*best[source].flatten().tolist(), *frequent.tolist()} - {-1}
        found += sum(word in words or word < specials for word in target)
        tokens, sizes = tokens + len(target), sizes + len(words)
    return found / tokens, sizes / len(sources)


def build(args):
    with without_notes():
        from fairseq_contout.lexicon_file import Lexicon, save_lexicon
        from fairseq_contout.symbols import emittable_rows

    read = (*args.input, *args.dictionary, *(args.held_out or ()), *(args.neighbours or ()))
    check_output(args.output, inputs=read)
    source, target = map(load_dictionary, args.dictionary)
    sources, targets = read_indices(args.input, (source, target), args)
    model = Model1(sources, targets, len(source), len(target))
    for _ in progress(range(args.iterations), "learning", args.quiet, unit="iterations"):
        likelihood = model.step()
    usable = emittable_rows(target).numpy()
    usable[: target.nspecial] = False  # the table scores these itself
    frequent = frequent_words(target, usable, args.frequent)
    best, logs = choose(model, source, target, usable, frequent, args)
    held_out = read_indices(args.held_out, (source, target), args) if args.held_out else None
    lexicon = Lexicon(
        torch.from_numpy(best), torch.from_numpy(frequent), torch.from_numpy(logs).float()
    )
    command = describe_command("build_lexicon.py", args, FILES, NOT_OF_THE_LEXICON)
    save_lexicon(args.output, lexicon, source, target, command)
    print(f"{args.output}: {len(sources)} pairs, log-likelihood of a target token {likelihood:.3f}")
    if held_out:
        share, size = coverage(best, frequent, *held_out, target.nspecial)
        print(
            f"{args.held_out[1]}: shortlists of {size:.0f} words on average hold "
            f"{100 * share:.2f} % of the target tokens"
        )


def main(argv=None) -> int:
    return run(build, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
