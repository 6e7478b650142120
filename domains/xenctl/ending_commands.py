"""Commands that ask domains to end: shutdown, reboot."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

from domains.control.client import ControlClient
from domains.control.operations import List, Reboot, Shutdown
from domains.control.protocol import ControlError, Exit
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_error, print_json

Domain = Annotated[str, Argument(help="Name or id of a domain.", metavar="[DOMAIN]")]
All = Annotated[bool, Option("--all", "-a", help="Ask all domains but Dom0.")]
Wait = Annotated[bool, Option("--wait", "-w", help="Wait until they have ended.")]
Fallback = Annotated[bool, Option("-F", help="As xl's; domains here need no fallback to ACPI.")]
Timeout = Annotated[float, Option("--timeout", min=0, help="Seconds to wait; 0: for ever.")]
WISHES: Final = {Shutdown: "poweroff", Reboot: "reboot"}
"""How a domain ends that does as it was asked."""


def shutdown(
    domain: Domain = "",
    everyone: All = False,
    wait: Wait = False,
    fallback: Fallback = False,
    timeout: Timeout = 0.0,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Ask a domain, or all, to power off."""
    ask(name, domain, everyone, Shutdown(domain, wait, timeout), json=json)


def reboot(
    domain: Domain = "",
    everyone: All = False,
    wait: Wait = False,
    fallback: Fallback = False,
    timeout: Timeout = 0.0,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Ask a domain, or all, to reboot."""
    ask(name, domain, everyone, Reboot(domain, wait, timeout), json=json)


def ask(
    name: str,
    domain: str,
    everyone: bool,
    wanted: Shutdown | Reboot,
    *,
    json: bool,
) -> None:
    """A request that domains may take their time for, or not heed at all. Raises ControlError for a single one; of several each
    failure is told by itself, and the last line says how many there were.
    """
    if bool(domain) == everyone:
        raise ControlError(Exit.USAGE, "name a domain, or give --all for all of them; not both")
    with machine.connect(name) as client:
        if domain:
            reason = client.call(wanted, timeout=math.inf).reason
            if json:
                print_json({"domain": domain, "reason": reason})
            judge(wanted, domain, reason)
            return
        asked = {client.post(wanted.replaced(domain=one)): one for one in there(client)}
        results, failures = answers(client, asked, wanted)
    if json:
        print_json(results)
    if failures:
        raise ControlError(
            failures[0], f"{len(failures)} of {len(asked)} domains did not do as they were asked"
        )


def there(client: ControlClient) -> list[str]:
    """The names of the domains that run, in the order of their ids."""
    domains = client.call(List(brief=True))
    return [
        one.name or str(one.domid)
        for one in domains
        if one.domid and one.shutdown is None and not one.state.endswith("d")
    ]


def answers(
    client: ControlClient, asked: dict[int, str], wanted: Shutdown | Reboot
) -> tuple[list[dict[str, Any]], list[Exit]]:
    """How each domain has answered, in the order of their ids, and the failures, which are told."""
    reasons: dict[str, str | None] = {}
    failures = []
    while len(reasons) < len(asked):
        reply = client.receive(None)
        if reply is None or reply.id not in asked:
            continue
        domain = asked[reply.id]
        reasons[domain] = None
        try:
            reasons[domain] = reply.result().reason
            judge(wanted, domain, reasons[domain])
        except ControlError as error:
            failures.append(error.code)
            print_error(error.message)
    return [{"domain": domain, "reason": reasons[domain]} for domain in asked.values()], failures


def judge(wanted: Shutdown | Reboot, domain: str, reason: str | None) -> None:
    """Raises ControlError for an end that was not asked for."""
    if reason == "crash":
        raise ControlError(Exit.CRASHED, f"domain '{domain}' crashed; 'xenctl dmesg' says why")
    if wanted.wait and reason != WISHES[type(wanted)]:
        how = f"ended otherwise ({reason})" if reason is not None else "was destroyed"
        raise ControlError(Exit.FAILURE, f"domain '{domain}' {how}")
