"""Prints tables, JSON and progress.

On a terminal, tables are coloured and fitted to its width. In a pipe they are tab-separated lines under a header, for
``cut`` and ``awk``. Results go to standard output; progress and notes go to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Task as ProgressTask
from rich.table import Table
from rich.text import Text

_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""Visible forms of control characters: a document must not be able to move the terminal's cursor."""


def stdout() -> Console:
    """A console for results."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """A console for notes and progress."""
    return Console(stderr=True, highlight=False)


def print_line(text: str) -> None:
    """Prints a line of results, with its control characters escaped."""
    click.echo(text.translate(_ESCAPED))


def note(message: str, *, above: Progress | None = None) -> None:
    """Prints a line on standard error, above the progress display where one is given."""
    if above is None:
        click.echo(message.translate(_ESCAPED), err=True)
    else:
        above.console.print(Text(message.translate(_ESCAPED)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints one JSON value: indented on a terminal, one line in a pipe. Keys keep their order."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    # JSON escapes for lone surrogates, which come from ids that are not UTF-8 in their file.
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Prints a table.

    Args:
        columns: the headings.
        rows: the cells, each row as long as ``columns``; None is an empty cell, floats get four decimals.
        title: a line above the table; on a terminal only.
        right: headings of the right-aligned columns.
        styles: rich styles by heading, as in {"score": "bold green"}; on a terminal only.
    """
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            click.echo("\t".join(_cell(value).replace("\t", " ").replace("\n", " ") for value in row))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", style=(styles or {}).get(column), overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    stdout().print(table)


def progress_bar() -> Progress:
    """A progress display on standard error: bar, count, rate, time left; for ``with``.

    A task may have the field ``failed``, a count shown in red unless it is 0. Nothing is shown unless standard error is
    a terminal.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _FailedColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )


def copy_bar() -> Progress:
    """A progress display of bytes on standard error; as ``progress_bar``."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )


def reindex_bar() -> Progress:
    """A progress display of documents on standard error, for work whose rate the server reports; as ``progress_bar``.

    A task has the fields ``rate`` and ``left``, texts, and ``failed``, as in ``progress_bar``.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", style="cyan"),
        TextColumn("{task.fields[left]}"),
        _FailedColumn(),
        console=stderr(),
        disable=not sys.stderr.isatty(),
    )


def step_display() -> Progress:
    """A display on standard error of the current step, for steps that cannot be counted; as ``progress_bar``."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=stderr(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


class _RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="cyan")


class _FailedColumn(ProgressColumn):
    """Count of failures, when there are any."""

    def render(self, task: ProgressTask) -> Text:
        failed = task.fields.get("failed", 0)
        return Text(f"{failed:,} failed" if failed else "", style="bold red")


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value).translate(_ESCAPED)
