"""The error of what arrives and is not of the protocol; apart from the messages, for who reads a few bytes alone."""

from __future__ import annotations


class ProtocolError(Exception):
    """A message that no honest domain process sends."""


class ConnectionEnded(ProtocolError):
    """A process has closed its end of the connection: it has ended, or is about to, or it is not honest."""
