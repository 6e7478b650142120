"""Xen's own frames are every process's to read and nobody's to write, whatever a process does with the descriptor (F12, D1.4).

Negative control: without `seal_read_only` (create_memfd's ordinary seals alone) re-opening the descriptor and mapping it writable
both succeed, and this test fails.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from tests.machines import Machine

ATTACK = """
import mmap
import os

from hypervisor.wire.messages import M2P_MEMFD


class Probe(Guest):
    def main(self):
        fd = self.kernel.cpu.gate._memfds[M2P_MEMFD]
        for name, attempt in (
            ("map", lambda: mmap.mmap(fd, 4096)),
            ("write", lambda: os.pwrite(fd, b"x", 4096)),
            ("reopen and map", lambda: mmap.mmap(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), 4096)),
            ("truncate", lambda: os.ftruncate(fd, 4096)),
        ):
            try:
                attempt()
                print(name, "worked")
            except OSError as error:
                print(name, "refused")
        print("done")
"""


def test_no_domain_process_can_write_the_frames_of_xen(clean_machine: Machine, tmp_path: Path) -> None:
    console = clean_machine.guest(tmp_path, ATTACK, "-c").stdout
    assert "done" in console
    assert console.count("refused") == 4
    assert "worked" not in console


def test_sealing_leaves_the_mapping_that_was_there_before(tmp_path: Path) -> None:
    from hypervisor.machine.memory import create_memfd, seal_read_only

    fd = create_memfd("frames", 1, seal=False)
    kept = mmap.mmap(fd, 4096)
    seal_read_only(fd)
    kept[0] = 7
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    assert mmap.mmap(fd, 4096, prot=mmap.PROT_READ)[0] == 7
    os.close(fd)
