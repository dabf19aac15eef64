"""Errors of use are one line on the command line; a bug still shows its traceback."""

import sys
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: What fairseq's commands are called, as scripts and as modules (python -m fairseq_cli.train).
_COMMANDS = ("fairseq-", "fairseq_cli")


def is_error_of_use(error: BaseException) -> bool:
    """Tell whether an error is a ``ValueError`` that this package raised: what a user can mend."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        type(error) is ValueError
        and bool(frames)
        and Path(frames[-1].filename).resolve().is_relative_to(_PACKAGE)
    )


def one_line_errors():
    """Let fairseq's commands print errors of use as one line: ``fairseq-train: error: …``.

    Does nothing in other programs: there the exception is the message.
    """
    program = Path(sys.argv[0])
    if not any(part.startswith(_COMMANDS) for part in (program.name, program.parent.name)):
        return
    original = sys.excepthook

    def hook(kind, error, trace):
        if is_error_of_use(error):
            print(f"{program.stem}: error: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            original(kind, error, trace)

    sys.excepthook = hook
