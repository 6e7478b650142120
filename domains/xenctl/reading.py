"""A command line that is right, read by the standard library's getopt.

Of one that is not, or asks for help, nothing is said here: typer reads it anew then (`explaining.py`), and says what is wrong. It
would read the others alike, but takes longer to load than most commands take for everything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from getopt import GetoptError, gnu_getopt
from pathlib import Path
from types import NoneType
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

from domains.xenctl.options import Argument, Option, finite

KINDS: Final[dict[Any, Callable[[str], Any]]] = {str: str, int: int, float: finite, Path: Path}
"""What a word can be read as; other types are left to typer."""


class Unreadable(Exception):
    """Typer is to read this command line."""


class Parameter(NamedTuple):
    """One of a function: `kind` is the type of a word; `many`: a list of them."""

    name: str
    kind: Any
    many: bool
    declared: Argument
    required: bool

    def read(self, words: Sequence[str]) -> Any:
        """Its value, which these words give. Raises Unreadable."""
        convert = KINDS.get(self.kind)
        if convert is None:
            raise Unreadable
        try:
            values = [convert(word) for word in words]
        except ValueError:
            raise Unreadable from None
        low, high = self.declared.min, self.declared.max
        if any((low is not None and value < low) or (high is not None and value > high) for value in values):
            raise Unreadable
        return values if self.many else values[-1]


def read(function: Callable[..., object], words: Sequence[str]) -> dict[str, Any] | None:
    """The arguments that the words after a command's name give its function; None if typer is to read them."""
    parameters = parameters_of(function)
    options = {name: one for one in parameters for name in names_of(one)}
    try:
        found, rest = gnu_getopt(list(words), *as_getopt_wants(options))
        return options_given(options, found) | arguments_given(parameters, rest)
    except (GetoptError, Unreadable):
        return None


def parameters_of(function: Callable[..., object]) -> list[Parameter]:
    """What a command takes, in the order of its function's parameters."""
    hints = get_type_hints(function, include_extras=True)
    names = [name for name in hints if name != "return"]
    required = len(names) - len(getattr(function, "__defaults__", None) or ())
    return [parameter(name, hints[name], required=at < required) for at, name in enumerate(names)]


def parameter(name: str, hint: Any, *, required: bool) -> Parameter:
    """What an annotation says: `Annotated[T, …]`, where T may be a list, and None besides."""
    kind, declared = get_args(hint)
    several = [part for part in get_args(kind) if part is not NoneType]
    if NoneType in get_args(kind):
        (kind,) = several
    if many := get_origin(kind) is list:
        (kind,) = get_args(kind)
    return Parameter(name, kind, many, declared, required)


def names_of(one: Parameter) -> tuple[str, ...]:
    """An option's names, with their dashes; an argument has none."""
    if not isinstance(one.declared, Option):
        return ()
    return one.declared.names or (f"--{one.name.replace('_', '-')}",)


def as_getopt_wants(options: dict[str, Parameter]) -> tuple[str, list[str]]:
    """The short and the long options. Each long one has a twin: getopt would take the beginning of a name for the whole, if there
    is no other that begins so.
    """
    shorts, longs = "", []
    for name, one in options.items():
        value = one.kind is not bool
        if name.startswith("--"):
            longs += [name[2:] + "=" * value, name[2:] + "!"]
        else:
            shorts += name[1:] + ":" * value
    return shorts, longs


def options_given(options: dict[str, Parameter], found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of options, by the names of parameters. Raises Unreadable."""
    words: dict[Parameter, list[str]] = {}
    for one in options.values():
        if isinstance(one.declared, Option) and one.declared.envvar and os.environ.get(one.declared.envvar):
            words[one] = [os.environ[one.declared.envvar]]
    for name, word in found:
        words.setdefault(options[name], []).append(word)
    return {one.name: one.kind is bool or one.read(given) for one, given in words.items()}


def arguments_given(parameters: Sequence[Parameter], words: Sequence[str]) -> dict[str, Any]:
    """The values of arguments, by the names of parameters. Raises Unreadable: too few, too many, or one may be an option."""
    if any(word.startswith("-") and word != "-" for word in words):
        raise Unreadable
    given, at = {}, 0
    for one in parameters:
        if isinstance(one.declared, Option):
            continue
        taken = words[at:] if one.many else words[at : at + 1]
        at += len(taken)
        if taken:
            given[one.name] = one.read(taken)
        elif one.required:
            raise Unreadable
    if at < len(words):
        raise Unreadable
    return given
