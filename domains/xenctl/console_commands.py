"""The command that shows a domain's console."""

from __future__ import annotations

from typing import Annotated

from domains.control.operations import Console
from domains.control.protocol import ControlError, Exit
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Domain, Machine, Option


def console(
    domain: Domain,
    kind: Annotated[str, Option("-t", help="pv; there is no other.", metavar="TYPE")] = "pv",
    number: Annotated[int, Option("-n", min=0, help="0; a domain has one console.", metavar="NUMBER")] = 0,
    escape: Annotated[str, Option("-e", help="The key that leaves: ^X for Ctrl-X.", metavar="KEY")] = "^]",
    name: Machine = DEFAULT,
) -> None:
    """Follow a domain's console from its first byte; Ctrl-] leaves."""
    from domains.xenctl.attach import follow

    if kind != "pv":
        there = (
            f"there is no {kind} console"
            if kind in ("serial", "vuart")
            else f"'{kind}' is no type of console"
        )
        raise ControlError(Exit.USAGE, f"{there}: a domain here has a PV console, -t pv")
    if number:
        raise ControlError(Exit.USAGE, f"there is no console {number}: a domain here has one, -n 0")
    key = key_of(escape)
    with machine.connect(name) as client:
        follow(client, client.post(Console(domain)), key)


def key_of(text: str) -> bytes:
    """The byte that a key sends: of a single character its own, of `^X` that of Ctrl-X (Xen tools/console/client/main.c)."""
    if len(text) == 1 and text.isascii():
        return text.encode()
    if len(text) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return bytes((ord(text[1].upper()) & 0x1F,))
    raise ControlError(Exit.USAGE, f"'{text}' is no key: write one character, or ^X for Ctrl-X")
