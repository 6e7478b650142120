"""The second act: twenty domains from one description, of which each client fetches every page there is for it."""

from __future__ import annotations

import re
import shutil
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, Final

import yaml

from domains.control.operations import List
from scripts.demonstration.stage import REPOSITORY, Machine, require, say

EXAMPLE: Final = REPOSITORY / "docs" / "examples" / "street.yaml"
FETCH: Final = REPOSITORY / "scripts" / "fetch_guests"
CLIENT: Final = "python:domains.guests.webclient:WebClient"


def street(machine: Machine, folder: Path) -> None:
    """Raises Failed."""
    say(
        "6  Now twenty at once, out of one file: servers, clients that fetch all their pages, on two bridges,"
    )
    topology, clients = description(folder)
    began = time.monotonic()
    machine.show_progress("up", topology)
    domains = machine.ask(List())
    print(f"     {len(domains) - 1} domains in {time.monotonic() - began:.1f} s; they stand so:")
    machine.show("ps", topology)
    pages = sum(fetched(machine, name, count) for name, count in clients.items())
    print(f"   {len(clients)} clients have fetched {pages} pages: each every one that there was for it.")
    if said := re.search("hello from .*\n", machine.console_of("visitor", lambda text: "hello from" in text)):
        print(f"   The page that Linux serves: {said[0]}", end="")
    machine.show_progress("down", topology)


def description(folder: Path) -> tuple[Path, dict[str, int]]:
    """The example, as this host can run it; how many pages each client is to fetch."""
    topology = folder / EXAMPLE.name
    shutil.copy(EXAMPLE, topology)
    guests = linux_of_this_host()
    if guests is not None:
        (folder / "guests").symlink_to(guests)
        print("   and Debian's own kernel, every instruction of it emulated.")
    else:
        print(
            "   and one more in the place of a real Linux, which scripts/fetch_guests brings (without root)."
        )
        topology.write_text(without_linux(topology.read_text()))
    domains: dict[str, Any] = yaml.safe_load(topology.read_text())["domains"]
    return topology, {
        name: about["extra"].count("http://")
        for kind, about in domains.items()
        if about["kernel"] == CLIENT
        for name in ([f"{kind}-{i + 1}" for i in range(about["replicas"])] if "replicas" in about else [kind])
    }


def without_linux(text: str) -> str:
    """The same topology with a Python guest where Linux was."""
    topology = yaml.safe_load(text)
    topology["domains"]["linux"] = {**topology["domains"]["office"], "networks": ["north"]}
    visitor = topology["domains"]["visitor"]
    visitor["extra"] = visitor["extra"].replace("hello.txt", "")
    return str(yaml.safe_dump(topology, sort_keys=False))


def linux_of_this_host() -> Path | None:
    """Where scripts/fetch_guests has put what it brings, if it has, and it is what that script would bring now."""
    sys.dont_write_bytecode = True
    loader = SourceFileLoader("fetch_guests", str(FETCH))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    script = module_from_spec(spec)
    loader.exec_module(script)
    cache: Path = script.default_cache()
    try:
        return cache if script.recipe() in (cache / script.STAMP).read_text() else None
    except OSError:
        return None


def fetched(machine: Machine, name: str, count: int) -> int:
    """How many pages a client got, which must be as many as it was told to get."""
    said = machine.console_of(name, lambda text: text.count("200 OK") >= count).count("200 OK")
    require(said == count, f"{name} has fetched {said} pages of {count}")
    return said
