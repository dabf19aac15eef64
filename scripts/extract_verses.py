#!/usr/bin/env python3
"""Extract the bundled Spanish-English corpus from two public-domain Bibles.

Needs Debian's packages sword-text-sparv (Reina-Valera 1909) and sword-text-web (World English
Bible), and pysword. Verses of 3 to 40 words on both sides are kept, if their lengths are no more
than a factor of 2 apart: a sign that both books number that verse alike. Whole chapters are held
out for valid and test, so that no neighbour of a held-out verse is in train, and no verse that
occurs in them, on either side, is left in train.
"""

import argparse
import hashlib
import lzma
import random
import re
import sys
import unicodedata
from pathlib import Path

SPANISH, ENGLISH = "spaRV1909eb", "engWEB2015eb"
LANGUAGES = ("es", "en")


def plain(osis: str) -> str:
    """Strip OSIS markup: notes and headings with their text, other tags alone."""
    text = re.sub(r"<(note|title)\b[^>]*/>", " ", osis)
    text = re.sub(r"<(note|title)\b.*?</\1>", " ", text, flags=re.DOTALL)
    text = re.sub(r"</?transChange\b[^>]*>", " ", text)  # words added by the translators
    text = unicodedata.normalize("NFC", re.sub(r"<[^>]+>", "", text))
    text = re.sub(r"\s+", " ", text.replace("¶", " ")).strip()
    # where a note stood between a word and its punctuation
    return re.sub(r" ([,.;:!?)”’])", r"\1", text)


def verses(bible):
    """Yield (book, chapter, verse) → text of a pysword Bible."""
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter, length in enumerate(book.chapter_lengths, start=1):
                for verse in range(1, length + 1):
                    text = plain(bible.get(book.name, chapter, verse, clean=False))
                    if text:
                        yield (book.name, chapter, verse), text


def aligned(spanish, english):
    """Return the pairs that are short and of like length, by chapter, in the order of the books."""
    other = dict(verses(english))
    chapters = {}
    for place, source in verses(spanish):
        target = other.get(place)
        if target is None:
            continue
        lengths = len(source.split()), len(target.split())
        if min(lengths) >= 3 and max(lengths) <= min(40, 2 * min(lengths)):
            chapters.setdefault(place[:2], []).append((source, target))
    return chapters


def split(chapters, held_out: int, seed: int):
    """Draw whole chapters for valid and test until each has ``held_out`` pairs."""
    order = sorted(chapters)
    random.Random(seed).shuffle(order)
    parts = {"valid": [], "test": []}
    for part in parts.values():
        while len(part) < held_out:
            part.extend(chapters.pop(order.pop()))
    seen = {line for part in parts.values() for pair in part for line in pair}
    pairs = [pair for chapter in chapters.values() for pair in chapter]
    parts["train"] = [pair for pair in pairs if not seen.intersection(pair)]
    return parts


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", default="/usr/share/sword", help="folder of SWORD modules")
    parser.add_argument("--output", required=True, type=Path, help="folder for the .xz files")
    parser.add_argument("--held-out", type=int, default=500, help="pairs of valid and of test")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of chapters")
    args = parser.parse_args()
    from pysword.modules import SwordModules

    modules = SwordModules(args.modules)
    found = modules.parse_modules() if Path(args.modules, "mods.d").is_dir() else {}
    for name, package in ((SPANISH, "sword-text-sparv"), (ENGLISH, "sword-text-web")):
        if name not in found:
            sys.exit(f"{args.modules}: must hold the module {name}; install Debian's {package}")
    spanish, english = (modules.get_bible_from_module(name) for name in (SPANISH, ENGLISH))
    parts = split(aligned(spanish, english), args.held_out, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    sums = []
    for part in ("train", "valid", "test"):
        for side, language in enumerate(LANGUAGES):
            text = "".join(pair[side] + "\n" for pair in parts[part]).encode("utf-8")
            (args.output / f"{part}.{language}.xz").write_bytes(lzma.compress(text, preset=9))
            # of the text, not of the archive: another xz may pack it otherwise
            sums.append(f"{hashlib.sha256(text).hexdigest()}  {part}.{language}\n")
        print(f"{part}: {len(parts[part])} pairs")
    (args.output / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
