"""The subject of an evaluation: a new or a running server, and a new or an existing collection.

These context managers remove what they made. Use them from one thread.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shortlist import Client, CollectionExists, ServerUnavailable, ShortlistError
from shortlist_cli.connection import connect
from shortlist_cli.evaluation.beir import Dataset, InvalidDataset, Judged, load_dataset, load_judged, load_split
from shortlist_cli.evaluation.measuring import QUALITY_LIMIT
from shortlist_cli.evaluation.settings import Settings
from shortlist_cli.hosting.server_process import ServerNotStarted, ServerProcess, stopped_in_order
from shortlist_cli.output import note

NO_EMBEDDER = "none"
"""The embedder's name in a collection whose callers supply the vectors."""


CANDIDATE_PATHS = frozenset({"candidates", "candidates.dense", "candidates.lexical"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The measured server. ``seconds`` is the time from start to ready; None for a server that was already running."""

    client: Client
    seconds: float | None = None
    pid: int | None = None

    def memory(self) -> dict[str, int]:
        """Current and peak resident memory of the process, in bytes; empty where the system does not report it."""
        lines = {}
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        names = {"server_memory_bytes": "VmRSS", "server_peak_memory_bytes": "VmHWM"}
        return {name: 1024 * int(lines[key].split()[0]) for name, key in names.items() if key in lines}


def subject_options(command: Any) -> Any:
    """Adds the options that name the subject: DIR, or a collection of a running server with qrels."""
    options = [
        click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path)),
        click.argument("serve_arguments", metavar="[-- SERVE_OPTIONS...]", nargs=-1, type=click.UNPROCESSED),
        click.option("--target", metavar="HOST:PORT", help="Measure this server instead of starting one."),
        click.option("--qrels", metavar="FILE", type=click.Path(path_type=Path), help="Qrels, instead of DIR."),
        click.option(
            "--queries",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Queries of --qrels, as JSON Lines, or ids and texts in a .tsv file.",
        ),
        click.option("--api-key", envvar="SHORTLIST_API_KEY", metavar="KEY", help="API key to send to the target."),
        click.option("--tls", is_flag=True, help="Encrypt, trusting the system's authorities."),
        click.option("--tls-ca", type=click.Path(exists=True, dir_okay=False), help="Encrypt, trusting this PEM file."),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder for the data of the started server, which is kept; by default a temporary one.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_judged(options: dict[str, Any], split: str, *, corpus: bool = True) -> Judged:
    """Reads and checks what ``subject_options`` name: a ``Dataset`` for DIR, else queries and qrels alone.

    Args:
        options: values of the options that ``subject_options`` added.
        split: the split of DIR.
        corpus: whether to read the documents of DIR.

    Raises:
        click.UsageError: the options contradict each other, or a file is missing or malformed.
    """
    folder = options["folder"]
    if folder is not None and str(folder).startswith("-"):
        # Without DIR, click takes the first argument after "--" for it.
        options["serve_arguments"], options["folder"] = (str(folder), *options["serve_arguments"]), None
    folder, qrels, queries, target = (options[name] for name in ("folder", "qrels", "queries", "target"))
    if target and (options["data_dir"] or options["serve_arguments"]):
        raise click.UsageError("--target uses a running server; --data-dir and options of serve need a new one")
    if bool(qrels) != bool(queries):
        raise click.UsageError("--qrels and --queries go together")
    if bool(folder) == bool(qrels):
        raise click.UsageError("give either a folder DIR, or --qrels and --queries for an existing collection")
    if qrels and not (target or options["data_dir"]):
        raise click.UsageError("--qrels needs an existing collection: name its server with --target, or --data-dir")
    try:
        if qrels:
            return load_judged(queries, qrels)
        return load_dataset(folder, split) if corpus else load_split(folder, split)
    except InvalidDataset as error:
        raise click.BadParameter(str(error), param_hint="--qrels" if qrels else "DIR") from error


def require(*modules: str) -> None:
    """Refuses with the command to install when one of the modules is missing."""
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            raise click.ClickException("this command needs more libraries: pip install 'shortlist[eval]'") from error


@contextlib.contextmanager
def open_server(options: dict[str, Any]) -> Iterator[Server]:
    """The server that ``subject_options`` name, or a new one."""
    target, arguments, folder = options["target"], options["serve_arguments"], options["data_dir"]
    connection = {name: options[name] for name in ("api_key", "tls", "tls_ca")} | {"timeout_seconds": 60.0}
    if target:
        with stopped_in_order(), connect({"target": target, **connection}) as client:
            yield Server(client=client)
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_in_order())
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shortlist-eval-")))
        started = time.perf_counter()
        try:
            process = ServerProcess(folder, arguments=arguments)
        except ServerNotStarted as error:
            raise click.ClickException(str(error)) from error
        stack.callback(process.stop)
        seconds = time.perf_counter() - started
        client = stack.enter_context(Client(process.target, timeout_seconds=60.0))
        try:
            yield Server(client=client, pid=process.process.pid, seconds=seconds)
        except ServerUnavailable as error:
            raise click.ClickException(process.ending() or str(error)) from error


@contextlib.contextmanager
def own_collection(client: Client, name: str, *, delete: bool) -> Iterator[None]:
    """Makes the collection, or uses the one from an earlier run; deletes only a collection that it made."""
    made = True
    try:
        client.create_collection(name)
    except CollectionExists:
        made = False
        note(f"the collection {name!r} exists already: any other documents in it take part in the rankings")
    try:
        yield
    finally:
        if made and delete:
            with contextlib.suppress(ShortlistError):
                client.delete_collection(name)


def warn_missing(judged: Judged) -> None:
    """Notes how many queries have no relevant document, and how many judged documents no search can find."""
    hopeless = sum(not any(grade > 0 for grade in grades.values()) for grades in judged.qrels.values())
    if hopeless:
        note(
            f"{hopeless} of {len(judged.queries)} judged queries have no relevant document and count as 0 in every mean"
        )
    if isinstance(judged, Dataset) and judged.judged_but_missing:
        note(f"{judged.judged_but_missing} judged documents are not in the corpus; no search can find them")


def warn_few_candidates(settings: Sequence[Settings]) -> None:
    """Notes that fewer candidates than the hits of a judged search change only its time."""
    few = [value for one in settings for path, value in one.values if path in CANDIDATE_PATHS and value < QUALITY_LIMIT]
    if few:
        note(
            f"candidates={min(few)} changes only the times: a judged search asks for {QUALITY_LIMIT} hits and "
            "has at least as many candidates"
        )


def machine() -> dict[str, Any]:
    """The machine that ran this program and a server it started."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def excerpts(client: Client, collection: str, ids: list[str], *, length: int = 280) -> dict[str, dict[str, str]]:
    """Titles and first characters of the texts of documents, by id; without documents that are gone."""
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(ids), 500):
        for document in client.get(collection, ids[start : start + 500]):
            if document is not None:
                text = " ".join(document.text.split())
                short = text if len(text) <= length else f"{text[:length].rstrip()}…"
                found[document.id] = {"title": document.title, "text": short}
    return found


def has_embedder(client: Client, collection: str) -> bool:
    """Whether the server can embed this collection's queries."""
    return client.get_collection(collection).config.embedder != NO_EMBEDDER


def collection_about(client: Client, collection: str) -> dict[str, Any]:
    """The sizes and models of a collection, for a report."""
    at = client.get_collection(collection)
    config = at.config
    return {
        "collection": collection,
        "documents": at.document_count,
        "passages": at.passage_count,
        "disk_bytes": at.disk_bytes,
        "sequence": at.sequence,
        "embedder": config.embedder,
        "embedder_revision": at.embedder_revision,
        "reranker": config.reranker,
        "passage_tokens": config.chunking.max_tokens,
        "overlap_tokens": config.chunking.overlap_tokens,
    }
