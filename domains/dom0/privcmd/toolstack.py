"""What privcmd's clients get from Dom0's toolstack, beside hypercalls."""

from typing import Protocol

from domains.dom0.console.terminal import Terminal, Viewer
from hypervisor.public.types import DomId


class Toolstack(Protocol):
    """The toolstack as xl's libraries see it."""

    def destroyed(self, domid: DomId) -> None:
        """A client ends this domain."""

    def console(self, domid: DomId) -> Terminal | None:
        """A domain's console; None: it has none, or there is no such domain."""

    def attach(self, terminal: Terminal, viewer: Viewer) -> None:
        """Let a viewer follow a console from its oldest byte."""

    def configuration(self, domid: DomId) -> bytes | None:
        """How a domain was made, as libxl keeps it under the name `libxl-json`; None: this toolstack has not made it."""
