"""What the scripts share: options, one-line errors, progress bars, text files, atomic writes."""

import argparse
import errno
import gzip
import lzma
import os
import signal
import sys
import tempfile
import traceback
import zlib
from contextlib import contextmanager
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


def check_output(path, name="--output"):
    """Check, before hours of work, that a file can be written.

    Raises:
        ValueError: its folder does not exist or is not writable, or it is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{name} {path}: must be a file, but is a folder; give a file's name")
    if not path.parent.is_dir():
        raise ValueError(f"{name} {path}: the folder {path.parent} does not exist; create it")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name} {path}: the folder {path.parent} is not writable; choose another")


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path`` that replaces it on success and goes on failure."""
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


def read_lines(path):
    """Yield the lines of a UTF-8 text file (plain, .gz or .xz), without their line ends.

    Only a newline ends a line: Python's text mode would also break at a lone carriage return, and
    then two parallel files would get out of step.

    Raises:
        ValueError: not UTF-8 (with the line), or a damaged archive.
        OSError: no such file.
    """
    opener = OPENERS.get(Path(path).suffix, open)
    number = 0
    try:
        with opener(path, "rb") as file:
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
