"""Errors of use: one line on the command line, some names in it; a bug shows its traceback."""

import sys
import traceback
from pathlib import Path
from typing import Iterable, Optional

_PACKAGE = Path(__file__).resolve().parent
#: What fairseq's commands are called, as scripts and as modules (python -m fairseq_cli.train).
_COMMANDS = ("fairseq-", "fairseq_cli")


def some(names: Iterable) -> str:
    """Return the first five of several names, for a message."""
    names = [str(name) for name in names]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def error_of_use(error: Optional[BaseException]) -> Optional[BaseException]:
    """Return what a user can mend: the ``ValueError`` of this package behind an error, or None.

    fairseq wraps what happens while a checkpoint is loaded in an exception of its own.
    """
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = frames and Path(frames[-1].filename).resolve().is_relative_to(_PACKAGE)
        if ours and type(error) is ValueError:
            return error
        error = error.__cause__ or error.__context__
    return None


def one_line_errors():
    """Let fairseq's commands print errors of use as one line: ``fairseq-train: error: …``.

    Does nothing in other programs: there the exception is the message.
    """
    program = Path(sys.argv[0])
    if not any(part.startswith(_COMMANDS) for part in (program.name, program.parent.name)):
        return
    original = sys.excepthook

    def hook(kind, error, trace):
        found = error_of_use(error)
        if found is not None:
            print(f"{program.stem}: error: {' '.join(str(found).split())}", file=sys.stderr)
        else:
            original(kind, error, trace)

    sys.excepthook = hook
