"""What to say of a command line that cannot be used: what was meant perhaps, what there is instead of a command of
xl's, and whose help to read.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

from domains.xenctl.output import printable

CLOSE: Final = 0.75
"""How alike two names must be for one to be taken for the other; `vcpu-set` and `pause` are not."""
NO_SUCH_COMMAND: Final = re.compile(r"No such command '(.*?)'\.?( |$)", re.DOTALL)

NOT_YET: Final = "xl has it, Xenoscope does not yet"
STORE_TOOLS: Final = "use Xen's own xenstore tools, with XENSTORED_PATH as 'xenctl info' shows it"
INSTEAD: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("save", "restore", "migrate", "migrate-receive", "remus", "dump-core", "mem-set", "mem-max"), NOT_YET
    ),
    **dict.fromkeys(("vcpu-set", "vcpu-pin", "rename", "trigger", "sysrq", "config-update"), NOT_YET),
    **dict.fromkeys(("block-attach", "block-detach", "network-attach", "network-detach"), NOT_YET),
    **dict.fromkeys(("cd-insert", "cd-eject", "sched-credit", "sched-credit2", "sched-rtds"), NOT_YET),
    **dict.fromkeys(("xenstore", "xenstore-read", "xenstore-write", "xenstore-list"), STORE_TOOLS),
    **dict.fromkeys(("xenstore-rm", "xenstore-watch", "xenstore-chmod"), STORE_TOOLS),
    **dict.fromkeys(("vcpu-list", "top", "uptime"), "use 'xenctl list --long'"),
    **dict.fromkeys(("block-list", "network-list"), "use 'xenctl list --long', or 'xenctl xenstore-ls'"),
    **dict.fromkeys(("vncviewer", "pci-attach", "pci-list", "usbdev-attach"), "there is no such device"),
    "reset": "use 'xenctl destroy' and 'xenctl create'",
    "ls": "use 'xenctl list'",
    "log": "use 'xenctl dmesg'",
    "claims": "use 'xenctl info'",
}
"""Commands of xl's, and some that people try, with what to do here."""


def about_usage(error: Any, group: Any) -> str:
    """One line about an error of the command line's parser: what is wrong, and where to read what is right. `group`
    holds all commands.
    """
    message = printable(" ".join(error.format_message().split()).rstrip("."))
    if (found := NO_SUCH_COMMAND.match(message)) is not None:
        return about_command(found.group(1), list(group.commands))
    context = error.ctx
    command = context.command_path if context is not None else "xenctl"
    return f"{message}; see '{command} --help'"


def about_command(name: str, commands: list[str]) -> str:
    """One line about a command that there is not."""
    if name in INSTEAD:
        return f"there is no command '{name}': {INSTEAD[name]}"
    close = difflib.get_close_matches(name, commands, n=1, cutoff=CLOSE)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"there is no command '{name}'{meant}; see 'xenctl --help'"
