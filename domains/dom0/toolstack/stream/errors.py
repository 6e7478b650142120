"""What is wrong with a stream, in one line."""

from domains.dom0.toolstack.errors import ToolstackError


class StreamError(ToolstackError):
    """The stream is not one that a domain can be made of; the text names the record at fault, and where it lies."""


class EndOfStream(StreamError):
    """It ends before it should."""
