"""What every command shares: its arguments, its answer, and the exit status it ends with."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seglab.core.documents import json_text
from seglab.core.errors import TrainingDiverged, UserError, nearest
from seglab.tracking.errors import print_traceback, redact

PROGRAM = "seglab" if Path(sys.argv[0]).stem == "seglab" else "python -m seglab"
DONE, OUR_FAULT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that is full or read-only is never a fault of ours, whichever file it hits."""
Given = TypeVar("Given")


class Parser(argparse.ArgumentParser):
    """argparse with the example kept as it is written, and one line on a mistake."""

    def __init__(self, **options: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=raw, allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        """Exit with status 2 and one line, which names the nearest option or choice."""
        known = [option for action in self._actions for option in action.option_strings]
        if found := re.search(r"unrecognized arguments: (-[^\s=]+)", message):
            message += nearest(found[1], known)
        elif found := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message):
            message += nearest(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, all else on stderr"
    )


def output_folder(text: str) -> Path:
    """Type of ``--out``: a folder that can be made, told before any work is done."""
    path = Path(text)
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is no folder")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"nothing can be written in {there}")
    return path


def run_command(
    command: Callable[[Given], int], arguments: Given, *, continues: bool = False
) -> int:
    """Run a command and turn whatever happens into its exit status.

    ``continues``: the same command continues where an interrupted one stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as cleanly as Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show "·" or "–"
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command(arguments)
    except (UserError, TrainingDiverged) as error:
        print(redact(f"error: {' '.join(str(error).split())}"), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"interrupted{': the same command continues' * continues}", file=sys.stderr)
        # CPython notes an interrupt that passed through exec'd code and would end by its signal.
        exec("")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK:
            print(redact(f"error: {error.filename or 'a file'}: {error.strerror}"), file=sys.stderr)
            return USER_ERROR
        print_traceback()
        return OUR_FAULT


def answer(arguments: argparse.Namespace, values: Any, text: str) -> int:
    """Print a command's result on stdout, the values with ``--json``, else the text; it is done."""
    print_text(json_text(values) if arguments.json else text)
    return DONE


def print_text(text: str) -> None:
    """Print on stdout; a reader that went away (``| head``) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows in columns; a column without any value is left out."""
    import pandas

    frame = pandas.DataFrame(rows).dropna(axis="columns", how="all")
    text: str = frame.to_string(index=False, na_rep="–", float_format="{:.4f}".format)
    return text
