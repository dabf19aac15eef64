"""Read a data set's own files and write them as PREFIX.LANG, one sentence a line.

The lines ``SPLIT LANG KIND MEMBER ARCHIVE URL`` on standard input say what to read (see
prepare.sh). A member is taken from its archive, or from the folder itself, also compressed.
"""

import argparse
import html
import re
import sys
import tarfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from preprocess.common import OPENERS, atomic_text  # noqa: E402

#: TED training text: lines of these elements are not speech. Titles and descriptions are kept.
NOT_SPEECH = re.compile(r"</?(url|talkid|keywords|speaker|reviewer|translator|doc)\b")
WRAPPED = re.compile(r"</?(title|description)>")
SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.IGNORECASE | re.DOTALL)
#: What Python and fairseq take for the end of a line, besides "\n" itself.
BREAKS = re.compile("[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]+")


def read_archive(archive: Path, member: str) -> bytes:
    """Return a member of a tar or zip archive.

    Raises:
        KeyError: there is no such member.
        ValueError: it is neither a tar nor a zip archive.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            return opened.read(member)
    try:
        with tarfile.open(archive) as opened:
            for entry in opened:
                if entry.name.removeprefix("./") == member and entry.isfile():
                    return opened.extractfile(entry).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{archive}: must be a whole .tgz, .tar or .zip archive, but reading it failed "
            f"({error}); download it again"
        ) from None
    raise KeyError(member)


def find(folder: Path, member: str, archive: str) -> bytes:
    """Return a member's bytes, from the archive or from the folder.

    Raises:
        ValueError: it is nowhere; the message lists where it was looked for.
    """
    tried = []
    for name in member.split(","):
        if archive != "-":
            for path in dict.fromkeys((folder / archive, folder / Path(archive).name)):
                tried.append(f"{name} in {path}")
                if path.is_file():
                    try:
                        return read_archive(path, name)
                    except KeyError:
                        pass
        for stem in dict.fromkeys((folder / name, folder / Path(name).name)):
            for suffix, opener in {"": open, **OPENERS}.items():
                path = stem.with_name(stem.name + suffix)
                if path.is_file():
                    with opener(path, "rb") as file:
                        return file.read()
            tried.append(f"{stem}[.gz|.xz]")
    raise ValueError(
        f"{folder}: must hold {member.replace(',', ' or ')}, but it is missing (looked for "
        f"{', '.join(tried)}); put it there, or unset DATA_DIR to download it"
    )


def sentences(data: bytes, kind: str, name: str) -> list:
    """Return the sentences of a file, without line breaks inside them.

    Raises:
        ValueError: the file is not UTF-8, or empty.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: must be UTF-8 text, but byte {error.start} is not; convert it with iconv"
        ) from None
    if kind == "seg":
        lines = [html.unescape(segment) for segment in SEGMENT.findall(text)]
        lines = [line.replace("\n", " ") for line in lines]
    else:
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        if kind == "tags":
            lines = [line for line in lines if not NOT_SPEECH.match(line.lstrip())]
            lines = [html.unescape(WRAPPED.sub("", line)) for line in lines]
    if not lines:
        raise ValueError(f"{name}: must hold text ({kind}), but holds no sentence")
    return [BREAKS.sub(" ", line).strip() for line in lines]


def read_specification(stream, splits: list) -> dict:
    """Return ``{split: {language: [(kind, member, archive), …]}}``."""
    files = {}
    for line in stream:
        split, language, kind, member, archive, _ = line.split()
        if split in splits:
            files.setdefault(split, {}).setdefault(language, []).append((kind, member, archive))
    return files


def extract_split(folder: Path, files: dict, languages: list) -> dict:
    """Read both sides of a split, part by part.

    Raises:
        ValueError: two sides of a part have different numbers of sentences.
    """
    sides = {language: [] for language in languages}
    for parts in zip(*(files[language] for language in languages)):
        read = [sentences(find(folder, m, a), kind, m) for kind, m, a in parts]
        counts = [len(lines) for lines in read]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{folder}: {parts[0][1]} and {parts[1][1]} must be aligned line by line, but have "
                f"{counts[0]} and {counts[1]} sentences; get both from the same release"
            )
        for language, lines in zip(languages, read):
            sides[language].extend(lines)
    return sides


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the files")
    parser.add_argument("--output", type=Path, required=True, help="folder for SPLIT.LANG")
    parser.add_argument("--source-lang", required=True)
    parser.add_argument("--target-lang", required=True)
    parser.add_argument("--splits", nargs="+", default=["train", "valid", "test"])
    args = parser.parse_args(argv)
    languages = list(dict.fromkeys([args.source_lang, args.target_lang]))  # one: no translation
    args.output.mkdir(parents=True, exist_ok=True)
    for split, files in read_specification(sys.stdin, args.splits).items():
        for language, lines in extract_split(args.data_dir, files, languages).items():
            with atomic_text(args.output / f"{split}.{language}") as file:
                file.writelines(line + "\n" for line in lines)
        noun = "sentence pairs" if len(languages) == 2 else "lines"
        print(f"{split}: {len(lines)} {noun}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
