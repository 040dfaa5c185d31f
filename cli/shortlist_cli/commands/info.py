"""``shortlist info``: shows a server and its models."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from shortlist import EmbedderModel, RerankerModel, ServerInfo
from shortlist_cli import output
from shortlist_cli.connection import client_options, connect


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def info_command(*, as_json: bool, **options: Any) -> None:
    """Shows the server's version, start and models; the first model of a kind is the default."""
    with connect(options) as client:
        info = client.server_info()
    if as_json:
        output.print_json({**dataclasses.asdict(info), "start_time": info.start_time.isoformat()})
        return
    output.print_table(["property", "value"], list(_rows(info)), styles={"property": "bold"})


def _rows(info: ServerInfo) -> list[tuple[str, str]]:
    rows = [
        ("version", info.version),
        ("ready since", info.start_time.isoformat(timespec="seconds")),
        ("start-up", f"{info.startup_seconds:.1f} s"),
        ("collections", str(info.collection_count)),
    ]
    for embedder in info.embedders:
        traits = [f"{embedder.dimension} dimensions", f"{embedder.max_tokens} tokens"]
        if embedder.min_dimension < embedder.dimension:
            traits.append(f"can be cut to {embedder.min_dimension}")
        if embedder.takes_instruction:
            traits.append("takes an instruction")
        if not embedder.token_vectors:
            traits.append("no late interaction")
        traits.append(_number_format(embedder))
        rows.append((f"embedder {embedder.name}", f"{', '.join(traits)}; revision {embedder.revision}"))
        # As JSON, so that a space or a line break at the end can be seen.
        shown = [json.dumps(text, ensure_ascii=False) for text in (embedder.query_prompt, embedder.passage_prompt)]
        rows.append((f"prompts of {embedder.name}", f"{shown[0]} before queries, {shown[1]} before passages"))
    for reranker in info.rerankers:
        traits = [f"weight {reranker.default_weight:g}", f"depth {reranker.default_depth}"]
        if reranker.takes_instruction:
            traits.append("takes an instruction")
        traits.append(_number_format(reranker))
        revision = f"; revision {reranker.revision}" if reranker.revision else ""
        rows.append((f"reranker {reranker.name}", f"{', '.join(traits)}{revision}"))
    return rows


def _number_format(model: EmbedderModel | RerankerModel) -> str:
    note = f" ({model.number_format_note})" if model.number_format_note else ""
    return f"computes in {model.number_format}{note}"
