"""xenctl run: one guest on a machine of its own, from its first instruction to its end, for tests and CI.

The guest's console goes to standard output as it comes. What becomes of the guest is the exit code:

    0   it powered off, or printed what was expected, or what ends the run well
    1   it could not be made, ended in another way, without printing what was expected, with a code of its own that is not 0,
        or printed what it should not
    4   it took too long
    5   it crashed: what the hypervisor has logged of it goes to standard error

With --exit-code a guest that ended and told a code (domains/control/exit_code.py) gives the command its own. With --seed the
machine repeats itself (docs/determinism.md); the guest runs to its end, and texts are looked for
afterwards. However the command ends, by a signal too, nothing of the machine is left.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from domains.control.description import DomainConfig
from domains.control.protocol import ControlError, Exit
from domains.xenctl import run_options as options
from domains.xenctl.guest_run import GuestRun, Wanted, own_code
from domains.xenctl.junit import MAX_TEXT, Report, reported
from domains.xenctl.options import Json
from domains.xenctl.output import print_json, printable
from domains.xenctl.run_options import DEFAULT_MEMORY
from domains.xenctl.seeded import Seed, repeatable
from hypervisor.machine.config import MACHINE_OVERHEAD

NAME: Final = "guest"
"""The domain's name in its machine."""
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def run(
    kernel: options.Kernel,
    cmdline: options.Cmdline = "",
    ramdisk: options.Ramdisk = None,
    kind: options.Kind = "pv",
    hap: options.Hap = 1,
    memory: options.Memory = DEFAULT_MEMORY,
    vcpus: options.Vcpus = 1,
    disk: options.Disks = None,
    vif: options.Vifs = None,
    expect: options.Expect = None,
    exit_on: options.ExitOn = None,
    fail_on: options.FailOn = None,
    exit_code: options.ExitCode = False,
    timeout: options.Timeout = 0.0,
    restart: options.Restart = False,
    seed: Seed = None,
    seconds: options.Seconds = 0.0,
    junit: options.Junit = None,
    json: Json = False,
) -> int:
    """Run one guest to its end on a machine of its own, and show its console."""
    repeatable(seed, seconds)
    started = time.monotonic()
    leave_by_signals()
    texts = sought(expect, exit_on, fail_on)
    wanted = Wanted(texts[0], restart, started + timeout if timeout else None, *texts[1:])
    settings: dict[str, Any] = {"name": NAME, "kernel": kernel, "type": kind, "hap": hap, "memory": memory}
    on_reboot = "restart" if seed is not None and restart else "destroy"
    settings |= {"vcpus": vcpus, "cmdline": cmdline, "disk": disk or [], "vif": vif or []}
    settings |= {"on_reboot": on_reboot} | ({} if ramdisk is None else {"ramdisk": str(ramdisk)})
    with reported(junit, Path(kernel).name) as report:
        if seed is None:
            own = follow(checked(settings), wanted, report, json=json, exit_code=exit_code)
        else:
            from domains.xenctl.seeded_command import TOPOLOGIES, run_seeded, run_topology

            if kernel.endswith(TOPOLOGIES):
                run_topology(Path(kernel), seed, seconds, wanted, report, json=json)
                return Exit.OK
            own = run_seeded(
                [checked(settings)], seed, seconds, wanted, report, json=json, exit_code=exit_code
            )
    return own


def sought(
    expect: str | None, exit_on: Sequence[str] | None, fail_on: Sequence[str] | None
) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """The options' texts as a console has them. Raises ControlError for an empty one: a script's variable that is not set."""
    options = {
        "--expect": [] if expect is None else [expect],
        "--exit-on": exit_on or (),
        "--fail-on": fail_on or (),
    }
    for option, texts in options.items():
        if "" in texts:
            raise ControlError(Exit.USAGE, f"{option}: the text is empty; name one, or leave the option out")
    first, *others = (
        tuple(text.encode(errors="surrogateescape") for text in texts) for texts in options.values()
    )
    return b"".join(first), others[0], others[1]


def follow(config: DomainConfig, wanted: Wanted, report: Report, *, json: bool, exit_code: bool) -> int:
    """Run the guest on a machine that is just large enough for it, and report; the exit code. `exit_code`: it is the guest's own,
    if it has told one. Raises ControlError unless the guest ended as wanted.
    """
    started = time.monotonic()
    guest = GuestRun(config, wanted, show=not json)
    try:
        guest.run(config.memory + config.shadow_mib + MACHINE_OVERHEAD)
        error = None
    except ControlError as failure:
        error = failure
    if json:
        print_json(guest.about(error) | {"seconds": round(time.monotonic() - started, 3)})
    else:
        print_log(guest.log)
    report.add(report.name, error, guest.ended, guest.console.text(MAX_TEXT), guest.log)
    return own_code(guest.exit_code if exit_code else None, error)


def checked(settings: dict[str, Any]) -> DomainConfig:
    """The description of the guest, free of mistakes. Raises ControlError."""
    from domains.dom0.toolstack.xlcfg.load import config_of
    from domains.dom0.toolstack.xlcfg.syntax import ConfigError

    try:
        str(settings).encode()
        return config_of(settings, "command line", working_directory())
    except UnicodeEncodeError:
        raise ControlError(Exit.USAGE, "arguments must be UTF-8") from None
    except ConfigError as error:
        raise ControlError(Exit.USAGE, "\n".join(one.message for one in error.each)) from None


def working_directory() -> Path:
    """Where relative paths start. Raises ControlError if somebody has removed it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ControlError(
            Exit.FAILURE, "the working directory has been removed; change to another"
        ) from None


def print_log(log: list[str]) -> None:
    """What the hypervisor says of a crash."""
    for line in log:
        print(printable(line), file=sys.stderr)


def leave_by_signals() -> None:
    """Have the signals that end the command take everything away."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def leave(number: int, _frame: object) -> NoReturn:
    """A signal that ends the command: by way of everything that is to be taken away."""
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
