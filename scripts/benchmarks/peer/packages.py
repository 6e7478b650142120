"""Debian's packages of Xen and of a kernel for Dom0, fetched by name and unpacked into the cache; nothing is installed.

Only QEMU itself must be installed, for it stands on half of the system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Final

from scripts.benchmarks.figure import Unavailable
from scripts.benchmarks.x86.linux import GUESTS, QEMU

FETCH: Final = Path(__file__).parents[2] / "fetch_guests"
SYSTEM: Final = "xen-system-amd64"
"""What stands for Debian's Xen of whatever version."""
TOOLS: Final = ("xen-utils-common", "xenstore-utils", "busybox-static")
KERNEL: Final = "linux-image-amd64"
"""The cloud kernel, which the guests have, cannot be Dom0's."""
LIBRARIES: Final = re.compile(r"^(lib(?:xen|yajl|lzma|zstd|uuid)\S*|libc6|libgcc-s1|zlib1g)$", re.MULTILINE)
"""What xl and the daemons are linked with, among all that their package depends on."""
WEAK: Final = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
"""Relations of packages that are no need."""
STAMP: Final = "complete"


@cache
def guests_script() -> ModuleType:
    """scripts/fetch_guests, which knows how packages come, and how an initramfs is made."""
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader = SourceFileLoader("fetch_guests", str(FETCH))
        spec = spec_from_loader(loader.name, loader)
        assert spec is not None
        script = module_from_spec(spec)
        loader.exec_module(script)
    finally:
        sys.dont_write_bytecode = before
    return script


def unpacked() -> Path:
    """The folder with everything unpacked as it would lie below `/`; it is fetched the first time (about 100 MB).
    Unavailable if it cannot be had.
    """
    tree = GUESTS.parent / "peer" / "tree"
    if not (tree / STAMP).exists():
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise Unavailable(f"needs Debian's packages of Xen, but there is no {tool}")
        tree.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
            fetch(tree, Path(folder))
    return tree


def fetch(tree: Path, folder: Path) -> None:
    """Download and unpack in `folder`; the whole goes to `tree` when it is complete."""
    script = guests_script()
    print("peer: fetching Debian's Xen and a kernel for its Dom0 (about 100 MB)", file=sys.stderr)
    try:
        script.tool("apt-get", "download", *names(), cwd=folder)
        for package in sorted(folder.glob("*.deb")):
            script.tool("dpkg-deb", "-x", package, folder / "tree")
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"needs Debian's packages of Xen: {last_line(error.stderr)}") from error
    (folder / "tree" / STAMP).touch()
    shutil.rmtree(tree, ignore_errors=True)
    (folder / "tree").rename(tree)


def names() -> list[str]:
    """All packages by name. Unavailable if the system's lists do not have them."""
    script = guests_script()
    system = re.findall(r"Depends: (xen-\S+)", script.tool("apt-cache", "depends", SYSTEM))
    if not system:
        raise Unavailable(f"needs {SYSTEM}, which is not in the package lists; run apt-get update")
    closure = script.tool("apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in WEAK), *system)
    try:
        kernel = script.newest_kernel(KERNEL)
    except SystemExit as missing:
        raise Unavailable(str(missing)) from missing
    return [*system, *TOOLS, kernel, *libraries(closure)]


def libraries(closure: str) -> list[str]:
    """Those packages with libraries of Xen's tools that `apt-cache depends --recurse` names."""
    return sorted(set(LIBRARIES.findall(closure)))


def qemu() -> str:
    """QEMU's path; root has it installed, with what it depends on. Unavailable if it is not there and cannot come."""
    found = shutil.which(QEMU)
    if found is None and os.getuid() == 0 and shutil.which("apt-get"):
        print("peer: installing qemu-system-x86", file=sys.stderr)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "qemu-system-x86"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        found = shutil.which(QEMU)
        if found is None:
            raise Unavailable(f"needs qemu-system-x86: {last_line(done.stderr)}")
    if found is None:
        raise Unavailable("needs qemu-system-x86 (as root: apt-get install qemu-system-x86)")
    return found


def last_line(text: str) -> str:
    """What a tool said at the end, or that it said nothing."""
    return text.strip().rpartition("\n")[2] or "no reason was given"
