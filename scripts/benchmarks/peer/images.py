"""What QEMU boots: Xen, Dom0's kernel, and an initramfs of Debian's toolstack, our agent, and the guests to be measured."""

from __future__ import annotations

import gzip
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.figure import Unavailable
from scripts.benchmarks.peer.packages import guests_script, unpacked
from scripts.benchmarks.x86.linux import GUESTS
from tests.guests.compiled import NEEDS, can_compile, compile_guest, gcc

HERE: Final = Path(__file__).parent
APPLETS: Final = "sh [ brctl cat dmesg grep insmod ip ls mkdir mount ps rm sleep stat usleep"
MODULES: Final = (
    *("xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd", "xenfs", "xen-blkback", "xen-netback"),
    *("bridge", "virtio_pci", "virtio_blk"),
)
PROGRAMS: Final = ("xl", "oxenstored", "xen-init-dom0", "xenconsoled", "xenconsole")
FOLDERS: Final = ("dev", "lib64", "mnt", "proc", "run", "sys", "tmp", "var/lib", "var/lock", "var/log")
SHARED: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER: Final = "lib64/ld-linux-x86-64.so.2"
SYMBOLIC: Final = stat.S_IFLNK | 0o777


@dataclass(frozen=True)
class Images:
    """Files that QEMU boots."""

    xen: Path
    kernel: Path
    initramfs: Path


def make_images(folder: Path, guests: dict[str, bytes]) -> Images:
    """Lay Xen, Dom0's kernel and its initramfs into `folder`; `guests` are files that it finds in /guests.
    Unavailable without the packages or a compiler.
    """
    if not can_compile():
        raise Unavailable(NEEDS)
    tree = unpacked()
    images = Images(folder / "xen", folder / "vmlinuz", folder / "dom0.img")
    images.xen.write_bytes(gzip.decompress(next((tree / "boot").glob("xen-*-amd64.gz")).read_bytes()))
    images.kernel.write_bytes(next((tree / "boot").glob("vmlinuz-*")).read_bytes())
    gcc("-O2", "-static", "-o", folder / "agent", HERE / "agent.c")
    archive = Tree()
    for name in FOLDERS:
        archive.folder(name)
    archive.device("dev/console", 5, 1)
    archive.file("init", (HERE / "dom0_init").read_bytes())
    archive.file("agent", (folder / "agent").read_bytes())
    archive.busybox(tree, APPLETS)
    archive.modules(tree, MODULES)
    add_toolstack(archive, tree)
    for name, data in guests.items():
        archive.file(f"guests/{name}", data)
    images.initramfs.write_bytes(archive.finish())
    return images


def measuring_initramfs(folder: Path) -> bytes:
    """The guests' initramfs with another /init, measure.c, compiled in `folder`: Linux unpacks one archive after the other.
    Unavailable as make_images is, and without scripts/fetch_guests.
    """
    if not can_compile():
        raise Unavailable(NEEDS)
    if not (GUESTS / "initramfs.img").exists():
        raise Unavailable("needs scripts/fetch_guests")
    gcc("-O2", "-static", "-o", folder / "measure", HERE / "measure.c")
    archive = Tree()
    archive.file("init", (folder / "measure").read_bytes())
    return (GUESTS / "initramfs.img").read_bytes() + archive.finish()


@contextmanager
def tiny() -> Iterator[Path]:
    """The kernel tiny.c. Unavailable without a compiler or Xen's headers."""
    if not can_compile():
        raise Unavailable(NEEDS)
    with tempfile.TemporaryDirectory(prefix="xt-") as folder:
        yield compile_guest(HERE / "tiny.c", Path(folder) / "tiny")


def add_toolstack(archive: Tree, tree: Path) -> None:
    """Xen's programs and what they need, where they look for it."""
    programs = next(tree.glob("usr/lib/xen-*/bin"))
    for name in PROGRAMS:
        archive.file(f"{programs.relative_to(tree)}/{name}", (programs / name).read_bytes())
    archive.link("xen", f"/{programs.relative_to(tree)}")
    for tool in tree.glob("usr/bin/xenstore*"):
        archive.copy(tree, tool)
    for folder in SHARED:
        for library in sorted((tree / folder).glob("*.so*")):
            archive.copy(tree, library)
    archive.link(LOADER, f"/{SHARED[0]}/{Path(LOADER).name}")
    archive.link("var/run", "/run")
    archive.copy(tree, tree / "etc/xen/oxenstored.conf")
    archive.file("etc/xen/xl.conf", b"")
    archive.file("etc/xen/scripts/block", (HERE / "block").read_bytes())
    archive.file("etc/xen/scripts/vif-bridge", (HERE / "vif_bridge").read_bytes())


class Tree:
    """An initramfs whose folders make themselves."""

    def __init__(self) -> None:
        self._script = guests_script()
        self._archive: Any = self._script.Cpio()
        self._made: set[str] = set()

    def folder(self, name: str) -> None:
        """A folder and those it lies in."""
        for parent in (*reversed(Path(name).parents), Path(name)):
            if str(parent) != "." and str(parent) not in self._made:
                self._made.add(str(parent))
                self._archive.add(str(parent), stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes) -> None:
        """A file that may be executed."""
        self.folder(str(Path(name).parent))
        self._archive.add(name, stat.S_IFREG | 0o755, data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.folder(str(Path(name).parent))
        self._archive.add(name, SYMBOLIC, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._archive.add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def copy(self, tree: Path, path: Path) -> None:
        """A file or link of the unpacked packages, at its place."""
        name = str(path.relative_to(tree))
        if path.is_symlink():
            self.link(name, str(path.readlink()))
        else:
            self.file(name, path.read_bytes())

    def busybox(self, tree: Path, applets: str) -> None:
        """Busybox and its names."""
        self.copy(tree, tree / "bin/busybox")
        for applet in applets.split():
            self.link(f"bin/{applet}", "busybox")

    def modules(self, tree: Path, wanted: tuple[str, ...]) -> None:
        """A kernel's modules and what they stand on, in /modules, with their order in /modules/order."""
        found = self._script.modules_in_order(tree, wanted)
        for module in found:
            self.file(f"modules/{module.name}", module.read_bytes())
        self.file("modules/order", "".join(f"{module.name}\n" for module in found).encode())

    def finish(self) -> bytes:
        """The archive, uncompressed."""
        octets: bytes = self._archive.finish()
        return octets
