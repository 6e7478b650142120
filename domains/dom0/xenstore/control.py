"""CONTROL: what `xenstore-control` asks. For the control domain only; the commands are this store's own
business.

Difference from Xen: no live-update and no log switches; `check` recounts and reports, it repairs nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from domains.dom0.xenstore.errors import InvalidRequest, NoSuchDomain
from domains.dom0.xenstore.quota import COUNTED, DESCRIPTIONS, Quota
from domains.dom0.xenstore.requests import OK, Request, parse_domid, parse_number

Arguments = list[str]


class Command(NamedTuple):
    """One command: handler and what its parameters look like."""

    handler: Callable[[Request, Arguments], bytes]
    parameters: str


def control_check(request: Request, arguments: Arguments) -> bytes:
    _expect(not arguments)
    wrong = request.xenstored.check(in_hand=request.cause)
    return _text(wrong) if wrong else OK


def control_help(_request: Request, arguments: Arguments) -> bytes:
    _expect(not arguments)
    return _text(f"{name:<15} {command.parameters}" for name, command in COMMANDS.items())


def control_print(request: Request, arguments: Arguments) -> bytes:
    _expect(len(arguments) == 1)
    request.xenstored.log(f"control: {arguments[0]}")
    return OK


def control_quota(request: Request, arguments: Arguments) -> bytes:
    """Without arguments the limits; `set <name> <value>`; with a domid what that domain uses."""
    limits = request.xenstored.limits
    if not arguments:
        rows = (f"{quota.value:<17}: {limits[quota]:8} {DESCRIPTIONS[quota]}" for quota in Quota)
        return _text(["Quota settings:", *rows])
    if arguments[0] == "set":
        _expect(len(arguments) == 3 and arguments[1] in {quota.value for quota in Quota})
        value = parse_number(arguments[2].encode())
        _expect(value >= 1)
        limits[Quota(arguments[1])] = value
        return OK
    _expect(len(arguments) == 1)
    return _usage(request, arguments[0])


def _usage(request: Request, domid: str) -> bytes:
    domain = request.xenstored.domains.find(parse_domid(domid.encode()))
    if domain is None:
        raise NoSuchDomain(domid)
    usage = domain.usage
    rows = (f"{quota.value:<17}: {usage[quota]:8} (max {usage.most(quota):8})" for quota in COUNTED)
    return _text([f"Domain {domain.domid}:", *rows])


COMMANDS: Final[Mapping[str, Command]] = {
    "check": Command(control_check, ""),
    "help": Command(control_help, ""),
    "print": Command(control_print, "<string>"),
    "quota": Command(control_quota, "[set <name> <val>|<domid>]"),
}


def do_control(request: Request) -> bytes:
    name, *arguments = [raw.decode("ascii", "backslashreplace") for raw in request.strings()] or [""]
    command = COMMANDS.get(name)
    if command is None:
        raise InvalidRequest(name)
    return command.handler(request, arguments)


def _expect(condition: bool) -> None:
    if not condition:
        raise InvalidRequest("control")


def _text(rows: Iterable[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode() + b"\0"
