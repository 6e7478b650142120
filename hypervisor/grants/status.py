"""How one grant operation is refused: a status that is written into that operation, and the rule that was
broken.

Statuses are GNTST_okay or negative, never anything else (G17, XSA-316).
"""

from hypervisor.public.grant_table import GNTST_okay, GrantStatus


class GrantRefused(Exception):
    """One operation of a batch is refused; the others go on. The guest sees only the status."""

    def __init__(self, status: GrantStatus, reason: str) -> None:
        if status >= GNTST_okay:
            raise ValueError(f"{status!r} is no refusal")
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status.name}: {self.reason}"
