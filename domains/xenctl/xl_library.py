"""The library that stands in for Xen's own under Debian's xl (docs/xl.md): built by gcc from `xen_client/` once, and kept.

It lies in the cache folder (`$XENOSCOPE_CACHE`, else ~/.cache/xenoscope) beside what scripts/fetch_xl brings, under a name made
of its sources, so that changed sources are built anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from domains.control.protocol import ControlError, Exit

SOURCES: Final = Path(__file__).parent / "xen_client"
FLAGS: Final = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra")
PACKAGES: Final = "usr"
"""Where scripts/fetch_xl unpacks, in the folder."""


def xl_folder() -> Path:
    """The folder of the library and of Debian's programs, which may not exist."""
    root = os.environ.get("XENOSCOPE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "xenoscope") / "xl"


def xl_library() -> Path:
    """The library, built if it is not there. ControlError: there is no compiler, or no place for it."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    library = xl_folder() / f"libxenoscope-{name}.so"
    if library.exists():
        return library
    if shutil.which("gcc") is None:
        raise ControlError(Exit.FAILURE, "xl needs a library of ours that gcc builds: install gcc")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / library.name
        units = [str(source) for source in sources if source.suffix == ".c"]
        done = subprocess.run(
            ["gcc", *FLAGS, "-o", made, *units], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise ControlError(Exit.FAILURE, f"gcc cannot build the library that xl needs: {reason}")
        made.replace(library)
    return library
