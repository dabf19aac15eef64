"""Small corpora laid out as the files of each recipe's data set, and calls of run.sh on them."""

import gzip
import importlib.util
import io
import itertools
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS = REPOSITORY / "examples" / "demo" / "data"


def load_script(*parts: str):
    """Import a script of examples/ by its path: its folder's name may be no name of a module."""
    path = REPOSITORY.joinpath("examples", *parts)
    spec = importlib.util.spec_from_file_location("_".join(parts).removesuffix(".py"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentences(count: int, skip: int = 0):
    """Return ``count`` pairs (Spanish, English) of the bundled corpus."""
    sides = []
    for language in ("es", "en"):
        with lzma.open(CORPUS / f"train.{language}.xz", "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in itertools.islice(file, skip, skip + count)])
    return list(zip(*sides))


def lines(pairs, side: int) -> bytes:
    return "".join(f"{pair[side]}\n" for pair in pairs).encode()


def segments(pairs, side: int) -> bytes:
    body = "".join(f'<seg id="{i}"> {p[side]} </seg>\n' for i, p in enumerate(pairs, start=1))
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<refset><doc docid="1">\n<url>u</url>\n'
    return f"{head}{body}</doc></refset>\n".encode()


def talk(pairs, side: int) -> bytes:
    head = (
        "<url>http://example.org</url>\n<keywords>talks</keywords>\n<speaker>A Person</speaker>\n"
        "<talkid>1</talkid>\n"
    )
    first, *rest = (pair[side] for pair in pairs)
    body = f"<title>{first}</title>\n" + "".join(f"{line}\n" for line in rest)
    tail = '<reviewer href="u">A Reviewer</reviewer>\n<translator href="u">T</translator>\n'
    return (head + body + tail).encode()


def tar(path: Path, members: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def zipped(path: Path, members: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def parts(size: int):
    """Return training, validation and test pairs that do not overlap."""
    pairs = sentences(size + 40)
    return pairs[:size], pairs[size : size + 20], pairs[size + 20 :]


def multi30k(folder: Path, size: int):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in zip(("train", "val", "test_2016_flickr"), parts(size)):
        (folder / f"{name}.de.xz").write_bytes(lzma.compress(lines(pairs, 0)))
        (folder / f"{name}.en.gz").write_bytes(gzip.compress(lines(pairs, 1)))


def demo(folder: Path, size: int):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in zip(("train", "valid", "test"), parts(size)):
        for side, language in enumerate(("es", "en")):
            (folder / f"{name}.{language}.xz").write_bytes(lzma.compress(lines(pairs, side)))


def tatoeba(folder: Path, size: int):
    rows = "".join(f"{english}\t{other}\tCC-BY\n" for other, english in sentences(size))
    zipped(folder / "deu-eng.zip", {"deu.txt": rows.encode(), "_about.txt": b"about"})


def iwslt14(folder: Path, size: int):
    train, _, test = parts(size)
    members = {}
    for side, language in enumerate(("de", "en")):
        members[f"de-en/train.tags.de-en.{language}"] = talk(train, side)
        for i, name in enumerate(
            ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
        ):
            chosen = test[4 * i : 4 * i + 4]
            members[f"de-en/IWSLT14.{name}.de-en.{language}.xml"] = segments(chosen, side)
    tar(folder / "de-en.tgz", members)


def iwslt14_prepared(folder: Path, size: int):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in zip(("train", "valid", "test"), parts(size)):
        for side, language in enumerate(("de", "en")):
            data = lines(pairs, side).decode("utf-8").lower().encode()
            (folder / f"{name}.{language}.xz").write_bytes(lzma.compress(data))


def iwslt16(folder: Path, size: int):
    train, valid, test = parts(size)
    members = {}
    for side, language in enumerate(("fr", "en")):
        members[f"fr-en/train.tags.fr-en.{language}"] = talk(train, side)
        for i, year in enumerate((2013, 2014)):
            name = f"fr-en/IWSLT16.TED.tst{year}.fr-en.{language}.xml"
            members[name] = segments(valid[10 * i : 10 * i + 10], side)
    tar(folder / "2016-01/texts/fr/en/fr-en.tgz", members)
    for side, direction, path in ((0, "fr-en", "fr/en"), (1, "en-fr", "en/fr")):
        language = direction[:2]
        members = {
            f"{direction}/IWSLT16.TED.tst{year}.{direction}.{language}.xml": segments(
                test[10 * i : 10 * i + 10], side
            )
            for i, year in enumerate((2015, 2016))
        }
        tar(folder / f"2016-01-test/texts/{path}/{direction}.tgz", members)


def wmt16(folder: Path, size: int):
    train, valid, test = parts(size)
    half = size // 2
    europarl, setimes, dev, tests = {}, {}, {}, {}
    for side, (language, kind) in enumerate((("ro", "src"), ("en", "ref"))):
        name = f"training-parallel-ep-v8/europarl-v8.ro-en.{language}"
        europarl[name] = lines(train[:half], side)
        setimes[f"SETIMES.en-ro.{language}"] = lines(train[half:], side)
        dev[f"dev/newsdev2016-roen-{kind}.{language}.sgm"] = segments(valid, side)
        tests[f"test/newstest2016-roen-{kind}.{language}.sgm"] = segments(test, side)
    tar(folder / "training-parallel-ep-v8.tgz", europarl)
    zipped(folder / "en-ro.txt.zip", setimes)
    tar(folder / "dev.tgz", dev)
    tar(folder / "test.tgz", tests)


def wmt14(folder: Path, size: int):
    train, valid, test = parts(size)
    third = size // 3
    archives = {}

    def put(archive, member, data):
        archives.setdefault(archive, {})[member] = data

    for language, side, kind in (("de", 0, "ref"), ("en", 1, "src")):
        corpora = (
            ("training-parallel-europarl-v7.tgz", "training/europarl-v7.de-en"),
            ("training-parallel-commoncrawl.tgz", "commoncrawl.de-en"),
            ("training-parallel-nc-v9.tgz", "training/news-commentary-v9.de-en"),
        )
        for i, (archive, member) in enumerate(corpora):
            put(archive, f"{member}.{language}", lines(train[i * third : (i + 1) * third], side))
        put("dev.tgz", f"dev/newstest2013.{language}", lines(valid, side))
        name = f"test-full/newstest2014-deen-{kind}.{language}.sgm"
        put("test-full.tgz", name, segments(test, side))
    for archive, members in archives.items():
        tar(folder / archive, members)


def environment(**more):
    small = {
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "SUBWORDS": "150",
        "TABLE_DIM": "16",
        "FASTTEXT_EPOCHS": "1",
        "WORKERS": "1",
        "GENERATE_OPTIONS": "--max-len-b 8",
    }
    return {**os.environ, **small, **{name: str(value) for name, value in more.items()}}


def run(name, *arguments, **more):
    command = [REPOSITORY / "examples" / name / "run.sh", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**more), check=False, capture_output=True, text=True, timeout=900
    )


def results(process):
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


def error(process):
    """Return the last line of stderr of a run that must fail."""
    assert process.returncode != 0, process.stdout
    assert "Traceback" not in process.stderr, process.stderr[-3000:]
    assert process.stdout == ""
    return process.stderr.strip().splitlines()[-1]
