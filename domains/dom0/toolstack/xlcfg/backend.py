"""The domain that serves a device: `backend=` of a disk or a network interface, a domain's name or id."""

from typing import Final

NAMES_OF_DOM0: Final = ("0", "Domain-0")


def parse_backend(text: str) -> str | None:
    """A driver domain, by name or id; None for Dom0."""
    if not text:
        raise ValueError("backend= names no domain")
    return None if text in NAMES_OF_DOM0 else text
