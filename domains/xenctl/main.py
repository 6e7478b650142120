"""xenctl: the command line of a machine. One file per group of commands; this one puts them together.

Exit codes: domains.control.protocol.Exit. Every error is one line on standard error.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn, cast

import typer

from domains.control.protocol import ControlError, Exit
from domains.xenctl import (
    console_commands,
    domain_commands,
    machine_commands,
    network_commands,
    run_command,
    store_commands,
    topology_commands,
)
from domains.xenctl.output import print_error

UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""What the parser of arguments raises; typer does not export it, and where it lies depends on the version."""

app = typer.Typer(
    name="xenctl",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for group in (
    run_command,
    machine_commands,
    domain_commands,
    console_commands,
    network_commands,
    store_commands,
    topology_commands,
):
    group.register(app)


@app.callback()
def before_command(
    machine: Annotated[str, typer.Option("--machine", help="As --machine of every command.")] = "",
) -> None:
    """Run Xen machines out of ordinary processes."""
    if machine:
        os.environ["XENCTL_MACHINE"] = machine


def main() -> NoReturn:
    """The program's entry."""
    sys.exit(int(run(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """One command; its exit code."""
    try:
        return int(app(arguments, standalone_mode=False) or Exit.OK)
    except ControlError as error:
        print_error(error.message)
        return error.code
    except UsageError as error:
        print_error(f"{error.format_message().rstrip('.')}; see 'xenctl --help'")
        return Exit.USAGE
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.OK


if __name__ == "__main__":
    main()
