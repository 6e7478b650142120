"""CONTROL: what `xenstore-control` asks. For the control domain only; the commands are this store's own
business.

Difference from Xen: `check` recounts and reports, it repairs nothing; `memreport` goes to the machine's log. MISSING names
what this store does not have.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from domains.dom0.xenstore.errors import InvalidRequest, NoSuchDomain, UnknownOperation
from domains.dom0.xenstore.quota import COUNTED, DESCRIPTIONS, Quota
from domains.dom0.xenstore.requests import OK, Request, parse_domid, parse_number

Arguments = list[str]


class Command(NamedTuple):
    """One command: handler and what its parameters look like."""

    handler: Callable[[Request, Arguments], bytes]
    parameters: str


def control_check(request: Request, arguments: Arguments) -> bytes:
    """Recount everything; what does not hold."""
    _expect(not arguments)
    wrong = request.xenstored.check(in_hand=request.cause)
    return _text(wrong) if wrong else OK


def control_help(_request: Request, arguments: Arguments) -> bytes:
    """The commands and their parameters."""
    _expect(not arguments)
    return _text(f"{name:<15} {command.parameters}" for name, command in COMMANDS.items())


def control_print(request: Request, arguments: Arguments) -> bytes:
    """A line for the machine's log."""
    _expect(len(arguments) == 1)
    request.xenstored.log(f"control: {arguments[0]}")
    return OK


def control_quota(request: Request, arguments: Arguments) -> bytes:
    """Without arguments the limits; `set <name> <value>`; `max [-r]`: the most that any domain has used (and begin
    anew); with a domid what that domain uses.
    """
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
    if arguments[0] == "max":
        _expect(arguments[1:] in ([], ["-r"]))
        return _most(request, reset=len(arguments) == 2)
    _expect(len(arguments) == 1)
    return _usage(request, arguments[0])


def _most(request: Request, *, reset: bool) -> bytes:
    usages = [domain.usage for domain in request.xenstored.domains]
    if reset:
        for usage in usages:
            usage.forget_most()
    rows = (f"{quota.value:<17}: {max(usage.most(quota) for usage in usages):8}" for quota in COUNTED)
    return _text(["Max. used by one domain:", *rows])


def control_memreport(request: Request, arguments: Arguments) -> bytes:
    """What every domain occupies, into the machine's log."""
    _expect(not arguments)
    for domain in request.xenstored.domains:
        used = ", ".join(f"{quota.value} {domain.usage[quota]}" for quota in COUNTED)
        request.xenstored.log(f"memreport: domain {domain.domid}: {used}")
    return OK


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
    "memreport": Command(control_memreport, ""),
    "print": Command(control_print, "<string>"),
    "quota": Command(control_quota, "[set <name> <val>|<domid>|max [-r]]"),
}

MISSING: Final = frozenset({"live-update", "log", "logfile", "quota-soft"})
"""Commands of Xen's xenstored that this store does not have: refused as not implemented, not as unknown."""


def do_control(request: Request) -> bytes:
    """CONTROL: a command and its arguments."""
    name, *arguments = [raw.decode("ascii", "backslashreplace") for raw in request.strings()] or [""]
    command = COMMANDS.get(name)
    if command is None:
        raise UnknownOperation(name) if name in MISSING else InvalidRequest(name)
    return command.handler(request, arguments)


def _expect(condition: bool) -> None:
    if not condition:
        raise InvalidRequest("control")


def _text(rows: Iterable[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode() + b"\0"
