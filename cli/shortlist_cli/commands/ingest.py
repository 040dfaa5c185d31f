"""``shortlist ingest``: puts documents from files into a collection; shows progress and can resume.

The exit code is 0 when every document is stored, 3 when some failed (standard error names the first ones), and 1 when
the ingest did not finish.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click
from rich.progress import Progress

from shortlist import (
    Ack,
    Client,
    CollectionConfig,
    CollectionExists,
    CollectionNotFound,
    Document,
    Ingest,
    IngestError,
    IngestSummary,
    InvalidOperation,
)
from shortlist_cli import output
from shortlist_cli.commands.readers import Columns, count_documents, read_documents
from shortlist_cli.connection import client_options, connect
from shortlist_cli.group import explain

EXIT_FAILED_DOCUMENTS = 3

MAX_PRINTED_FAILURES = 1000
"""Failures listed in the JSON report, which counts them all."""

SHOWN_FAILURES = 20
"""Failures named on standard error; the rest are counted. ``--failures`` writes them all."""


@click.command("ingest")
@click.argument("source", type=click.Path(path_type=Path, exists=True, allow_dash=True))
@click.option("--collection", "-c", help="Collection to fill; by default the source's name.")
@click.option("--create/--no-create", default=True, help="Create the collection when it is missing.  [default: create]")
@click.option("--embedder", default="", metavar="NAME", help="Embedder of a new collection.")
@click.option("--filterable", multiple=True, metavar="FIELD", help="Metadata to index in a new collection.")
@click.option(
    "--format",
    type=click.Choice(["auto", "jsonl", "csv", "tsv", "text"]),
    default="auto",
    help="Format of the source; auto goes by its name, and reads standard input as JSON lines.",
)
@click.option("--id-column", default="", metavar="NAME", help="Column of the id; by default id or _id.")
@click.option("--title-column", default="title", show_default=True, metavar="NAME", help="Column of the title.")
@click.option(
    "--text-column",
    multiple=True,
    default=["text"],
    show_default=True,
    metavar="NAME",
    help="Column of the text; several are joined.",
)
@click.option("--metadata-column", multiple=True, metavar="NAME", help="Column of metadata; by default all others.")
@click.option("--vector-column", default="vector", show_default=True, metavar="NAME", help="Column of the vector.")
@click.option(
    "--resume", is_flag=True, help="Record the position in a file; the same command then goes on where it stopped."
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="File for the position; implies --resume."
)
@click.option("--dry-run", is_flag=True, help="Validate and estimate; write nothing.")
@click.option(
    "--failures",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write each failure as a JSON line; a resumed run appends to the file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the totals as JSON.")
@client_options
def ingest_command(source: Path, **options: Any) -> None:
    """Puts the documents of SOURCE into a collection, and creates the collection when it is missing.

    SOURCE is a file of JSON lines (also BEIR's corpus.jsonl), a CSV or TSV file with a header, a folder of text and
    Markdown files, or - for standard input. A document replaces the stored one with its id; an unchanged one is not
    embedded again. The exit code is 0 when every document is stored, and 3 when some failed.
    """
    stdin = str(source) == "-"
    options["collection"] = options["collection"] or _collection_name(source, stdin=stdin)
    if (options["resume"] or options["checkpoint"]) and (stdin or options["dry_run"]):
        raise click.UsageError("standard input and dry runs cannot be resumed")
    if stdin and options["format"] == "text":
        raise click.UsageError("--format text needs a file or a folder, not standard input")
    with connect(options) as client:
        made = _ensure_collection(client, options)
        if made:
            output.note(f"created collection {options['collection']!r}")
        try:
            summary = _run(client, None if stdin else source, options)
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    _print_summary(summary, options)
    if summary.failed:
        raise click.exceptions.Exit(EXIT_FAILED_DOCUMENTS)


def _collection_name(source: Path, *, stdin: bool) -> str:
    if stdin:
        raise click.UsageError("name the collection with --collection")
    stem = source.resolve().stem if source.is_file() else source.resolve().name
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    if not name:
        raise click.UsageError("name the collection with --collection")
    return name[:64]


def _ensure_collection(client: Client, options: dict[str, Any]) -> bool:
    """Creates the collection when it is missing; returns whether it did."""
    embedder, filterable = options.pop("embedder"), options.pop("filterable")
    if not options["create"]:
        # The ingest reports a missing collection; looking for it would need the scope "read".
        return False
    try:
        client.get_collection(options["collection"])
    except CollectionNotFound as error:
        if options["dry_run"]:
            hint = f"a dry run creates none: shortlist collections create {options['collection']}"
            raise click.ClickException(f"{error.message}, and {hint}") from error
    else:
        return False
    try:
        client.create_collection(
            options["collection"], CollectionConfig(embedder=embedder, filterable_fields=tuple(filterable))
        )
    except CollectionExists:
        return False
    return True


def _run(client: Client, source: Path | None, options: dict[str, Any]) -> IngestSummary:
    columns = Columns(
        id=options["id_column"],
        title=options["title_column"],
        text=tuple(options["text_column"]),
        metadata=tuple(options["metadata_column"]),
        vector=options["vector_column"],
    )
    total = None if source is None else count_documents(source, options["format"])
    checkpoint: Path | None = options["checkpoint"]
    if checkpoint is None and options["resume"] and source is not None:
        checkpoint = _checkpoint_path(source, options["collection"])
    # A resumed run keeps the failures that the earlier run wrote.
    mode = "a" if checkpoint is not None and checkpoint.exists() else "w"
    file = None if options["failures"] is None else click.open_file(options["failures"], mode)
    with file or contextlib.nullcontext(), output.progress_bar() as bar:
        task = bar.add_task("ingest", total=total, failed=0)

        def show(summary: IngestSummary) -> None:
            bar.update(task, completed=summary.acked, failed=summary.failed)

        run = client.ingest(
            options["collection"],
            _records(source, options["format"], columns),
            checkpoint=checkpoint,
            dry_run=options["dry_run"],
            progress=show,
        )
        try:
            _take_acks(run, file, bar)
        except KeyboardInterrupt:
            bar.stop()
            run.close()
            _print_summary(run.summary, options)
            output.note(_resume_hint(checkpoint))
            raise
        except IngestError as error:
            bar.stop()
            if error.retryable:
                output.note(_resume_hint(checkpoint))
            raise click.ClickException(explain(error)) from error
    return run.summary


def _records(source: Path | None, format: str, columns: Columns) -> Iterator[Any]:
    for record in read_documents(source, format, columns):
        # The client would fail an unreadable record too, in its place; the reader knows a better reason.
        yield record if isinstance(record, Document) else InvalidOperation(record.id, record.problem)


def _take_acks(run: Ingest, failures: IO[Any] | None, bar: Progress) -> None:
    shown = 0
    for ack in run:
        if ack.error is None:
            continue
        shown += 1
        if shown <= SHOWN_FAILURES:
            output.note(f"{ack.id or f'#{ack.index + 1}'}: {explain(ack.error)}", above=bar)
        if failures is not None:
            failures.write(_failure_line(ack))
            failures.flush()
    if shown > SHOWN_FAILURES:
        output.note(f"and {shown - SHOWN_FAILURES:,} more; --failures FILE writes all", above=bar)


def _failure_line(ack: Ack) -> str:
    error = ack.error
    assert error is not None
    line = {
        "index": ack.index,
        "id": ack.id,
        "reason": error.reason,
        "message": error.message,
        "field": error.field,
        "retryable": error.retryable,
    }
    return json.dumps(line) + "\n"


def _checkpoint_path(source: Path, collection: str) -> Path:
    """A file beside the source, where the same command finds it; each collection has its own."""
    digest = hashlib.sha256(collection.encode()).hexdigest()[:8]
    return source.resolve().with_name(f".{source.resolve().name}.{digest}.shortlist-checkpoint")


def _resume_hint(checkpoint: Path | None) -> str:
    if checkpoint is not None:
        return "run the same command again to go on from here"
    return "all counted documents are stored; a run with --resume can go on where it stopped"


def _print_summary(summary: IngestSummary, options: dict[str, Any]) -> None:
    if options["as_json"]:
        totals = dataclasses.asdict(dataclasses.replace(summary, failures=()))
        totals["failures"] = [
            {"id": ack.id, "reason": ack.error.reason, "message": ack.error.message}
            for ack in summary.failures[:MAX_PRINTED_FAILURES]
            if ack.error is not None
        ]
        output.print_json(totals)
        return
    names = ("durable", "unchanged", "superseded", "replayed", "valid", "failed")
    counts = ", ".join(f"{getattr(summary, name):,} {name}" for name in names if getattr(summary, name))
    rate = summary.acked / summary.seconds if summary.seconds else 0.0
    click.echo(f"{options['collection']}: {counts or 'no documents'}")
    click.echo(
        f"{summary.passages:,} passages, {summary.tokens:,} tokens, {summary.seconds:.1f} s ({rate:,.0f} documents/s)"
    )
    if summary.valid:
        click.echo(f"dry run: nothing written; would take about {summary.estimated_seconds:,.0f} s on an idle server")
