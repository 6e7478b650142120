"""Options that many commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from domains.xenctl.machine import DEFAULT

Machine = Annotated[
    str, typer.Option("--machine", envvar="XENCTL_MACHINE", help="Which machine.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Domain = Annotated[str, typer.Argument(help="Name or id of a domain.", metavar="DOMAIN")]

__all__ = ["DEFAULT", "Domain", "Json", "Machine"]
