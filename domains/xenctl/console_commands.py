"""The command that shows a domain's console."""

from __future__ import annotations

import typer

from domains.control.operations import Console
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Domain, Machine


def console(domain: Domain, name: Machine = DEFAULT) -> None:
    """Follow a domain's console from its first byte; Ctrl-] leaves."""
    from domains.xenctl.attach import follow

    with machine.connect(name) as client:
        follow(client, client.post(Console(domain)))


def register(app: typer.Typer) -> None:
    """Adds this command to xenctl."""
    app.command()(console)
