"""xenctl: the command line of a machine. One file per group of commands; this one puts them together.

Exit codes: domains.control.protocol.Exit. Whatever goes wrong ends here, as one line on standard error for each
mistake; a reader of standard output that goes away ends the command as SIGPIPE ends others.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Annotated, NoReturn, cast

import typer

from domains.control.protocol import ControlError, Exit
from domains.xenctl import (
    console_commands,
    domain_commands,
    exercise_commands,
    lab_commands,
    machine_commands,
    network_commands,
    run_command,
    store_commands,
    topology_commands,
)
from domains.xenctl.advice import about_usage
from domains.xenctl.output import print_error

UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""What the parser of arguments raises; typer does not export it, and where it lies depends on the version."""

app = typer.Typer(
    name="xenctl",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (
    run_command,
    machine_commands,
    domain_commands,
    console_commands,
    network_commands,
    store_commands,
    topology_commands,
    lab_commands,
    exercise_commands,
):
    group.register(app)


@app.callback()
def before_command(
    machine: Annotated[
        str, typer.Option("--machine", help="As --machine of every command that has it.")
    ] = "",
) -> None:
    """Run Xen machines out of ordinary processes."""
    if machine:
        os.environ["XENCTL_MACHINE"] = machine


def main() -> NoReturn:
    """The program's entry."""
    open_standard_streams()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        die_of_sigpipe()
    except OSError as error:
        code = cannot_write(error)
    sys.exit(int(code))


def run(arguments: list[str]) -> int:
    """One command; its exit code. Without arguments the help, as other commands of many commands do. Raises
    BrokenPipeError.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("xenctl", arguments or ["--help"]) as context:
            return int(command.invoke(context) or Exit.OK)
    except ControlError as error:
        for line in error.message.splitlines():
            print_error(line)
        return error.code
    except UsageError as error:
        print_error(about_usage(error, typer.main.get_command(app)))
        return Exit.USAGE
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print_error(f"{where}{error.strerror or error}")
        return Exit.FAILURE
    except Exception as error:  # noqa: BLE001 - the outermost frame of the command
        return own_mistake(error)


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
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    print_error(f"a mistake of xenctl's own, which XENCTL_TRACEBACK=1 shows where it is: {what}")
    return Exit.FAILURE


if __name__ == "__main__":
    main()
