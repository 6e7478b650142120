"""rich's console as xenctl's commands use it. Apart from output.py, for rich takes long to import and few commands need it."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from rich.console import Console


class StandardConsole(Console):
    """Prints on standard output. A reader that goes away ends the command as it ends all others; rich would exit with 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise BrokenPipeError, which rich has caught, for the program's outermost frame."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
