"""xenctl fleet: a topology over several hosts, or one in virtual time. What it needs is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from domains.control.protocol import ControlError, Exit
from domains.xenctl.options import Argument, Json, Option


class Action(NamedTuple):
    """What may, and must, stand behind an action and its file."""

    words: tuple[str, ...] = ()
    optional: int = 0


ACTIONS: Final = {
    "up": Action(),
    "down": Action(),
    "ps": Action(),
    "migrate": Action(("DOMAIN", "HOST"), optional=1),
    "drain": Action(("HOST",)),
    "undrain": Action(("HOST",)),
    "graph": Action(),
    "sim": Action(),
}
PICTURES: Final = ("sim",)
WITHOUT_DATA: Final = ("graph",)


def fleet(
    action: Annotated[str, Argument(help=f"{', '.join(ACTIONS)}.", metavar="ACTION")],
    file: Annotated[Path, Argument(help="The fleet, as YAML; of sim: what is simulated.", metavar="FILE")],
    words: Annotated[
        list[str] | None,
        Argument(help="migrate: DOMAIN and perhaps HOST; drain, undrain: HOST.", metavar="DOMAIN|HOST"),
    ] = None,
    svg: Annotated[Path | None, Option("--svg", metavar="FILE", help="Of sim: draw the result.")] = None,
    png: Annotated[Path | None, Option("--png", metavar="FILE", help="Of sim: draw the result.")] = None,
    json: Json = False,
) -> None:
    """Run a topology over several hosts: up, down, ps, migrate, drain, undrain, graph; sim plays one in virtual time."""
    check(action, words or [], pictures=svg is not None or png is not None, json=json)
    if action == "sim":
        from domains.xenctl.fleet.sim.command import perform

        perform(file, svg, png, json=json)
        return
    from domains.xenctl.fleet import command

    host = words[-1] if words else ""
    performs: dict[str, Callable[[], None]] = {
        "up": lambda: command.up(file, json=json),
        "down": lambda: command.down(file, json=json),
        "ps": lambda: command.ps(file, json=json),
        "migrate": lambda: command.migrate(
            file, (words or [""])[0], host if len(words or ()) > 1 else None, json=json
        ),
        "drain": lambda: command.drain(file, host, json=json),
        "undrain": lambda: command.undrain(file, host, json=json),
        "graph": lambda: command.graph(file),
    }
    performs[action]()


def check(action: str, words: list[str], *, pictures: bool, json: bool) -> None:
    """Raises ControlError for a command line that means nothing."""
    known = ACTIONS.get(action)
    if known is None:
        raise ControlError(Exit.USAGE, f"there is no 'fleet {action}'; there is {', '.join(ACTIONS)}")
    if not len(known.words) - known.optional <= len(words) <= len(known.words):
        wanted = " and ".join(known.words[: len(known.words) - known.optional]) or "nothing more"
        more = f", and perhaps {known.words[-1]}" if known.optional else ""
        raise ControlError(Exit.USAGE, f"'fleet {action}' takes a file, {wanted}{more}")
    if pictures and action not in PICTURES:
        raise ControlError(Exit.USAGE, f"'fleet {action}' draws no --svg or --png; 'fleet sim' does")
    if json and action in WITHOUT_DATA:
        raise ControlError(Exit.USAGE, f"'fleet {action}' prints a drawing, and no JSON")
