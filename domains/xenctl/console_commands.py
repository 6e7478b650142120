"""The command that shows a domain's console."""

from __future__ import annotations

import typer

from domains.control.protocol import Op
from domains.xenctl import machine
from domains.xenctl.attach import follow
from domains.xenctl.options import DEFAULT, Domain, Machine


def console(domain: Domain, name: Machine = DEFAULT) -> None:
    """Follow a domain's console from its first byte; Ctrl-] leaves."""
    with machine.connect(name) as client:
        follow(client, client.post(Op.console, domain=domain))


def register(app: typer.Typer) -> None:
    app.command()(console)
