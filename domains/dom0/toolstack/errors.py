"""The one exception by which the toolstack refuses: a text for people and an exit code for scripts."""

from domains.control.protocol import Exit


class ToolstackError(Exception):
    """`str()` is one line that says what is wrong and, where that helps, what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.code = code
