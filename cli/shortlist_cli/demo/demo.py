"""``shortlist demo``: streams in the standard library's documentation and asks it five questions.

A server in a child process keeps the data in a folder, where a second run finds it. The ingest stream has a name: an
interrupted run goes on where it stopped, and a run after a complete one sends nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from shortlist import Client, CollectionConfig, CollectionExists, Document, Hit, SearchResult
from shortlist_cli.demo.corpus import Entry, stdlib_corpus
from shortlist_cli.hosting.server_process import ServerNotStarted, running_server
from shortlist_cli.output import note, print_table, progress_bar, stdout, step_display

QUESTIONS = (
    "create a temporary directory that is deleted automatically",
    "run a function in another process and get its result",
    "the most common elements of a list and how often they occur",
    "stop waiting for a coroutine after a timeout",
    "read settings from a file with sections",
)
"""The questions asked when the command line has none."""

STREAM = "stdlib"
"""Name of the ingest stream; one is enough, because a collection has one corpus."""


@click.command("demo")
@click.argument("questions", metavar="[QUESTION...]", nargs=-1)
@click.option(
    "--data-dir",
    default=Path(".demo"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the server's data and log; created when missing.",
)
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 100), help="Hits for each question.")
@click.option("--embedder", metavar="NAME", help="Embedder, as in serve; the server's default otherwise.")
def demo_command(*, questions: tuple[str, ...], data_dir: Path, limit: int, embedder: str | None) -> None:
    """Searches the documentation of the Python standard library on this machine.

    Starts a server, streams in the documents that it lacks, and answers five questions, or those given. Every hit shows
    its final rank, its rank in stage one (dense and lexical, fused), and how far stage two (rerank) moved it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    arguments = ["--embedder", embedder] if embedder else []
    with ThreadPoolExecutor(1) as threads:
        # The corpus is read while the server starts.
        reading = threads.submit(stdlib_corpus)
        with _server(data_dir, arguments) as target, Client(target) as client:
            corpus = reading.result()
            collection = collection_name(corpus)
            _fill(client, collection, corpus)
            for question in questions or QUESTIONS:
                print_answer(question, client.search(collection, question, limit=limit))


def collection_name(corpus: Sequence[Entry]) -> str:
    """A name unique to interpreter and corpus, so that different corpora never mix in one collection."""
    digest = hashlib.sha256()
    for entry in corpus:
        digest.update(f"{entry.name}\0{entry.kind}\0{entry.text}\0".encode())
    version = re.sub(r"[^a-z0-9]+", "-", platform.python_version().lower())
    return f"python-{version}-{digest.hexdigest()[:8]}"


def document(entry: Entry) -> Document:
    """The document that an entry of the corpus becomes."""
    package = entry.module.partition(".")[0]
    metadata = {"kind": entry.kind, "module": entry.module, "package": package, "qualified_name": entry.name}
    return Document(id=entry.name, title=entry.name, text=entry.text, metadata=metadata)


def print_answer(question: str, result: SearchResult) -> None:
    """Prints the hits and the time of every stage: a table on a terminal, tab-separated lines in a pipe."""
    click.secho(f"\n{question}", bold=True)
    if sys.stdout.isatty():
        stdout().print(_table(result.hits))
    else:
        print_table(
            ["rank", "stage one", "dense", "lexical", "moved", "score", "document", "summary"],
            [
                [*_ranks(hit), hit.fused.rank - hit.rank, f"{hit.score:.3f}", hit.id, _summary(hit.document.text)]
                for hit in result.hits
            ],
        )
    report = result.report
    times = [f"{stage} {1000 * seconds:.1f}" for stage, seconds in report.stage_seconds.items()]
    click.secho(
        f"{' + '.join(times)} -> {1000 * report.total_seconds:.1f} ms; {report.dense_candidates} dense and "
        f"{report.lexical_candidates} lexical candidates, {report.reranked} reranked",
        dim=True,
    )
    for degradation in report.degradations:
        note(f"degraded: {degradation.message}")


def _table(hits: Sequence[Hit]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for heading in ("rank", "stage one", "dense", "lexical"):
        table.add_column(heading, justify="right")
    table.add_column("moved", justify="left")
    table.add_column("score", justify="right")
    table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
    for hit in hits:
        places = hit.fused.rank - hit.rank
        style, arrow = ("green", "▲") if places > 0 else ("red", "▼") if places < 0 else ("dim", "=")
        table.add_row(
            *(str(rank) for rank in _ranks(hit)),
            Text(f"{arrow} {abs(places) or ''}", style=style),
            f"{hit.score:.3f}",
            Text.assemble((hit.id, "bold cyan"), "  ", (_summary(hit.document.text), "dim")),
        )
    return table


def _ranks(hit: Hit) -> list[int | str]:
    """Final, fused, dense and lexical rank; "-" where a stage did not rank the document."""
    stages = (hit.dense.rank if hit.dense else 0, hit.lexical.rank if hit.lexical else 0)
    return [hit.rank, hit.fused.rank, *(rank or "-" for rank in stages)]


def _summary(text: str) -> str:
    """The first sentence of an entry's docstring, which follows the signature on the first line."""
    lines = text.split("\n")
    first = lines[1] if len(lines) > 1 else lines[0]
    return first.partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def _server(data_dir: Path, arguments: Sequence[str]) -> Iterator[str]:
    try:
        with contextlib.ExitStack() as stack:
            # Shows the steps of the start, because the first start converts the model, which takes a while.
            display = stack.enter_context(step_display())
            task = display.add_task("starting a server")

            def show(doing: str) -> None:
                text = f"starting a server: {doing}"
                if display.disable:
                    note(text)
                else:
                    display.update(task, description=text)

            log = data_dir / "server.log"
            server = running_server(data_dir, arguments=arguments, log_path=log, on_progress=show)
            target = stack.enter_context(server)
            display.stop()
            yield target
    except ServerNotStarted as error:
        raise click.ClickException(str(error)) from error


def _fill(client: Client, collection: str, corpus: Sequence[Entry]) -> None:
    """Makes the collection and sends the documents that it lacks."""
    with contextlib.suppress(CollectionExists):
        client.create_collection(collection, CollectionConfig(filterable_fields=("kind", "module", "package")))
    started = time.perf_counter()
    ingest = client.ingest(collection, map(document, corpus), stream=STREAM, resume=True)
    with progress_bar() as progress:
        task = progress.add_task("ingest", total=len(corpus))
        failed = 0
        for ack in ingest:
            failed += not ack.ok
            progress.update(task, completed=ack.index + 1, failed=failed)
    seconds, summary = time.perf_counter() - started, ingest.summary
    for ack in summary.failures:
        note(f"document {ack.id!r} was refused: {ack.error}")
    kept = f"{len(corpus):,} documented modules, classes, functions and methods"
    if summary.durable:
        rate = summary.durable / seconds
        note(f"{kept}: {summary.durable:,} sent in {seconds:.0f} s ({rate:.0f} per second)")
    else:
        note(f"{kept}: all in place")
    note("stage one fuses the dense and the lexical ranking; stage two reranks and moves a hit up or down")
