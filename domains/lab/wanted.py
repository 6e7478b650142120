"""How a run of an experiment is to be shown. This file brings nothing of the laboratory with it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Wanted(NamedTuple):
    """`html`: a folder for pages; `picture`: a file; `costs`: a file in the place of costs.toml; `cpu`: a machine of it, "": the
    experiment's own.
    """

    step: bool = False
    trace: bool = False
    json: bool = False
    html: Path | None = None
    picture: Path | None = None
    costs: Path | None = None
    cpu: str = ""
