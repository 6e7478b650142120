"""Commands about moving domains to other machines: migrate, key."""

from __future__ import annotations

from typing import Annotated, Final

from domains.control.migration_operations import (
    DEFAULT_ROUNDS,
    MAX_RATE,
    MOST_ROUNDS,
    Migrate,
    Migrated,
    Resume,
    Round,
    is_place,
)
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.folder import folder_of, is_running
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_error, print_json, print_warning, printable
from domains.xenctl.usage import checked

TCP: Final = "tcp://"
MIB: Final = 1 << 20

Where = Annotated[
    str, Argument(help="A machine of yours, or tcp://HOST:PORT of one that listens.", metavar="MACHINE")
]
Key = Annotated[
    str | None, Option("--key", help="Its public key, if known_machines has it not.", metavar="KEY")
]
Live = Annotated[bool, Option("--live", help="As xl's: it is always so.")]
Bandwidth = Annotated[
    float, Option("--bandwidth", min=0, max=MAX_RATE, help="MiB a second at most; 0: as many as go.")
]
Rounds = Annotated[
    int, Option("--max-rounds", min=0, max=MOST_ROUNDS, help="Rounds of pre-copy; 0: suspend it first.")
]
CopyDisks = Annotated[bool, Option("--copy-disks", help="Send the images of its disks along.")]
Paused = Annotated[bool, Option("--paused", "-p", help="Leave it paused over there.")]
Progress = Annotated[bool, Option("--progress", help="A line on standard error for each round.")]
SshCommand = Annotated[
    str | None, Option("-s", help="Refused: machines connect by themselves.", metavar="SSHCOMMAND")
]
ConfigFile = Annotated[str | None, Option("-C", help="Refused: it keeps its description.", metavar="CONFIG")]
Foreground = Annotated[bool, Option("-F", help="As xl's; there is no daemon for each domain here.")]
NoWait = Annotated[bool, Option("-e", help="As xl's; there is no daemon for each domain here.")]
Debug = Annotated[bool, Option("--debug", help="As --progress.")]
SameId = Annotated[bool, Option("-D", help="Refused: ids are a machine's own.")]


def migrate(
    domain: Domain,
    where: Where,
    key: Key = None,
    live: Live = False,
    bandwidth: Bandwidth = 0.0,
    max_rounds: Rounds = DEFAULT_ROUNDS,
    copy_disks: CopyDisks = False,
    paused: Paused = False,
    progress: Progress = False,
    ssh_command: SshCommand = None,
    config: ConfigFile = None,
    foreground: Foreground = False,
    no_wait: NoWait = False,
    debug: Debug = False,
    same_id: SameId = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Move a domain to another machine while it runs."""
    refuse_what_is_not(ssh_command, config, same_id=same_id)
    with machine.connect(name) as client:
        target = target_of(where, key)
        wanted = checked(lambda: Migrate(domain, *target, bandwidth, max_rounds, copy_disks, paused))
        request = client.post(wanted)
        while True:
            reply = client.receive(None)
            if reply is None or reply.id != request:
                continue
            result = reply.result()
            if not reply.more:
                break
            if progress or debug:
                print_error(round_line(result))
    assert isinstance(result, Migrated)
    for warning in result.warnings:
        print_warning(warning)
    if json:
        print_json(encode(result))
    else:
        print(statement(domain, where, result))


def refuse_what_is_not(ssh_command: str | None, config: str | None, *, same_id: bool) -> None:
    """Answer those of xl's options that cannot be heeded. Raises ControlError."""
    if ssh_command is not None:
        why = "-s: no command carries a migration; start the other machine with --listen and name tcp://HOST:PORT"
        raise ControlError(Exit.USAGE, why)
    if config is not None:
        why = "-C: a domain keeps its description when it moves; 'xenctl config-update' changes it for its next restart"
        raise ControlError(Exit.USAGE, why)
    if same_id:
        raise ControlError(Exit.USAGE, "-D: the other machine chooses the domain's id there; its UUID stays")


def target_of(where: str, key: str | None) -> tuple[str | None, str | None, str | None]:
    """The folder of a machine of this user's, or the place and the key of one that listens. Raises ControlError."""
    if not where.startswith(TCP):
        if key is not None:
            raise ControlError(Exit.USAGE, "--key goes with tcp://HOST:PORT; a machine of yours needs none")
        folder = folder_of(where)
        if not is_running(folder):
            raise ControlError(
                Exit.FAILURE,
                f"machine '{where}' is not running; start it with 'xenctl start --machine {where}',"
                " or name one elsewhere as tcp://HOST:PORT",
            )
        return str(folder), None, None
    from domains.carrier.keys import KeyProblem, key_of, known

    place = where.removeprefix(TCP)
    if not is_place(place):
        raise ControlError(Exit.USAGE, f"'{place}' is no HOST:PORT, such as 10.0.0.2:7800 or [fd00::2]:7800")
    try:
        return None, place, (key_of(key) if key is not None else known(place)).hex()
    except KeyProblem as problem:
        raise ControlError(Exit.USAGE, str(problem)) from None


def rate_of(size: int, seconds: float) -> str:
    """How fast that was."""
    return f"{size / MIB / seconds:.1f} MiB/s" if seconds > 0 else "at once"


def round_line(done: Round) -> str:
    """One round, as progress shows it."""
    what = f"round {done.number}" if done.number is not None else "suspended"
    return f"{what}: {done.pages} pages, {done.bytes / MIB:.1f} MiB, {rate_of(done.bytes, done.seconds)}"


def statement(domain: str, where: str, result: Migrated) -> str:
    """What there is to say in the end."""
    rounds = sum(done.number is not None for done in result.rounds)
    size = result.bytes
    return (
        f"domain {printable(domain)} runs on {printable(where)}"
        + (f" with id {result.domid}" if result.domid is not None else "")
        + f": {result.total_seconds:.2f} s in all, stood still for {result.downtime_seconds * 1000:.0f} ms;"
        f" {rounds} {'round' if rounds == 1 else 'rounds'}, {size / MIB:.1f} MiB, {rate_of(size, result.total_seconds)}"
    )


def resume(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Let a suspended domain go on here."""
    with machine.connect(name) as client:
        client.call(Resume(domain))
    if json:
        print_json({"domain": domain, "done": "resume"})


def key(name: Machine = DEFAULT, json: Json = False) -> None:
    """Print a machine's public key, for the authorized_keys and known_machines of others."""
    from domains.carrier.keys import KeyProblem, config_file, pair_of

    folder_of(name)
    try:
        public = pair_of(name).public.hex()
    except KeyProblem as problem:
        raise ControlError(Exit.FAILURE, str(problem)) from None
    if json:
        files = {one: str(config_file(one)) for one in ("authorized_keys", "known_machines")}
        print_json({"machine": name, "key": public, **files})
    else:
        print(public)
