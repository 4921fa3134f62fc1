"""What every command shares: exit codes, ``--json``, one line for what the user can mend."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from seglab.core.documents import json_text
from seglab.core.errors import TrainingDiverged, UserError
from seglab.tracking.errors import print_traceback, redact

Command = Callable[[argparse.Namespace], int]
DONE, OUR_FAULT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
_MENDABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip
"""A disk that is full, read-only or closed to the user, or a file in the way of a folder."""


class Parser(argparse.ArgumentParser):
    """argparse with the example kept as it is written, and one line on a mistake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Any:
        """Exit with status 2 and one line."""
        self.exit(USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


def run_command(command: Command, arguments: argparse.Namespace, *, continues: bool = False) -> int:
    """Run a command and turn whatever happens into its exit status.

    Args:
        command: what to run.
        arguments: of the command.
        continues: the same command goes on where an interrupted one stopped.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show "·" or "–"
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except (UserError, TrainingDiverged) as error:
        print(redact(f"error: {' '.join(str(error).split())}"), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        way_on = ": the same command continues" if continues else ""
        print(f"interrupted{way_on}", file=sys.stderr)
        # Python keeps in mind that one went through generated code, and would end by its signal.
        exec("")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (``| head``); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in _MENDABLE:
            return _our_fault()
        print(redact(f"error: {error.filename or 'a file'}: {error.strerror}"), file=sys.stderr)
        return USER_ERROR
    except Exception:
        return _our_fault()


def _our_fault() -> int:
    print_traceback()
    return OUR_FAULT


def _terminate(number: int, frame: FrameType | None) -> None:
    """End a run as cleanly on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, all else on stderr"
    )


def print_json(values: Any) -> None:
    """Print one JSON object; a number that does not exist is null."""
    print(json_text(values))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns; the first is flush left, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
