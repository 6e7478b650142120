"""From settings to the text of a description, which `load.read_config` reads back to the same settings."""

from collections.abc import Mapping, Sequence
from typing import Final

Plain = str | int
"""What a setting, or an entry of a list, may be."""

ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
"""Everything else stands for itself in a string."""


def write_config(settings: Mapping[str, Plain | Sequence[Plain]]) -> str:
    """One line a setting, in the order given."""
    return "".join(f"{key} = {written(value)}\n" for key, value in settings.items())


def written(value: Plain | Sequence[Plain]) -> str:
    """A value as `syntax.py` reads it. Numbers are quoted too: xl.cfg keeps both as text."""
    if isinstance(value, str | int):
        return f'"{str(value).translate(ESCAPES)}"'
    return "[ " + "".join(f"{written(item)}, " for item in value) + "]"
