"""A command line that getopt has read means what typer says it means; what getopt leaves to typer costs time and nothing else.

Controls: the lines of `USUAL` are read by getopt, so that the comparison compares something. Without the twins of long names in
reading.py the random lines fail, and without the look for dashes among arguments those with POSIXLY_CORRECT do.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import typer

from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.explaining import UsageError, as_typer_wants
from domains.xenctl.options import Option
from domains.xenctl.reading import Parameter, names_of, parameters_of, read

LINES = 60
"""Drawn for each command."""
USUAL: list[tuple[str, list[str], dict[str, Any]]] = [
    ("list", [], {}),
    ("list", ["web", "-lc", "--machine", "m"], {"domain": "web", "long": True, "pools": True, "name": "m"}),
    ("create", ["--paused", "a.cfg", "-c"], {"file": Path("a.cfg"), "paused": True, "console": True}),
    ("create", ["a.cfg", "vcpus=2", "--json", "x=y"], {"overrides": ["vcpus=2", "x=y"], "json": True}),
    ("destroy", ["--machine=m", "web"], {"domain": "web", "name": "m"}),
    ("shutdown", ["-w", "--timeout", "2.5", "--", "web"], {"wait": True, "timeout": 2.5}),
    ("run", ["k", "--cmdline", "--x -y", "--memory", "8", "--disk=a", "--disk", "b"], {"disk": ["a", "b"]}),
    ("run", ["k", "--for", "3", "--seed=7", "--type", "pvh", "--hap", "0"], {"seed": 7, "hap": 0}),
    ("sched-credit", ["-dweb", "-w512", "-c", "50"], {"domain": "web", "weight": 512, "cap": 50}),
    ("sched-rtds", ["-v", "0", "-p", "9", "-v3", "-p8"], {"vcpus": ["0", "3"], "periods": [9, 8]}),
    ("vcpu-pin", ["web", "all", "0-1", "-"], {"hard": "0-1", "soft": "-"}),
    ("network-capture", ["-w", "f", "web", "1"], {"write": "f", "vif": 1}),
]
WORDS = [
    "web",
    "a=b",
    "0",
    "7",
    "-1",
    "1.5",
    "1e3",
    "nan",
    "",
    "-",
    "--",
    "-x",
    "-x y",
    "--frob",
    "=",
    "ä",
    "mermaid",
    " 5",
]
"""Values, and what is none."""


@pytest.fixture(autouse=True)
def no_machine_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have named one."""
    monkeypatch.delenv("XENCTL_MACHINE", raising=False)


def as_typer_reads(name: str, words: list[str]) -> dict[str, Any] | None:
    """What typer calls the command's function with; None if it does not."""
    given: list[dict[str, Any]] = []
    function = function_of(name)

    @wraps(function)
    def recorder(**values: Any) -> None:
        given.append(values)

    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.callback()(lambda: None)
    app.command(name)(as_typer_wants(recorder))
    with (
        contextlib.suppress(UsageError, typer.Exit),
        contextlib.redirect_stdout(None),
        typer.main.get_command(app).make_context("xenctl", [name, *words]) as context,
    ):
        context.command.invoke(context)
    return given[0] if given else None


def with_defaults(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """All the arguments that the function gets."""
    function: Any = function_of(name)
    names = [one.name for one in parameters_of(function)]
    values = function.__defaults__ or ()
    return dict(zip(names[len(names) - len(values) :], values, strict=True)) | given


@pytest.mark.parametrize(("name", "words", "some"), USUAL)
def test_usual_command_lines_are_read_by_getopt(name: str, words: list[str], some: dict[str, Any]) -> None:
    given = read(function_of(name), words)
    assert given is not None
    assert given.items() >= some.items()
    assert with_defaults(name, given) == as_typer_reads(name, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("list", ["--help"]),
        ("list", ["--machin", "m"]),  # not even a beginning that only one option has
        ("list", ["--js"]),
        ("list", ["--json=1"]),
        ("list", ["a", "b"]),
        ("destroy", []),
        ("destroy", ["-5"]),
        ("destroy", ["--", "-5"]),
        ("run", ["k", "--memory", "0"]),
        ("run", ["k", "--memory", "many"]),
        ("graph", ["f", "--format", "mermaid"]),
    ],
)
def test_what_is_wrong_or_rare_is_left_to_typer(name: str, words: list[str]) -> None:
    assert read(function_of(name), words) is None


@pytest.mark.parametrize("variable", [None, "", "m"])
def test_the_machine_of_the_environment_stands_in_for_the_option(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("XENCTL_MACHINE", variable)
    for words, machine in (([], variable or "default"), (["--machine", "other"], "other")):
        given = read(function_of("list"), words)
        assert given is not None
        assert with_defaults("list", given) == as_typer_reads("list", words)
        assert with_defaults("list", given)["name"] == machine


def test_an_environment_that_puts_options_first_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSIXLY_CORRECT", "1")
    words = ["a.cfg", "a=b", "--json"]
    assert read(function_of("create"), words) is None
    assert as_typer_reads("create", words) == with_defaults(
        "create", {"file": Path("a.cfg"), "overrides": ["a=b"], "json": True}
    )


class Lines:
    """Command lines, most of them near to right ones."""

    def __init__(self, chance: random.Random, parameters: list[Parameter]) -> None:
        self._chance = chance
        self._options = [(name, one) for one in parameters for name in names_of(one)]
        self._arguments = [one for one in parameters if not isinstance(one.declared, Option)]

    def line(self) -> list[str]:
        """One of them."""
        pieces = [[self.value()] for one in self._arguments if one.required or self._chance.random() < 0.5]
        pieces += [self.option() for _ in range(self._chance.randrange(4)) if self._options]
        pieces += [[self.value()] for _ in range(self._chance.randrange(2))]
        if self._chance.random() < 0.5:
            self._chance.shuffle(pieces)
        return [word for piece in pieces for word in piece]

    def option(self) -> list[str]:
        """An option, with a value or without, joined or apart, cut short now and then."""
        name, one = self._chance.choice(self._options)
        if self._chance.random() < 0.1:
            name = name[: self._chance.randrange(1, len(name) + 1)]
        if (one.kind is bool) != (self._chance.random() < 0.05):
            return [name]
        joint = "=" if name.startswith("--") or self._chance.random() < 0.2 else ""
        return [name, self.value()] if self._chance.random() < 0.6 else [f"{name}{joint}{self.value()}"]

    def value(self) -> str:
        """Any word; a number mostly."""
        if self._chance.random() < 0.4:
            return str(self._chance.choice([0, 1, 2, 5, 50, 100, 1000, 1 << 40]))
        return self._chance.choice(WORDS)


def compared(name: str, chance: random.Random, lines: int) -> Iterator[tuple[list[str], Any, Any]]:
    """Lines that getopt has read, and what they mean to it and to typer."""
    function: Callable[..., object] = function_of(name)
    source = Lines(chance, parameters_of(function))
    for _ in range(lines):
        words = source.line()
        if (given := read(function, words)) is not None:
            yield words, with_defaults(name, given), as_typer_reads(name, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_random_lines_mean_the_same_to_getopt_and_to_typer(name: str, steps: int | None) -> None:
    for words, ours, theirs in compared(name, random.Random(name), steps or LINES):
        assert theirs is not None, words
        assert repr(sorted(ours.items())) == repr(sorted(theirs.items())), (
            words
        )  # by repr, for nan is not nan
