"""A command line that is not right, or asks for help: typer reads it, says what is wrong, and prints the help."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, Final, cast, get_args, get_type_hints

import typer

from domains.control.protocol import Exit
from domains.xenctl.advice import about_usage
from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.examples import EXAMPLES
from domains.xenctl.options import Option, finite
from domains.xenctl.output import print_error

UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""What the parser of arguments raises; typer does not export it, and where it lies depends on the version."""


HELP: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}
"""-h as well, for it is xl's."""


def explain(arguments: Sequence[str]) -> int:
    """Do what the arguments say, whatever that is; the exit code."""
    try:
        command = typer.main.get_command(app_for(arguments))
        with command.make_context("xenctl", list(arguments)) as context:
            return int(command.invoke(context) or Exit.OK)
    except UsageError as error:
        print_error(about_usage(error, list(COMMANDS)))
        return Exit.USAGE
    except typer.Exit as error:
        return error.exit_code


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """What parses these arguments: it has the command that they begin with, or all commands if they begin otherwise."""
    app = typer.Typer(
        name="xenctl", rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback(context_settings=HELP)(as_typer_wants(before_command))
    for name in [arguments[0]] if arguments and arguments[0] in COMMANDS else COMMANDS:
        app.command(name, epilog=epilog_of(name), context_settings=HELP)(as_typer_wants(function_of(name)))
    return app


def epilog_of(name: str) -> str:
    """What stands below a command's help."""
    line, what = EXAMPLES[name]
    return f"\b\nExample: xenctl {line}\n         {what}"


def before_command(
    machine: Annotated[str, Option("--machine", help="As --machine of every command that has it.")] = "",
) -> None:
    """Run Xen machines out of ordinary processes."""
    if machine:
        os.environ["XENCTL_MACHINE"] = machine


def as_typer_wants(function: Callable[..., object]) -> Callable[..., object]:
    """The same function, whose parameters are declared as typer's."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)

    @wraps(function)
    def perform(**given: Any) -> object:
        return function(**given)

    parameters = [
        one.replace(annotation=translated(hints[one.name])) for one in signature.parameters.values()
    ]
    vars(perform)["__signature__"] = signature.replace(parameters=parameters)
    return perform


def only_finite(value: Any) -> Any:
    """The value of a parameter that takes numbers with a fraction, or several. Raises BadParameter."""
    for number in value if isinstance(value, list | tuple) else [value]:
        try:
            finite(str(number or 0))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return value


def translated(hint: Any) -> Any:
    """An annotation with typer's declaration in the place of ours."""
    kind, declared = get_args(hint)
    settings = {name: getattr(declared, name) for name in ("help", "metavar", "min", "max")}
    if float in (kind, *get_args(kind)):
        settings["callback"] = only_finite
    if isinstance(declared, Option):
        return Annotated[kind, typer.Option(*declared.names, envvar=declared.envvar, **settings)]
    return Annotated[kind, typer.Argument(**settings)]
