"""Waits for the operation that a command started, shows its progress, and cancels it on Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from shortlist import (
    Client,
    CopyProgress,
    DeadlineExceeded,
    EvaluateProgress,
    Operation,
    OperationProgress,
    PublishProgress,
    ReindexProgress,
    ShortlistError,
    VerifyProgress,
)
from shortlist_cli import output
from shortlist_cli.group import explain

CANCEL_SECONDS = 10.0
"""Time for an operation to stop after Ctrl-C; most stop within a second."""

LAST_SECONDS = 0.001
"""What is left to wait where the start took the whole time."""

EXIT_INTERRUPTED = 1

detach_option = click.option(
    "--detach", is_flag=True, help="Print the name of the operation and return at once; see 'shortlist operations'."
)


def follow(
    client: Client,
    start: Callable[[], Operation],
    *,
    detach: bool,
    as_json: bool,
    progress: Callable[[Any], None],
    timeout_seconds: float | None,
) -> Operation | None:
    """Starts an operation and waits for its success. Ctrl-C and the deadline cancel it.

    With ``detach``, prints it and returns None.

    Raises:
        ShortlistError: why it failed.
        click.exceptions.Exit: it was interrupted; the user has been told what became of it.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    started: Operation | None = None
    try:
        with _interrupt_held_back() as interrupted:
            started = start()
        if interrupted.is_set():
            raise KeyboardInterrupt
        if detach:
            if as_json:
                output.print_json(to_json(started))
            else:
                output.print_line(started.name)
            return None
        left = None if until is None else max(until - time.monotonic(), LAST_SECONDS)
        ended = client.wait_operation(started.name, progress=progress, timeout_seconds=left)
    except (KeyboardInterrupt, DeadlineExceeded) as error:
        unknown = "'shortlist operations list' shows whether it was started"
        output.note(unknown if started is None else cancel(client, started).text)
        if isinstance(error, KeyboardInterrupt):
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        raise
    except ShortlistError:
        if started is not None:
            output.note(f"{_named(started)} goes on; follow it with 'shortlist operations wait {started.name}'")
        raise
    if ended.error is not None:
        raise ended.error
    return ended


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[threading.Event]:
    """Notes the first Ctrl-C instead of raising ``KeyboardInterrupt``; a second one raises it.

    The server may begin the work before the command has the operation's name, without which it cannot be cancelled.
    """
    interrupted = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an operation that was to be cancelled: whether it has ended, and a sentence."""

    ended: bool
    text: str


def cancel(client: Client, operation: Operation) -> Outcome:
    """Cancels an operation and waits for its end."""
    what = _named(operation)
    try:
        now = client.cancel_operation(operation.name, timeout_seconds=CANCEL_SECONDS)
        if not now.done:
            now = client.wait_operation(operation.name, timeout_seconds=CANCEL_SECONDS)
    except DeadlineExceeded:
        text = f"{what} has not stopped yet; see 'shortlist operations show {operation.name}'"
        return Outcome(ended=False, text=text)
    except ShortlistError as error:
        text = f"{what} may go on, because the server could not be told to stop it: {explain(error)}"
        return Outcome(ended=False, text=text)
    if now.state == "cancelled":
        text = f"{what} was cancelled" + ("; nothing of it is left" if now.kind in ("backup", "restore") else "")
    elif now.error is not None:
        text = f"{what} failed before it could be cancelled: {explain(now.error)}"
    else:
        text = f"{what} had {now.state} before it could be cancelled"
    return Outcome(ended=True, text=text)


def _named(operation: Operation) -> str:
    return f"the {operation.kind} ({operation.name})"


@contextlib.contextmanager
def copying() -> Iterator[Callable[[CopyProgress], None]]:
    """Shows a progress bar for each copied collection; yields the function that updates it."""
    tasks: dict[str, Any] = {}
    noted: set[tuple[str, str]] = set()
    with output.copy_bar() as bar:

        def show(progress: CopyProgress) -> None:
            if progress.collection not in tasks:
                _complete(bar, tasks)
                tasks[progress.collection] = bar.add_task(progress.collection, total=None)
            if progress.note and (progress.collection, progress.note) not in noted:
                noted.add((progress.collection, progress.note))
                output.note(f"{progress.collection}: {progress.note}", above=bar)
            task = tasks[progress.collection]
            bar.update(task, completed=progress.done_bytes, total=max(progress.total_bytes, 1))

        yield show
        _complete(bar, tasks)


def _complete(bar: Any, tasks: dict[str, Any]) -> None:
    # Progress comes only a few times a second, so the last update of a collection may be missing.
    for task in tasks.values():
        bar.update(task, completed=bar.tasks[task].total)


def progress_text(progress: OperationProgress | None) -> str:
    """Progress as a few words."""
    match progress:
        case CopyProgress():
            return f"{progress.collection}: {progress.done_bytes / 1e6:.1f} of {progress.total_bytes / 1e6:.1f} MB"
        case VerifyProgress():
            return f"{progress.collection}: {progress.step}"
        case EvaluateProgress():
            return f"{progress.done_searches} of {progress.total_searches} searches"
        case ReindexProgress():
            return f"{progress.done_documents:,} of {progress.total_documents:,} documents"
        case PublishProgress():
            return f"{progress.model}: {progress.step}"
    return ""


def to_json(operation: Operation) -> dict[str, Any]:
    """An operation as JSON values; its keys are the names of the client's type."""
    values = {field.name: getattr(operation, field.name) for field in dataclasses.fields(operation)}
    error = operation.error
    if error is not None:
        values["error"] = {
            "reason": error.reason,
            "message": error.message,
            "field": error.field,
            "metadata": error.metadata,
        }
    converted: dict[str, Any] = plain(values)
    return converted


def plain(value: Any) -> Any:
    """JSON's types for those of the client."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
