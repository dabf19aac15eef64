"""Cut the table of deu-eng.zip into train, valid and test, by sentences that belong together.

Pairs that share a sentence, on either side and over any number of steps, go into the same part, so
that no sentence of valid or test is in train. The part follows from a hash of the first sentence of
such a group: the same release always gives the same parts.
"""

import argparse
import hashlib
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import atomic_text  # noqa: E402

#: Pairs wanted in each of valid and test, and the largest share of all pairs these may be.
WANTED, LARGEST_SHARE = 2000, 0.1
#: A group larger than this goes to train: one of hundreds would fill a test set with one sentence.
LARGEST_GROUP = 10


def read_pairs(path: Path) -> list:
    """Return distinct pairs (German, English) of the archive's ``deu.txt``.

    Raises:
        ValueError: not such an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("deu.txt").decode("utf-8")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: must be a zip archive with deu.txt in UTF-8, but reading it failed "
            f"({error}); fetch it again from www.manythings.org/anki"
        ) from None
    rows = (line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip())
    pairs = list(dict.fromkeys((row[1], row[0]) for row in rows if len(row) >= 2))
    if not pairs:
        raise ValueError(f"{path}: deu.txt must hold lines English TAB German, but holds none")
    return pairs


def group(pairs: list) -> list:
    """Return lists of pairs that are connected by common sentences (union-find)."""
    parent = {}

    def find(node):
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for german, english in pairs:
        parent[find(("de", german))] = find(("en", english))
    groups = {}
    for pair in pairs:
        groups.setdefault(find(("de", pair[0])), []).append(pair)
    return list(groups.values())


def split(pairs: list) -> dict:
    """Return ``{part: pairs}``; valid and test get the groups with the lowest hashes."""
    wanted = min(WANTED, int(LARGEST_SHARE * len(pairs)))
    parts = {"valid": [], "test": [], "train": []}
    groups = group(pairs)
    groups.sort(key=lambda g: hashlib.sha256("\t".join(min(g)).encode("utf-8")).digest())
    for members in groups:
        open_parts = [p for p in ("valid", "test") if len(parts[p]) < wanted]
        small = len(members) <= LARGEST_GROUP
        parts[open_parts[0] if open_parts and small else "train"].extend(members)
    return parts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="deu-eng.zip")
    parser.add_argument("output", type=Path, help="folder for train, valid and test")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for part, pairs in split(read_pairs(args.archive)).items():
        for side, language in enumerate(("de", "en")):
            with atomic_text(args.output / f"{part}.{language}") as file:
                file.writelines(" ".join(pair[side].split()) + "\n" for pair in pairs)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
