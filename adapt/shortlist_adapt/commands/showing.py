"""Progress of a step on standard error: a bar with rate and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from shortlist_cli.output import note, stderr

LINE_SECONDS = 30.0
"""Pause between two lines of progress where there is no terminal."""

SHOWN_PARTS = 6
"""Bars on a terminal; those of the oldest parts go."""


class Shown:
    """A ``shortlist_adapt.progress.Progress`` for people; made by ``shown``."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._total: int | None = None
        self._what, self._unit, self._done, self._spoke = "", "", 0, time.monotonic()

    def begin(self, what: str, total: int | None = None, unit: str = "") -> None:
        """See ``Progress``. The part before is over."""
        if self._task is not None:
            self._bar.stop_task(self._task)
        for former in self._bar.task_ids[: -(SHOWN_PARTS - 1)]:
            self._bar.remove_task(former)
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._task = self._bar.add_task(what, total=total, note=unit)
        if self._bar.disable:
            note(what if total is None else f"{what}: {total:,} {unit}".rstrip())
            self._spoke = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """See ``Progress``."""
        self._done += count
        if self._task is not None:
            self._bar.update(self._task, advance=count, note=note or self._unit)
        if self._bar.disable and time.monotonic() - self._spoke >= LINE_SECONDS:
            self._speak(note)

    def say(self, text: str) -> None:
        """See ``Progress``."""
        note(text, above=None if self._bar.disable else self._bar)

    def _speak(self, detail: str) -> None:
        of = f" of {self._total:,}" if self._total is not None else ""
        note(f"{self._what}: {self._done:,}{of} {self._unit}{f', {detail}' if detail else ''}".replace(" ,", ","))
        self._spoke = time.monotonic()


@contextlib.contextmanager
def shown() -> Iterator[Shown]:
    """Shows progress for the duration of a ``with`` block."""
    bar = Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="cyan"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )
    with bar:
        yield Shown(bar)
