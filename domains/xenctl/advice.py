"""What to say of a command line that cannot be used: what was meant perhaps, what there is instead of a command of
xl's, and whose help to read.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

from domains.xenctl.output import printable
from domains.xenctl.xl_table import OTHERS, REFUSED

CLOSE: Final = 0.75
"""How alike two names must be for one to be taken for the other; `vcpu-set` and `pause` are not."""
NO_SUCH_COMMAND: Final = re.compile(r"No such command '(.*?)'\.?( |$)", re.DOTALL)


def about_usage(error: Any, commands: list[str]) -> str:
    """One line about an error of the command line's parser: what is wrong, and where to read what is right. `commands`:
    the names of all.
    """
    message = printable(" ".join(error.format_message().split()).rstrip("."))
    if (found := NO_SUCH_COMMAND.match(message)) is not None:
        return about_command(found.group(1), commands)
    context = error.ctx
    command = context.command_path if context is not None else "xenctl"
    return f"{message}; see '{command} --help'"


def about_command(name: str, commands: list[str]) -> str:
    """One line about a command that there is not."""
    instead = REFUSED.get(name) or OTHERS.get(name)
    if instead is not None:
        return f"there is no command '{name}': {instead}"
    close = difflib.get_close_matches(name, commands, n=1, cutoff=CLOSE)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"there is no command '{name}'{meant}; see 'xenctl --help'"
