"""The options of ``shortlist reindex``: what to build, and the queries to compare by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shortlist import Chunking
from shortlist_cli.evaluation.beir import InvalidDataset, Judged, load_judged, load_split


def settings_options(command: Any) -> Any:
    """Adds the options that say what to build; see ``reindex_settings``."""
    options = [
        click.option("--embedder", default="", metavar="NAME", help="New embedder; by default the collection's."),
        click.option(
            "--dimension", type=click.IntRange(0), default=0, help="New dimension; by default the embedder's."
        ),
        click.option("--max-tokens", type=click.IntRange(0), help="Tokens of a passage; by default the collection's."),
        click.option(
            "--overlap-tokens",
            type=click.IntRange(0),
            help="With --max-tokens: tokens shared by neighbouring passages; an eighth by default.",
        ),
        click.option("--query-instruction", metavar="TEXT", help="Instruction to put before queries."),
        click.option(
            "--force",
            is_flag=True,
            help="Start even if the estimate does not fit on the disk, or nothing would change.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def reindex_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Removes what ``settings_options`` added, but ``force``; returns it as arguments of ``Client.reindex``."""
    max_tokens, overlap_tokens = options.pop("max_tokens"), options.pop("overlap_tokens")
    if overlap_tokens is not None and max_tokens is None:
        raise click.UsageError("--overlap-tokens needs --max-tokens")
    return {
        "embedder": options.pop("embedder"),
        "dimension": options.pop("dimension"),
        "chunking": None if max_tokens is None else Chunking(max_tokens=max_tokens, overlap_tokens=overlap_tokens),
        "query_instruction": options.pop("query_instruction"),
    }


def judged_options(command: Any) -> Any:
    """Adds the options that choose the queries of a comparison; see ``read_queries``."""
    options = [
        click.option(
            "--judged",
            metavar="DIR",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Compare by the judged queries in this folder of BEIR's format.",
        ),
        click.option("--split", default="test", show_default=True, help="Qrels of DIR: qrels/SPLIT.tsv."),
        click.option(
            "--qrels",
            metavar="FILE",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Qrels of BEIR or TREC, instead of DIR.",
        ),
        click.option(
            "--queries",
            metavar="FILE",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Queries of --qrels, as JSON Lines.",
        ),
        click.option(
            "--recent",
            type=click.IntRange(0, 1000),
            default=0,
            help="Without judged queries: how many recent queries to compare by; 200 by default.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_queries(options: dict[str, Any]) -> tuple[Judged | None, int]:
    """Removes and reads what ``judged_options`` added: judged queries, or None and the number of recent ones.

    Raises:
        click.UsageError: the options contradict each other, or a file is malformed.
    """
    folder, split, qrels, queries, recent = (
        options.pop(name) for name in ("judged", "split", "qrels", "queries", "recent")
    )
    if bool(qrels) != bool(queries):
        raise click.UsageError("--qrels and --queries go together")
    if folder and qrels:
        raise click.UsageError("give either --judged, or --qrels and --queries")
    if recent and (folder or qrels):
        raise click.UsageError("--recent is for a comparison without judged queries")
    try:
        if folder:
            return load_split(folder, split), recent
        return (load_judged(queries, qrels), recent) if qrels else (None, recent)
    except InvalidDataset as error:
        raise click.BadParameter(str(error), param_hint="--qrels" if qrels else "--judged") from error
