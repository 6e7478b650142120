"""How a fleet's head begins: a process of its own, in the background, as a machine's supervisor."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from domains.control.protocol import ControlError, Exit
from domains.xenctl.fleet.file import Loaded
from domains.xenctl.fleet.head import HeadProcess
from domains.xenctl.fleet.hosts import Hosts
from domains.xenctl.fleet.journal import note
from domains.xenctl.fleet.place import LOG, folder_of_fleet, take_fleet
from domains.xenctl.fleet.processes import Processes
from domains.xenctl.folder import private_files
from domains.xenctl.launch import Born, detach


def begin(loaded: Loaded) -> Born:
    """Start the head of a fleet, whose log and end the caller gets. Raises ControlError."""
    check_engine(loaded)
    lock = take_fleet(loaded.name, loaded.path)
    folder = folder_of_fleet(loaded.name)
    try:
        with private_files():
            log = os.open(
                folder / LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        return Born(log, detach(lambda: be_head(loaded, folder, log)))
    finally:
        os.close(lock)


def be_head(loaded: Loaded, folder: Path, log: int) -> None:
    """The head's whole life. It has inherited the lock, and holds it until it ends."""
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, fd)
    os.chdir("/")
    try:
        HeadProcess(loaded, folder, hosts_of(loaded, folder)).run()
    except ControlError as error:
        note(error.message)
    except OSError as error:
        note(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another fleet is there
            folder.parent.rmdir()


def check_engine(loaded: Loaded) -> None:
    """Raises ControlError if what is to hold the hosts is not installed."""
    if loaded.fleet.engine == "ray" and find_spec("ray") is None:
        raise ControlError(Exit.FAILURE, "this fleet wants Ray: pip install 'xenoscope[fleet]'")


def hosts_of(loaded: Loaded, folder: Path) -> Hosts:
    """What holds the fleet's hosts."""
    if loaded.fleet.engine == "ray":
        from domains.xenctl.fleet.on_ray import RayHosts  # here, and not above: Ray may be missing

        return RayHosts(
            loaded.fleet.ray_address,
            {name: host.address is not None for name, host in loaded.fleet.hosts.items()},
        )
    return Processes(folder, {name: host.through for name, host in loaded.fleet.hosts.items()})
