"""xenctl: the command line of a machine. What each command does is in a file per group of commands; `commands.py` lists them.

Exit codes: domains.control.protocol.Exit. Whatever goes wrong ends here, as one line on standard error for each
mistake; a reader of standard output that goes away ends the command as SIGPIPE ends others.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Final, NoReturn

from domains.control.protocol import ControlError, Exit
from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.output import CannotWrite, on_standard_output, print_error
from domains.xenctl.reading import read

INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit code after a Ctrl-C, as shells have it."""


def main() -> NoReturn:
    """One run of the program, whose modules are loaded."""
    try:
        open_standard_streams()
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        die_of_sigpipe()
    except OSError as error:
        code = cannot_write(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    end(code)


def end(code: int) -> NoReturn:
    """Leave without Python's taking apart of each module, which is a quarter of a short command's time: by now all is closed that
    has an effect.
    """
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """One command; its exit code. Without arguments the help, as other commands of many commands do. Raises
    BrokenPipeError.
    """
    try:
        return perform(arguments or ["--help"])
    except ControlError as error:
        for line in error.message.splitlines():
            print_error(line)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except CannotWrite as error:
        return cannot_write(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print_error(f"{where}{error.strerror or error}")
        return Exit.FAILURE
    except Exception as error:  # noqa: BLE001 - the outermost frame of the command
        return own_mistake(error)


def perform(arguments: list[str]) -> int:
    """Read the command line and do what it says; the exit code. Raises what that raises."""
    if arguments[0] in COMMANDS:
        function = function_of(arguments[0])
        given = read(function, arguments[1:])
        if given is not None:
            code = function(**given)
            return code if isinstance(code, int) else Exit.OK
    from domains.xenctl.explaining import explain

    return explain(arguments)


def open_standard_streams() -> None:
    """Give a command that was started without one of its three streams a descriptor in that place, or a machine's
    files would be taken for it. What is read is empty, and what is written is refused as it would be.
    """
    for fd, name, flags in (
        (0, "stdin", os.O_WRONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))
    sys.stdout = on_standard_output(sys.stdout)


def die_of_sigpipe() -> NoReturn:
    """End as a command ends that does not heed SIGPIPE: without a word, and the shell knows why."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer goes nowhere
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)


def cannot_write(error: OSError) -> int:
    """Standard output takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print_error(f"cannot write standard output: {error.strerror}")
    return Exit.FAILURE


def own_mistake(error: Exception) -> int:
    """What no user can have caused: one line, and all of it where XENCTL_TRACEBACK is set."""
    if os.environ.get("XENCTL_TRACEBACK"):
        from traceback import print_exception

        print_exception(error)
    what = f"{type(error).__name__}: {error}"
    print_error(f"a mistake of xenctl's own, which XENCTL_TRACEBACK=1 shows where it is: {what}")
    return Exit.FAILURE
