"""``shortlist search``: prints the hits of a query, with rank and score in every stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from shortlist import Degradation, Hit, ModelVersion, SearchReport, SearchResult, StageScore
from shortlist_cli import output
from shortlist_cli.commands.explanation import (
    print_explanation,
    rerank_cells,
    rerank_columns,
    rerank_styles,
    stage_cell,
)
from shortlist_cli.commands.filter_text import filter_option, parse_filters
from shortlist_cli.commands.rerank_options import read_rerank, rerank_options
from shortlist_cli.connection import client_options, connect

TEXT_LENGTH = 60
"""Longest headline of a document in the table, in characters."""


@click.command("search")
@click.argument("collection")
@click.argument("query")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=10, show_default=True, help="Hits to show.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Hits to skip.")
@filter_option
@click.option("--mode", type=click.Choice(["hybrid", "dense", "lexical"]), help="Indexes to search; hybrid by default.")
@rerank_options
@click.option("--instruction", metavar="TEXT", help="Instruction for embedders and rerankers that take one.")
@click.option(
    "--generation", type=click.IntRange(0), default=0, help="Generation to search; by default the one that serves."
)
@click.option("--explain", is_flag=True, help="Print the work of every stage, and what became of every candidate.")
@click.option(
    "--explain-texts", is_flag=True, help="Explain, and print the texts that the models read; needs the scope admin."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@client_options
def search_command(collection: str, query: str, **options: Any) -> None:
    """Searches COLLECTION for QUERY.

    A cell such as "3 0.871" is the rank and score of a hit in that stage; an empty cell means that the stage did not
    find the hit.
    """
    rerank = read_rerank(options)
    with connect(options) as client:
        result = client.search(
            collection,
            query,
            limit=options["limit"],
            offset=options["offset"],
            filter=parse_filters(options["filters"]),
            mode=options["mode"],
            instruction=options["instruction"],
            rerank=rerank,
            explain=options["explain"],
            explain_texts=options["explain_texts"],
            generation=options["generation"],
        )
    if options["as_json"]:
        output.print_json(result_to_json(result))
    else:
        print_result(result)
        if result.explanation is not None:
            click.echo()
            print_explanation(result.explanation, result.report)


def print_result(result: SearchResult, *, title: str | None = None) -> None:
    """Prints hits as a table, then the times of the stages on standard error.

    Args:
        title: a line above the table; on a terminal only.
    """
    reranks = rerank_columns(result.report)
    columns = ["rank", "score", "dense", "lexical", "fused", *reranks, "id", "document"]
    rows = [
        [
            hit.rank,
            hit.score,
            stage_cell(hit.dense),
            stage_cell(hit.lexical),
            stage_cell(hit.fused),
            *rerank_cells(hit.reranks, result.report),
            hit.id,
            headline(hit),
        ]
        for hit in result
    ]
    output.print_table(
        columns,
        rows,
        title=title,
        right=("rank", "score"),
        styles={"score": "bold green", "fused": "magenta", "id": "blue", **rerank_styles(result.report)},
    )
    output.note(times_line(result.report))
    for degradation in result.report.degradations:
        output.note(degradation_line(degradation))


def headline(hit: Hit) -> str:
    """The title, or else the beginning of the text, as one line."""
    line = " ".join((hit.document.title or hit.document.text).split())
    return line if len(line) <= TEXT_LENGTH else f"{line[: TEXT_LENGTH - 1]}…"


def degradation_line(degradation: Degradation) -> str:
    """What was lost, and in which rerank stage, as one line."""
    where = f" in rerank stage {degradation.stage}" if degradation.stage else ""
    return f"degraded{where}: {degradation.message}"


def times_line(report: SearchReport) -> str:
    """The time of each stage in milliseconds, as one line."""
    stages = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in report.stage_seconds.items())
    reranked = ", then ".join(str(stage.reranked) for stage in report.rerank_stages) or "0"
    return f"{report.total_seconds * 1000:.1f} ms ({stages}); {report.mode}, {reranked} reranked"


def result_to_json(result: SearchResult) -> dict[str, Any]:
    """An answer as JSON values; its keys are the names of the client's types."""
    report = result.report
    explanation = {} if result.explanation is None else {"explanation": dataclasses.asdict(result.explanation)}
    return {
        "hits": [
            {
                "id": hit.id,
                "rank": hit.rank,
                "score": hit.score,
                "dense": _stage_to_json(hit.dense),
                "lexical": _stage_to_json(hit.lexical),
                "fused": _stage_to_json(hit.fused),
                "reranks": [dataclasses.asdict(score) for score in hit.reranks],
                "title": hit.document.title,
                "text": hit.document.text,
                "metadata": dict(hit.document.metadata),
                "sequence": hit.sequence,
            }
            for hit in result
        ],
        "report": {
            "total_ms": report.total_seconds * 1000,
            "stage_ms": {name: seconds * 1000 for name, seconds in report.stage_seconds.items()},
            "mode": report.mode,
            "dense_strategy": report.dense_strategy,
            "dense_candidates": report.dense_candidates,
            "lexical_candidates": report.lexical_candidates,
            "fused_candidates": report.fused_candidates,
            "rerank_stages": [
                {**dataclasses.asdict(stage), "model": _version_to_json(stage.model)} for stage in report.rerank_stages
            ],
            "filter_matches": report.filter_matches,
            "query_tokens": report.query_tokens,
            "sequence": report.sequence,
            "generation": report.generation,
            "embedder": _version_to_json(report.embedder),
            "degradations": [dataclasses.asdict(item) for item in report.degradations],
        },
        **explanation,
    }


def _version_to_json(version: ModelVersion | None) -> dict[str, str] | None:
    return None if version is None else {"name": version.name, "revision": version.revision}


def _stage_to_json(score: StageScore | None) -> dict[str, Any] | None:
    return None if score is None else {"rank": score.rank, "score": score.score, "normalized": score.normalized}
