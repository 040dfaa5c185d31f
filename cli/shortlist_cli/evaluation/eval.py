"""``shortlist eval``: measures ranking quality and speed on judged queries, and compares two saved runs.

The documents go through ``Ingest`` and the queries through ``Search`` of a real server. That server is a child process
with a temporary folder, or the one named by ``--target``, where an existing collection can be measured as it is.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import click

from shortlist_cli.evaluation import subject
from shortlist_cli.evaluation.comparison import compare_runs, print_comparison
from shortlist_cli.evaluation.measuring import LATENCY_LIMIT, QUALITY_LIMIT
from shortlist_cli.evaluation.record import InvalidRecord, load_run
from shortlist_cli.evaluation.run import Figures, evaluate
from shortlist_cli.evaluation.settings import PATHS, InvalidSweep, Settings, parse_sweeps
from shortlist_cli.output import note, print_json, print_table
from shortlist_server.ranking.measures import MEASURES
from shortlist_server.ranking.significance import shown

DEFAULT_COLLECTION = "eval"
WORSE = 4
"""Exit code of "compare --fail-if-worse"."""


class _EvalGroup(click.Group):
    """Without a subcommand, ``eval`` means ``eval run``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Inserts "run" unless the first argument is a subcommand."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


@click.group("eval", cls=_EvalGroup)
def eval_command() -> None:
    """Measures ranking quality and speed, and compares two runs."""


@eval_command.command("run")
@subject.subject_options
@click.option("--split", default="test", show_default=True, help="Qrels of DIR to measure on: qrels/SPLIT.tsv.")
@click.option("--collection", metavar="NAME", help='Collection to measure; "eval" where DIR is ingested.')
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="PATH=V,V,...",
    help=f"Also measure these values of a setting; several sweeps multiply. PATH is one of {', '.join(PATHS)}.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder to save the run and report in."
)
@click.option("--keep", is_flag=True, help="With --target and DIR: do not delete the collection afterwards.")
@click.option(
    "--concurrency",
    default=16,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Searches at once in the second timing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run_command(
    *,
    split: str,
    collection: str | None,
    sweeps: tuple[str, ...],
    output: Path | None,
    keep: bool,
    concurrency: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measures the rankings and the speed of a server on judged queries.

    DIR is a folder in the format of the BEIR benchmark: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. The command
    starts a server on a free port and passes the options after "--" to its "shortlist serve". It runs every query of
    the split with the dense stage alone, with the lexical stage alone, with both fused, and with the default settings
    ("final"). Then it times searches, one at a time and --concurrency at a time.

    To measure an existing collection, give --target, --collection, --qrels and --queries; nothing is written to it.

    --sweep rerank.weight=0,0.3,0.5 also measures these settings and tests each against the defaults. --output saves
    every query's rankings and measures, and a report as one HTML file. "shortlist eval compare A B" tests whether two
    saved runs differ.
    """
    judged = subject.read_judged(options, split)
    if keep and not (options["target"] and options["folder"]):
        raise click.UsageError("--keep needs --target and DIR; to keep the data of a new server, use --data-dir")
    if options["qrels"] and not collection:
        raise click.UsageError("--qrels needs --collection, the collection to measure")
    subject.require("ir_measures", "scipy", "numpy", *(["vl_convert"] if output else []))
    try:
        swept = parse_sweeps(sweeps) if sweeps else []
    except InvalidSweep as error:
        raise click.BadParameter(str(error), param_hint="--sweep") from error
    settings = [Settings(), *(setting for setting in swept if setting.values)]
    if output:
        _make_output(output)
    subject.warn_missing(judged)
    subject.warn_few_candidates(settings)
    name = collection or DEFAULT_COLLECTION
    with subject.open_server(options) as server:
        if options["qrels"]:
            made: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        else:
            made = subject.own_collection(server.client, name, delete=options["target"] is not None and not keep)
        with made:
            figures = evaluate(server, name, judged, settings, concurrency)
    if output:
        from shortlist_cli.evaluation.report import write_report

        figures.record.save(output)
        note(f"saved {output}; the report is {write_report(figures.record, output)}")
    if as_json:
        print_json(_as_json(figures, concurrency, split))
    else:
        _print_tables(figures, concurrency)


@eval_command.command("compare")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--setting-a", metavar="LABEL", help="Setting of A to compare; by default its defaults.")
@click.option("--setting-b", metavar="LABEL", help="Setting of B to compare; by default its defaults.")
@click.option("--fail-if-worse", is_flag=True, help="Exit with code 4 when B's final nDCG@10 is significantly lower.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare_command(
    *,
    first: Path,
    second: Path,
    setting_a: str | None,
    setting_b: str | None,
    fail_if_worse: bool,
    as_json: bool,
) -> None:
    """Tests whether two saved runs differ, query by query.

    A and B are folders that "shortlist eval --output" saved. The table shows, for every ranking and measure: both
    means, the difference with its 95 % interval, and how often chance alone would produce a difference as large (paired
    randomisation test).
    """
    subject.require("scipy", "numpy")
    try:
        comparison = compare_runs(load_run(first), load_run(second), setting_a, setting_b)
    except InvalidRecord as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        print_json(comparison.to_json())
    else:
        print_comparison(comparison)
    decisive = comparison.differences["final"][next(iter(MEASURES))]
    if fail_if_worse and decisive.significant and decisive.mean < 0:
        raise SystemExit(WORSE)


def _make_output(folder: Path) -> None:
    """Creates the folder before measuring starts, so that a folder that cannot be written fails at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.BadParameter(f"{folder} cannot be written: {error.strerror}", param_hint="--output") from error


def _as_json(figures: Figures, concurrency: int, split: str) -> dict[str, Any]:
    record, first = figures.record, figures.record.settings[0]
    assert first.latency is not None
    about = record.about
    ingest = about.get("ingest") or {}
    return {
        **{m: {ranking: first.quality[m][ranking]["mean"] for ranking in first.rankings} for m in MEASURES},
        "search_p50_ms": first.latency["p50_ms"],
        "search_p99_ms": first.latency["p99_ms"],
        "ingest_documents_per_second": ingest.get("documents_per_second"),
        "documents": about["documents"],
        "queries": len(first.queries),
        "split": split,
        "failed_documents": ingest.get("failed"),
        "passages": ingest.get("passages", about["passages"]),
        "tokens": ingest.get("tokens"),
        "ingest_seconds": ingest.get("seconds"),
        "first_search_ms": about["first_search_ms"],
        "search_stages_p50_ms": dict(first.latency["stages_p50_ms"]),
        "concurrent": {"concurrency": concurrency, **about["concurrent"]},
        "rankings_latency": {ranking: dict(timed) for ranking, timed in record.stage_latency.items()},
        "settings": [
            {
                "label": setting.label,
                "values": dict(setting.values),
                "quality": setting.quality,
                "latency": setting.latency,
                "versus_defaults": setting.versus_defaults,
            }
            for setting in record.settings
        ],
        **figures.memory,
        "server_ready_seconds": about["server_ready_seconds"],
    }


def _print_tables(figures: Figures, concurrency: int) -> None:
    record, first = figures.record, figures.record.settings[0]
    about = record.about
    assert first.latency is not None
    print_table(
        ["ranking", *MEASURES.values()],
        [[ranking, *(first.quality[measure][ranking]["mean"] for measure in MEASURES)] for ranking in first.rankings],
        title=f"{len(first.queries):,} queries over {about['documents']:,} documents, limit {QUALITY_LIMIT}",
        right=list(MEASURES.values()),
        styles={"ranking": "bold"},
    )
    if len(record.settings) > 1:
        _print_sweep(figures)
    timings = [(1, first.latency), (concurrency, about["concurrent"])]
    print_table(
        ["searches at once", "p50 ms", "p99 ms", "searches/s"],
        [
            [number, f"{timed['p50_ms']:.1f}", f"{timed['p99_ms']:.1f}", f"{timed['queries_per_second']:.1f}"]
            for number, timed in timings
        ],
        title=f"Search with the default settings, limit {LATENCY_LIMIT}",
        right=["searches at once", "p50 ms", "p99 ms", "searches/s"],
    )
    stages = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in first.latency["stages_p50_ms"].items())
    rows: list[tuple[str, Any]] = [("stages, p50", stages)]
    if ingest := about.get("ingest"):
        rate = ingest["documents_per_second"]
        rows.insert(0, ("refused documents", ingest["failed"]))
        rows.insert(0, ("ingest", f"{rate:.1f} documents/s" if rate else "documents were already stored"))
    if figures.memory:
        now, peak = (value / 2**20 for value in figures.memory.values())
        rows.append(("server memory", f"{now:,.0f} MiB, at most {peak:,.0f} MiB"))
    print_table(["", "value"], rows)


def _print_sweep(figures: Figures) -> None:
    measure = next(iter(MEASURES))
    rows = []
    for setting in figures.record.settings:
        versus = setting.versus_defaults
        assert setting.latency is not None
        rows.append(
            [
                setting.label,
                setting.quality[measure]["final"]["mean"],
                None if versus is None else f"{versus['mean']:+.4f}",
                None if versus is None else f"{versus['low']:+.4f} to {versus['high']:+.4f}",
                None if versus is None else shown(versus["p_adjusted"]),
                f"{setting.latency['p50_ms']:.1f}",
            ]
        )
    columns = ["setting", f"final {MEASURES[measure]}", "against defaults", "95 % interval", "p, adjusted", "p50 ms"]
    print_table(columns, rows, title="Settings", right=columns[1:], styles={"setting": "bold"})
