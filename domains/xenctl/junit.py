"""A run's result as JUnit's XML, which CI services show: one test case a guest.

    testsuites > testsuite (tests, failures, errors, time) > testcase (classname, name, time)
        failure   the guest did not do what was wanted; its text is the error, and what the hypervisor logged
        error     it could not be run
        system-out, system-err   the end of its console; what the hypervisor logged

What a guest prints is any bytes: what XML has no form for is written by its number (`\\x1b`), and of each text the last MAX_TEXT
bytes are there.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from domains.control.protocol import ControlError, Exit
from domains.xenctl.tables import escaped

MAX_TEXT: Final = 1 << 20
"""Bytes of one console, or of one log."""
NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no form for (its production 2, Char)."""
CLASSNAME: Final = "xenctl.run"


class Case(NamedTuple):
    """One guest: `error`: what was wrong; `ran`: whether it came to life at all."""

    name: str
    seconds: float
    error: str | None = None
    kind: str = ""
    ran: bool = True
    console: str = ""
    log: Sequence[str] = ()

    @property
    def verdict(self) -> str | None:
        """The element that tells what was wrong."""
        if self.error is None:
            return None
        return "failure" if self.ran else "error"


class Report:
    """The cases of one run, in order."""

    def __init__(self, name: str) -> None:
        """`name`: of the suite, and of what could not even be begun."""
        self.name = name
        self.began = time.time()
        self.cases: list[Case] = []

    def seconds(self) -> float:
        """How long the run takes so far."""
        return time.time() - self.began

    def add(
        self, name: str, error: ControlError | None, ended: str | None, console: str, log: list[str]
    ) -> None:
        """A guest's result; `ended`: how, None: it has not run."""
        message, kind = (error.message, error.code.name) if error is not None else (None, "")
        self.cases.append(Case(name, self.seconds(), message, kind, ended is not None, console, log))

    def xml(self) -> str:
        """The whole document."""
        verdicts = [case.verdict for case in self.cases]
        counts = f'tests="{len(verdicts)}" failures="{verdicts.count("failure")}" errors="{verdicts.count("error")}"'
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.began))
        suite = f'name={attribute(self.name)} {counts} time="{self.seconds():.3f}" timestamp="{when}"'
        cases = "".join(map(element, self.cases))
        return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n<testsuite {suite}>\n{cases}</testsuite>\n</testsuites>\n'


def element(case: Case) -> str:
    """One test case."""
    log = content("\n".join(case.log))
    inner = ""
    if case.error is not None:
        about = f"message={attribute(case.error)} type={attribute(case.kind)}"
        inner += f"<{case.verdict} {about}>{content(case.error)}\n{log}</{case.verdict}>\n"
    inner += f"<system-out>{content(case.console)}</system-out>\n" if case.console else ""
    inner += f"<system-err>{log}</system-err>\n" if case.log else ""
    about = f'classname="{CLASSNAME}" name={attribute(case.name)} time="{case.seconds:.3f}"'
    return f"<testcase {about}>\n{inner}</testcase>\n"


def printable_xml(text: str) -> str:
    """A text of which XML has a form for each character; a console's line ends with a newline alone."""
    return NOT_XML.sub(lambda one: escaped(one[0]), text[-MAX_TEXT:].replace("\r\n", "\n"))


def content(text: str) -> str:
    """A text between two tags; a carriage return would be read as a newline."""
    return escape(printable_xml(text), {"\r": "\\r"})


def attribute(text: str) -> str:
    """A text as an attribute's value, with its quotes."""
    return quoteattr(printable_xml(text))


@contextmanager
def reported(file: Path | None, name: str) -> Iterator[Report]:
    """Collect what comes of a run, and at its end, however it ends, write `file`, which can be written: that is seen
    to before. None: write nothing. Raises ControlError.
    """
    report = Report(name)
    if file is None:
        yield report
        return
    write(file, "")
    try:
        yield report
    except BaseException as error:
        if not report.cases:
            known = error if isinstance(error, ControlError) else None
            failed = known or ControlError(Exit.FAILURE, "the run was interrupted")
            report.add(name, failed, None, "", [])
        raise
    finally:
        write(file, report.xml())


def write(file: Path, text: str) -> None:
    """Write a file anew. Raises ControlError."""
    try:
        if file.is_fifo():  # it would be waited for its reader, twice
            raise OSError(errno.EINVAL, "it is a FIFO; name a file")
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"--junit: cannot write {file}: {error.strerror}") from None
