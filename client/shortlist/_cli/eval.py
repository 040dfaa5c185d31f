"""``shortlist eval``: how good a server's rankings are on a judged collection, and how fast it is.

The documents go through ``Ingest`` and the queries through ``Search`` of a real server: a child process with a folder
that is gone afterwards, or the one named by ``--target``.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from shortlist import Client, CollectionExists, ShortlistError
from shortlist._cli._beir import Dataset, InvalidDataset, load_dataset
from shortlist._cli._evaluation import (
    LATENCY_LIMIT,
    QUALITY_LIMIT,
    RANKINGS,
    IngestFigures,
    LatencyFigures,
    measure_ingest,
    measure_latency,
    measure_quality,
)
from shortlist._cli._output import note, print_json, print_table, progress_bar
from shortlist._cli._server import ServerNotStarted, ServerProcess

MEASURES = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100", "mrr_at_10": "MRR@10"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that was measured; see ``_evaluation`` for the parts."""

    quality: Mapping[str, Mapping[str, float]]
    ingest: IngestFigures
    single: LatencyFigures
    concurrent: LatencyFigures
    first_search_ms: float


@click.command("eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("serve_arguments", metavar="[-- SERVE_OPTIONS...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--split", default="test", show_default=True, help="Which judgements: qrels/SPLIT.tsv.")
@click.option("--target", metavar="HOST:PORT", help="Use this server instead of starting one.")
@click.option("--collection", default="eval", show_default=True, help="Name of the collection to make.")
@click.option("--keep", is_flag=True, help="With --target: do not delete the collection afterwards.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the data of the server that is started; kept. By default one that is gone afterwards.",
)
@click.option(
    "--concurrency", default=16, show_default=True, type=click.IntRange(1, 256), help="For the second timing."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def eval_command(
    *,
    folder: Path,
    serve_arguments: tuple[str, ...],
    split: str,
    target: str | None,
    collection: str,
    keep: bool,
    data_dir: Path | None,
    concurrency: int,
    as_json: bool,
) -> None:
    """Measure the rankings and the speed of a server on a judged collection.

    DIR is a folder in the format of the BEIR benchmark: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. A server is
    started on a free port; what follows "--" is handed to its "shortlist serve". Every query of the split is searched
    with the dense stage alone, with the lexical stage alone, with both fused, and with the default settings ("final").
    Then the default settings are timed, one search at a time and --concurrency at a time.
    """
    if target and (data_dir or serve_arguments):
        raise click.UsageError("--target uses a running server: --data-dir and options of serve are for a new one")
    if keep and not target:
        raise click.UsageError("--keep goes with --target; to keep the data of a new server use --data-dir")
    try:
        import ir_measures  # noqa: F401
    except ImportError as error:
        raise click.ClickException("eval needs more packages: pip install 'shortlist[eval]'") from error
    try:
        dataset = load_dataset(folder, split)
    except InvalidDataset as error:
        raise click.BadParameter(str(error), param_hint="DIR") from error
    if dataset.judged_but_missing:
        note(f"{dataset.judged_but_missing} judged documents are not in the corpus; no search can find them")
    with _server(target, data_dir, serve_arguments) as server, Client(server.target) as client:
        with _collection(client, collection, delete=target is not None and not keep):
            figures = _measure(client, collection, dataset, concurrency)
        memory = server.memory()
    if as_json:
        print_json(_as_json(figures, dataset, concurrency, split) | {**memory, "server_ready_seconds": server.seconds})
    else:
        _print_tables(figures, dataset, concurrency, memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """The server measured; ``seconds`` is the time it took to be ready, None for one that was running before."""

    target: str
    seconds: float | None = None
    pid: int | None = None

    def memory(self) -> dict[str, int]:
        """Resident memory of the process now and at most, in bytes; empty where the system does not tell."""
        lines = {}
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        names = {"server_memory_bytes": "VmRSS", "server_peak_memory_bytes": "VmHWM"}
        return {name: 1024 * int(lines[key].split()[0]) for name, key in names.items() if key in lines}


@contextlib.contextmanager
def _server(target: str | None, data_dir: Path | None, arguments: tuple[str, ...]) -> Iterator[_Server]:
    if target:
        yield _Server(target=target)
        return
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shortlist-eval-")))
        started = time.perf_counter()
        try:
            process = ServerProcess(folder, arguments=arguments)
        except ServerNotStarted as error:
            raise click.ClickException(str(error)) from error
        stack.callback(process.stop)
        yield _Server(target=process.target, pid=process.process.pid, seconds=time.perf_counter() - started)


@contextlib.contextmanager
def _collection(client: Client, name: str, *, delete: bool) -> Iterator[None]:
    """Makes the collection, or uses one of a run before; deletes only what it made."""
    made = True
    try:
        client.create_collection(name)
    except CollectionExists:
        made = False
        note(f"the collection {name!r} is there already: its other documents, if any, take part in the rankings")
    try:
        yield
    finally:
        if made and delete:
            with contextlib.suppress(ShortlistError):
                client.delete_collection(name)


def _measure(client: Client, collection: str, dataset: Dataset, concurrency: int) -> Figures:
    queries = list(dataset.queries.values())
    with progress_bar() as progress:
        task = progress.add_task("Ingest", total=dataset.document_count)
        ingest = measure_ingest(
            client, collection, dataset, lambda failed: progress.update(task, advance=1, failed=failed)
        )
        for ack in ingest.failures:
            note(f"document {ack.id!r} was refused: {ack.error}")
        started = time.perf_counter()
        client.search(collection, queries[0])
        first_search_ms = 1000 * (time.perf_counter() - started)
        searches = progress.add_task("Search", total=len(RANKINGS) * len(queries))
        quality = measure_quality(client, collection, dataset, lambda: progress.advance(searches))
        times = progress.add_task("Timing", total=2 * len(queries))
        single, concurrent = (
            measure_latency(
                client, collection, queries, concurrency=number, turn=turn, step=lambda: progress.advance(times)
            )
            for turn, number in ((1, 1), (2, concurrency))
        )
    return Figures(
        quality=quality, ingest=ingest, single=single, concurrent=concurrent, first_search_ms=first_search_ms
    )


def _as_json(figures: Figures, dataset: Dataset, concurrency: int, split: str) -> dict[str, Any]:
    rate = figures.ingest.documents_per_second
    return {
        **{measure: dict(figures.quality[measure]) for measure in MEASURES},
        "search_p50_ms": figures.single.p50_ms,
        "search_p99_ms": figures.single.p99_ms,
        "ingest_documents_per_second": rate,
        "documents": dataset.document_count,
        "queries": len(dataset.queries),
        "split": split,
        "failed_documents": figures.ingest.failed,
        "passages": figures.ingest.passages,
        "tokens": figures.ingest.tokens,
        "ingest_seconds": figures.ingest.seconds,
        "first_search_ms": figures.first_search_ms,
        "search_stages_p50_ms": dict(figures.single.stages_p50_ms),
        "concurrent": {"concurrency": concurrency, **asdict(figures.concurrent)},
    }


def _print_tables(figures: Figures, dataset: Dataset, concurrency: int, memory: Mapping[str, int]) -> None:
    print_table(
        ["ranking", *MEASURES.values()],
        [[ranking, *(figures.quality[measure][ranking] for measure in MEASURES)] for ranking in RANKINGS],
        title=f"{len(dataset.queries):,} queries over {dataset.document_count:,} documents, limit {QUALITY_LIMIT}",
        right=list(MEASURES.values()),
        styles={"ranking": "bold"},
    )
    print_table(
        ["searches at once", "p50 ms", "p99 ms", "searches/s"],
        [
            [number, f"{timed.p50_ms:.1f}", f"{timed.p99_ms:.1f}", f"{timed.queries_per_second:.1f}"]
            for number, timed in ((1, figures.single), (concurrency, figures.concurrent))
        ],
        title=f"Search with the default settings, limit {LATENCY_LIMIT}",
        right=["searches at once", "p50 ms", "p99 ms", "searches/s"],
    )
    rate = figures.ingest.documents_per_second
    rows = [
        ("ingest", f"{rate:.1f} documents/s" if rate else "documents were there before"),
        ("refused documents", figures.ingest.failed),
        ("stages, p50", ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in figures.single.stages_p50_ms.items())),
    ]
    if memory:
        now, peak = (value / 2**20 for value in memory.values())
        rows.append(("server memory", f"{now:,.0f} MiB, at most {peak:,.0f} MiB"))
    print_table(["", "value"], rows)
