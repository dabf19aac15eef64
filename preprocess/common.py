"""What the scripts share: options, one-line errors, progress bars, text files, atomic writes.

The recipes in examples/ take what they need from here, too.
"""

import argparse
import errno
import gzip
import logging
import lzma
import os
import shlex
import signal
import sys
import tempfile
import traceback
import zlib
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

OPENERS = {".gz": gzip.open, ".xz": lzma.open}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):  # "(default: None)" tells nothing
        no_default = action.default is None or action.default is False
        return action.help if no_default else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before them."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_Help)
        self.add_argument("--quiet", action="store_true", help="no progress bars")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}; --help lists the options\n")

    def add_seed(self, what: str):
        self.add_argument("--seed", type=number(int, 0), default=1, help=what)


def number(kind, low=None, high=None, open_low=False):
    """Return an argparse type: a finite number of ``kind`` in [low, high], or (low, high]."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"must be a number ({kind.__name__}), but is {text}"
            ) from error
        if low is not None and not (value > low if open_low else value >= low):
            rule = "greater than" if open_low else "at least"
            raise argparse.ArgumentTypeError(f"must be {rule} {low}, but is {text}")
        if high is not None and not value <= high:
            raise argparse.ArgumentTypeError(f"must be at most {high}, but is {text}")
        return value

    return parse


def is_set(value) -> bool:
    """Tell whether an option was given: 0 is a value."""
    return value is not None and value is not False


def describe_command(script: str, args, files, left_out) -> str:
    """Return the command that makes the same file again.

    Args:
        script: its name.
        args: its options.
        files: names of options that are paths: without folders, which differ between machines.
        left_out: names of options that do not count.
    """
    words = [script]
    for name, value in vars(args).items():
        if name in left_out or not is_set(value):
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            values = value if isinstance(value, list) else [value]
            words += [Path(one).name if name in files else str(one) for one in values]
    return shlex.join(words)


@contextmanager
def without_notes():
    """Import the plugin in here: fairseq's tasks, which come along, tell of optional packages."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def run(work, args) -> int:
    """Call ``work(args)`` and return the exit status; an error is one line on stderr.

    Errors are ``ValueError`` and ``OSError``: a bug still shows its traceback.
    """
    try:
        with _clean_up_when_terminated():
            work(args)
        return 0
    except KeyboardInterrupt:
        status, message = 130, "interrupted; nothing was written"
    except (ValueError, OSError) as error:
        status, message = 1, describe(error)
        traceback.clear_frames(error.__traceback__)  # closes progress bars before the message
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    return status


@contextmanager
def _clean_up_when_terminated():
    """Let SIGTERM raise SystemExit: by default it would leave temporary files behind."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe(error: Exception) -> str:
    """Return an error's message as one line that names the file it is about."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        wrong, remedy = ("written", "make room") if full else ("opened", "check the path")
        message = f"{error.filename}: cannot be {wrong}: {error.strerror}; {remedy}"
    return " ".join(message.split()) or type(error).__name__


def progress(items, what: str, quiet: bool, total=None, unit="lines"):
    """Iterate with a progress bar on stderr: redrawn rarely where stderr is a log file."""
    return tqdm(
        items,
        desc=what,
        total=total,
        unit=f" {unit}",
        disable=quiet,
        mininterval=0.2 if sys.stderr.isatty() else 5.0,
        dynamic_ncols=True,
    )


def check_output(path, name="--output", inputs=()):
    """Check, before hours of work, that a file can be written.

    Raises:
        ValueError: its folder does not exist or is not writable, or it is a folder itself, or one
            of the inputs.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{name} {path}: must be a file, but is a folder; give a file's name")
    if not path.parent.is_dir():
        raise ValueError(f"{name} {path}: the folder {path.parent} does not exist; create it")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name} {path}: the folder {path.parent} is not writable; choose another")
    if any(path.resolve() == Path(source).resolve() for source in inputs):
        raise ValueError(f"{path}: must not be overwritten while it is read; change {name}")


def check_outputs(outputs: dict, inputs=()):
    """Check the files that one call writes as :func:`check_output` does, and that they differ.

    Args:
        outputs: option → path.
        inputs: paths that are read; None for what is not given.

    Raises:
        ValueError: what :func:`check_output` refuses, or two options name one file.
    """
    inputs, names = [path for path in inputs if path is not None], {}
    for name, path in outputs.items():
        check_output(path, name, inputs)
        other = names.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(
                f"{other} and {name} must be two files, but both are {path}; change one of them"
            )


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path`` that replaces it on success and goes on failure.

    ``fairseq_contout.files.atomic_file`` does so for the package; to import that, and with it
    fairseq, would cost every script some seconds.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner reads
        os.replace(name, path)
    except OSError as error:
        if error.filename in (None, name):  # a full disk's error names no file
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_text(path):
    """Open a UTF-8 text file for writing that appears, whole, only on success."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file


def open_bytes(path):
    """Open a file, which may be .gz or .xz, to read its bytes unpacked."""
    return OPENERS.get(Path(path).suffix, open)(path, "rb")


def read_lines(path):
    """Yield the lines of a UTF-8 text file (plain, .gz or .xz), without their line ends.

    Only a newline ends a line: Python's text mode would also break at a lone carriage return, and
    then two parallel files would get out of step.

    Raises:
        ValueError: not UTF-8 (with the line), or a damaged archive.
        OSError: no such file.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8")
                yield (line[1:] if number == 1 and line.startswith("\ufeff") else line).rstrip(
                    "\r\n"
                )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: text must be UTF-8, but byte {error.start + 1} of the line is "
            f"0x{error.object[error.start]:02x}; convert the file, for instance with iconv"
        ) from error
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path}: must be a whole {Path(path).suffix} archive, but after line {number}: "
            f"{describe(error)}; fetch the file again"
        ) from error


def tokens(line: str) -> str:
    """Return a line as fairseq will split it: one plain blank between tokens, no control blanks."""
    return " ".join(line.replace("\0", " ").split())


def read_text(paths, quiet: bool):
    """Yield the non-empty lines of several files, tokens separated by one blank.

    Raises:
        ValueError: a file holds no text.
    """
    for path in paths:
        empty = True
        for line in progress(read_lines(path), f"reading {Path(path).name}", quiet):
            line = tokens(line)
            if line:
                empty = False
                yield line
        if empty:
            raise ValueError(f"{path}: must hold text to learn from, but is empty; give another")


def read_pairs(source, target):
    """Yield pairs of lines of parallel text.

    Raises:
        ValueError: an empty file, or files of different lengths.
    """
    counts = [0, 0]
    for pair in zip_longest(read_lines(source), read_lines(target)):
        counts = [count + (line is not None) for count, line in zip(counts, pair)]
        if None not in pair:
            yield pair
    for path, count in zip((source, target), counts):
        if not count:
            raise ValueError(f"{path}: must hold text, but is empty; give the text again")
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} and {target} must have the same number of lines, but have {counts[0]} and "
            f"{counts[1]}; align them again, or make both from the same parallel text"
        )
