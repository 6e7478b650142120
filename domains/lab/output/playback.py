"""Going through traces step by step: where one is, and what the watched tables are there. It draws nothing."""

from __future__ import annotations

from collections.abc import Sequence

from domains.lab.report import Trace
from domains.lab.trace import Change, Entry, Step


class Playback:
    """A place in one of several traces, none of them empty."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.traces = traces
        self.number = 0
        """The trace that is looked at."""
        self._places = [0] * len(traces)

    @property
    def trace(self) -> Trace:
        """The one that is looked at."""
        return self.traces[self.number]

    @property
    def place(self) -> int:
        """The step that is looked at, from 0 on."""
        return self._places[self.number]

    @property
    def step(self) -> Step:
        """That step."""
        return self.trace.steps[self.place]

    def move(self, steps: int) -> None:
        """So many forward, or back, as far as there are."""
        self._places[self.number] = max(0, min(self.place + steps, len(self.trace.steps) - 1))

    def next_exit(self) -> None:
        """Forward to the next exit; without one, to the last step."""
        later = range(self.place + 1, len(self.trace.steps))
        exits = (place for place in later if self.trace.steps[place].is_exit)
        self._places[self.number] = next(exits, len(self.trace.steps) - 1)

    def choose(self, number: int) -> None:
        """Look at another trace, where it was left. There may be none of that number."""
        if 0 <= number < len(self.traces):
            self.number = number

    def tables(self) -> list[Entry]:
        """The watched entries after this step."""
        now = {entry.where: entry.value for entry in self.trace.tables}
        for step in self.trace.steps[: self.place + 1]:
            now.update({change.where: change.new for change in step.changes})
        return [Entry(where, value) for where, value in now.items() if value]

    def changed(self, where: str) -> Change | None:
        """What this step did to an entry."""
        return next((change for change in self.step.changes if change.where == where), None)
