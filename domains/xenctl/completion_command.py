"""The command by which shells complete xenctl's command lines: names of commands and options, and of the domains that there are.

Its script asks it at each Tab, with the words of the line so far; where it answers nothing the shell offers files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.options import DEFAULT, Argument, Option
from domains.xenctl.output import print_json
from domains.xenctl.place import lives, place_of
from domains.xenctl.quick import domains_of
from domains.xenctl.reading import Parameter, names_of, parameters_of

SCRIPTS: Final = {
    "bash": """\
_xenctl() {
    local IFS=$'\\n' words
    printf -v words '%s\\n' "${COMP_WORDS[@]:1:COMP_CWORD}"
    COMPREPLY=($(xenctl completion bash --words "${words%$'\\n'}" 2>/dev/null))
}
complete -o default -F _xenctl xenctl
""",
    "zsh": """\
#compdef xenctl
_xenctl() {
    local -a found
    found=("${(@f)$(xenctl completion zsh --words "${(pj:\\n:)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
compdef _xenctl xenctl
""",
    "fish": """\
function __xenctl
    xenctl completion fish --words (string join \\n -- (commandline -opc)[2..] (commandline -ct) | string collect -a) 2>/dev/null
end
complete -c xenctl -a '(__xenctl)'
""",
}
"""What each shell is to read."""


def completion(
    shell: Annotated[str, Argument(help="bash, zsh or fish.", metavar="SHELL")],
    words: Annotated[
        str | None, Option("--words", help="Complete the last of these words, one a line.", metavar="WORDS")
    ] = None,
    json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print the script by which a shell completes xenctl's command lines."""
    if shell not in SCRIPTS:
        raise ControlError(Exit.USAGE, f"there is no completion for '{shell}': name bash, zsh or fish")
    if words is None:
        print_json({"script": SCRIPTS[shell]}) if json else print(SCRIPTS[shell], end="")
        return
    found = sorted(set(candidates(words.split("\n"))))
    print_json(found) if json else print("".join(f"{one}\n" for one in found), end="")


def candidates(words: Sequence[str]) -> Iterator[str]:
    """What the last word may become."""
    *before, current = words
    yield from (one for one in possible(before, current) if one.startswith(current) and one.isprintable())


def possible(before: Sequence[str], current: str) -> Iterator[str]:
    """What may stand after these words, for one that begins as `current` does."""
    if not before:
        yield from COMMANDS
        return
    if before[0] not in COMMANDS:
        return
    parameters = parameters_of(function_of(before[0]))
    options = {name: one for one in parameters for name in names_of(one)}
    wanting = options.get(before[-1])
    if wanting is not None and wanting.kind is not bool:
        yield from values_of(wanting, before)
    elif current.startswith("-"):
        yield from (*options, "--help")
    else:
        place = placed(parameters, options, before[1:])
        if place is not None:
            yield from values_of(place, before)


def placed(
    parameters: Sequence[Parameter], options: dict[str, Parameter], words: Sequence[str]
) -> Parameter | None:
    """The argument whose turn it is after these words; None: there is none left."""
    arguments = [one for one in parameters if not isinstance(one.declared, Option)]
    given, skip = 0, False
    for word in words:
        if skip or word.startswith("-"):
            taken = options.get(word) if not skip else None
            skip = taken is not None and taken.kind is not bool
        else:
            given += 1
    if given < len(arguments):
        return arguments[given]
    return arguments[-1] if arguments and arguments[-1].many else None


def values_of(one: Parameter, before: Sequence[str]) -> Iterator[str]:
    """The values of a parameter that are known: domains and machines."""
    if one.name == "machine" or "--machine" in names_of(one):
        yield from machines()
    elif "DOMAIN" in (one.declared.metavar or one.name.upper()):
        named = [word for option, word in pairwise(before) if option == "--machine"]
        machine = named[-1] if named else os.environ.get("XENCTL_MACHINE") or DEFAULT
        for about in domains_of(machine) or []:
            if isinstance(name := about.get("name"), str):
                yield name


def machines() -> Iterator[str]:
    """The names of the machines that run."""
    folder = Path(place_of(DEFAULT)).parent
    try:
        yield from (entry.name for entry in folder.iterdir() if lives(str(entry)))
    except OSError:
        return
