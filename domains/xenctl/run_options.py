"""What `xenctl run` takes, each with its help, and what of it decides how a run is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from domains.xenctl.options import Argument, Option

DEFAULT_MEMORY: Final = 128

Kernel = Annotated[
    str,
    Argument(
        help="An ELF file, a bzImage, or python:module:Class; with --seed a topology too.", metavar="KERNEL"
    ),
]
Cmdline = Annotated[str, Option(help="The guest's command line.")]
Ramdisk = Annotated[Path | None, Option(help="Its initial ramdisk.")]
Kind = Annotated[str, Option("--type", help="pv or pvh, as in xl.cfg.")]
Hap = Annotated[int, Option(min=0, max=1, help="Of a pvh guest; 0: shadow paging.")]
Memory = Annotated[int, Option(min=1, max=60 * 1024, help="Its memory in MiB.")]
Vcpus = Annotated[int, Option(help="Its vCPUs; more than 1: of a PV guest of machine code.")]
Disks = Annotated[list[str] | None, Option(help="A disk, as in xl.cfg; repeatable.")]
Vifs = Annotated[list[str] | None, Option(help="A network interface, as in xl.cfg; repeatable.")]
Expect = Annotated[
    str | None, Option(help="End the run when this text is on the console; without it the run fails.")
]
ExitOn = Annotated[
    list[str] | None, Option(help="End the run well when this text is on the console; repeatable.")
]
FailOn = Annotated[
    list[str] | None, Option(help="End the run as failed when this text is on the console; repeatable.")
]
ExitCode = Annotated[bool, Option("--exit-code", help="Exit with the guest's own code, where it tells one.")]
Timeout = Annotated[float, Option(min=0, help="Seconds the run may take; 0: any time.")]
Restart = Annotated[bool, Option("--restart", help="Start it again when it reboots.")]
Seconds = Annotated[
    float, Option("--for", min=0, help="With --seed: seconds of the machine's time; 0: to the end.")
]
Junit = Annotated[Path | None, Option(help="Write the result to this file as JUnit's XML.", metavar="FILE")]
