"""docs/xl-commands.md and docs/xenctl.1, made from xenctl's own commands: what of xl's acts and what does not; and the manual."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from domains.control.protocol import Exit
from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.examples import EXAMPLES
from domains.xenctl.options import Option
from domains.xenctl.reading import Parameter, names_of, parameters_of
from domains.xenctl.xl_table import MISSING_OPTIONS, REFUSED, XL_COMMANDS

REPOSITORY: Final = Path(__file__).resolve().parent.parent
TABLE: Final = REPOSITORY / "docs" / "xl-commands.md"
MANUAL: Final = REPOSITORY / "docs" / "xenctl.1"
MEANINGS: Final = {
    Exit.OK: "done",
    Exit.FAILURE: "it failed; the line on standard error says why and what to do",
    Exit.USAGE: "the command line is wrong",
    Exit.NO_SUCH_DOMAIN: "there is no such domain",
    Exit.TIMED_OUT: "it took too long",
    Exit.CRASHED: "the domain crashed; xenctl dmesg says why",
}
"""What the exit codes tell."""
ENVIRONMENT: Final = {
    "XENCTL_MACHINE": "The machine that is meant where --machine is not given.",
    "XDG_RUNTIME_DIR": "Where the folders of machines are; otherwise in /tmp/xenoscope-UID.",
    "NO_COLOR": "If it is set and not empty, nothing is coloured.",
    "XENCTL_TRACEBACK": "If it is set, a mistake of xenctl's own is shown with the place where it is.",
}


def table() -> str:
    """The page about xl's commands."""
    acting = [name for name in XL_COMMANDS if name in COMMANDS]
    lines = [
        "# Commands of xl",
        "",
        "Made by `scripts/command-pages` from xenctl's own tables; a test compares. Options: `xenctl COMMAND --help`,",
        "and [xenctl.md](xenctl.md). The names are those of xl(1), of Xen 4.17 and of today (`tools/xl/xl_cmdtable.c`).",
        "",
        f"Of xl's {len(XL_COMMANDS)} commands {len(acting)} act. The others are refused in a line, exit code {int(Exit.USAGE)}.",
        "",
        "## They act",
        "",
        "| command | options | what of xl's it does not take |",
        "| --- | --- | --- |",
        *(acts(name) for name in acting),
        "",
        "## They are refused",
        "",
        "| command | instead |",
        "| --- | --- |",
        *(f"| `{name}` | {REFUSED[name]} |" for name in XL_COMMANDS if name not in COMMANDS),
        "",
        "## xenctl's own",
        "",
        "| command | |",
        "| --- | --- |",
        *(f"| `{name}` | {summary(function_of(name))} |" for name in COMMANDS if name not in XL_COMMANDS),
    ]
    return "\n".join(lines) + "\n"


def acts(name: str) -> str:
    """A line about a command that there is."""
    options = ["/".join(f"`{one}`" for one in names_of(parameter)) for parameter in options_of(name)]
    return f"| `{name}` | {', '.join(options)} | {MISSING_OPTIONS.get(name, '')} |"


def options_of(name: str) -> list[Parameter]:
    """A command's options, besides those that nearly every one has."""
    common = {"--machine", "--json"}
    return [
        one for one in parameters_of(function_of(name)) if names_of(one) and not common & set(names_of(one))
    ]


def summary(function: Callable[..., object]) -> str:
    """The first sentence of what a command says of itself."""
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")


# --- the manual page ---------------------------------------------------------------------------------


def manual() -> str:
    """xenctl(1), in the macros of man(7)."""
    return "\n".join(manual_lines()) + "\n"


def manual_lines() -> Iterator[str]:
    """Its lines."""
    yield from (
        ".\\\" Made by scripts/command-pages from xenctl's own commands.",
        '.TH XENCTL 1 "" "Xenoscope" "User Commands"',
        ".SH NAME",
        r"xenctl \- run Xen machines out of ordinary processes",
        ".SH SYNOPSIS",
        r".B xenctl",
        r"[\fB\-\-machine\fR \fINAME\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        "A machine is a whole Xen as unprivileged processes: a hypervisor, Dom0 and guests. Who knows",
        ".BR xl (1)",
        "types what he always typed, with xenctl for xl. Results go to standard output,",
        "one line for each mistake to standard error.",
        ".SH COMMANDS",
    )
    for name in COMMANDS:
        yield from about_command(name)
    yield ".SH EXIT STATUS"
    for code, meaning in MEANINGS.items():
        yield from (".TP", f".B {int(code)}", escaped(meaning))
    yield ".SH ENVIRONMENT"
    for variable, meaning in ENVIRONMENT.items():
        yield from (".TP", f".B {variable}", escaped(meaning))
    yield ".SH SEE ALSO"
    yield ".BR xl (1), xl.cfg (5), xenstore-ls (1)"


def about_command(name: str) -> Iterator[str]:
    """A section of the manual."""
    parameters = parameters_of(function_of(name))
    yield f".SS {escaped(name)} {' '.join(map(placeholder, parameters))}".rstrip()
    yield escaped(summary(function_of(name)))
    for one in parameters:
        value = "" if one.kind is bool else f" {metavar(one)}"
        names = ", ".join(f"{given}{value}" for given in names_of(one)) or metavar(one)
        yield from (".TP", rf"\fB{escaped(names)}\fR", escaped(one.declared.help))
    line, what = EXAMPLES[name]
    yield from (".PP", "Example:", ".B", escaped(f"xenctl {line}"), ".br", escaped(f"({what})"))


def placeholder(one: Parameter) -> str:
    """An argument in the heading of its command; an option is not there."""
    return "" if isinstance(one.declared, Option) else rf"\fI{escaped(metavar(one))}\fR"


def metavar(one: Parameter) -> str:
    """What a value is called."""
    return one.declared.metavar or {int: "NUMBER", float: "NUMBER"}.get(one.kind, one.name.upper())


def escaped(text: str) -> str:
    """A text as roff takes it for itself."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "").replace("…", r"\&...")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write both."""
    TABLE.write_text(table())
    MANUAL.write_text(manual())


if __name__ == "__main__":
    main()
