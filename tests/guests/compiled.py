"""Guests from C: how a file beside this one (or another's) becomes a PV image that starts at `start.S`."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
COMMON: Final = ("-Wall", "-Werror", "-Wno-unused-function")
FLAGS: Final = (
    *("-O1", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-mno-sse"),
    *("-nostdlib", "-static", "-Wl,--build-id=none,--no-warn-rwx-segments"),
    "-D__XEN_INTERFACE_VERSION__=0x00040d00",
)
NEEDS: Final = "needs gcc and libxen-dev"


def can_compile() -> bool:
    return shutil.which("gcc") is not None and Path("/usr/include/xen/xen.h").exists()


def compile_guest(source: Path, image: Path, bits: int = 64) -> Path:
    """Make `image` of one guest's source, which may include `guest.h`."""
    script, start = f"-Wl,-T,{HERE / 'guest.lds'}", "start.S" if bits == 64 else "start32.S"
    width = ("-mno-red-zone",) if bits == 64 else ("-m32", "-mregparm=0")
    gcc(*FLAGS, *width, "-I", HERE, script, "-o", image, HERE / start, source)
    return image


def compile_pvh_guest(image: Path, *sources: Path) -> Path:
    """Make a PVH `image` of files the first of which includes `pvh.h`."""
    gcc(*FLAGS, "-I", HERE, f"-Wl,-T,{HERE / 'guest.lds'}", "-o", image, *sources)
    return image


def gcc(*words: str | Path) -> None:
    subprocess.run(["gcc", *COMMON, *words], check=True)
