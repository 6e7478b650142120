"""What a command's parameters say of themselves, in `Annotated` beside their type, and those that many commands share.

They are declared here once for the two that read them: `reading.py`, and typer in `explaining.py`.
"""

from __future__ import annotations

from typing import Annotated, Final

LARGEST: Final = 1e9
"""No number with a fraction is larger: as seconds that is more than thirty years, and the host can wait for so long."""
DEFAULT: Final = "default"
"""The name of the machine that is meant where none is named."""


class Argument:
    """What stands in its place on the command line; `list[str]`: all that are left. It must be there unless it has a default.

    `min`, `max`: the least and the largest number. `metavar`: what the help calls it.
    """

    def __init__(
        self, help: str, *, metavar: str | None = None, min: float | None = None, max: float | None = None
    ) -> None:
        self.help = help
        self.metavar = metavar
        self.min = min
        self.max = max


class Option(Argument):
    """What is given by a name, in any place: `--name VALUE`; a `bool` is given by the name alone, a `list[…]` repeatedly.

    `names`: none means the parameter's own. `envvar`: the environment's variable that stands in for it.
    """

    def __init__(
        self,
        *names: str,
        help: str,
        metavar: str | None = None,
        min: float | None = None,
        max: float | None = None,
        envvar: str | None = None,
    ) -> None:
        super().__init__(help, metavar=metavar, min=min, max=max)
        self.names = names
        self.envvar = envvar


def finite(word: str) -> float:
    """A number with a fraction. Raises ValueError for another text, and for one that nothing here can be: nan, inf, 1e300."""
    number = float(word)
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(f"{word} is no number that can be meant")
    return number


Machine = Annotated[str, Option("--machine", envvar="XENCTL_MACHINE", help="Which machine.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Domain = Annotated[str, Argument(help="Name or id of a domain.", metavar="DOMAIN")]
