"""``shortlist collections``: list, create, show, update, recall and delete."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from shortlist import Chunking, Collection, CollectionConfig, SearchDefaults
from shortlist_cli import output
from shortlist_cli.commands.rerank_options import read_rerank, rerank_options
from shortlist_cli.connection import client_options, connect


@click.group("collections")
def collections_group() -> None:
    """Lists, creates, shows, updates and deletes collections, and shows their recall."""


@collections_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def list_command(*, as_json: bool, **options: Any) -> None:
    """Lists the collections of the server."""
    with connect(options) as client:
        collections = list(client.list_collections())
    if as_json:
        output.print_json([to_json(collection) for collection in collections])
        return
    rows = [
        [
            collection.name,
            collection.document_count,
            collection.passage_count,
            collection.config.embedder,
            collection.config.reranker,
            f"{collection.disk_bytes / 1e6:.1f}",
        ]
        for collection in collections
    ]
    columns = ["name", "documents", "passages", "embedder", "reranker", "MB"]
    output.print_table(columns, rows, right=("documents", "passages", "MB"), styles={"name": "bold"})
    for collection in collections:
        if collection.problem:
            output.note(f"{collection.name} cannot be used: {collection.problem}")
        if collection.notice:
            output.note(f"{collection.name}: {collection.notice}")


@collections_group.command("create")
@click.argument("name")
@click.option(
    "--embedder", default="", metavar="NAME", help='Embedder; by default the server\'s. "none" for your own vectors.'
)
@click.option(
    "--dimension", type=click.IntRange(0), default=0, help="Dimension of the vectors; by default the embedder's."
)
@click.option("--reranker", default="", metavar="NAME", help="Reranker; by default the server's.")
@click.option("--filterable", multiple=True, metavar="FIELD", help="Metadata field to index for filters; repeatable.")
@click.option("--max-tokens", type=click.IntRange(0), default=0, help="Tokens of a passage; by default the server's.")
@click.option(
    "--overlap-tokens", type=click.IntRange(0), help="Tokens shared by neighbouring passages; an eighth by default."
)
@click.option(
    "--overflow",
    type=click.Choice(["chunk", "truncate", "error"]),
    help="What to do with a text longer than a passage.",
)
@click.option("--query-instruction", default="", metavar="TEXT", help="Instruction to put before queries.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def create_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Creates the collection NAME."""
    config = CollectionConfig(
        embedder=options.pop("embedder"),
        dimension=options.pop("dimension"),
        reranker=options.pop("reranker"),
        chunking=Chunking(max_tokens=options.pop("max_tokens"), overlap_tokens=options.pop("overlap_tokens")),
        overflow=options.pop("overflow"),
        filterable_fields=tuple(options.pop("filterable")),
        query_instruction=options.pop("query_instruction"),
    )
    with connect(options) as client:
        _print(client.create_collection(name, config), as_json=as_json)


@collections_group.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def show_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Shows the settings and the size of the collection NAME."""
    with connect(options) as client:
        _print(client.get_collection(name), as_json=as_json)


@collections_group.command("update")
@click.argument("name")
@rerank_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def update_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Sets how searches in the collection NAME rerank unless they say otherwise.

    The options replace what was set before: what is not given goes back to the default.
    """
    rerank = read_rerank(options)
    if rerank is None:
        raise click.UsageError(
            "nothing to change: give --rerank, --no-rerank, --reranker, --depth, --weight or --stage"
        )
    with connect(options) as client:
        changed = client.update_collection(name, SearchDefaults(rerank=rerank), update_mask=["search_defaults.rerank"])
    _print(changed, as_json=as_json)


@collections_group.command("recall")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def recall_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Shows the recall of searches in the collection NAME, as the server estimates it."""
    with connect(options) as client:
        recall = client.recall(name)
    if as_json:
        output.print_json(dataclasses.asdict(recall))
        return
    rows = [
        [kind, one.recall, one.lower, one.upper, recall.target, one.query_count, one.ef]
        for kind, one in (("without filter", recall.unfiltered), ("with filter", recall.filtered))
    ]
    columns = ["searches", "recall@10", "lower", "upper", "target", "queries", "ef"]
    output.print_table(columns, rows, right=columns[1:], styles={"recall@10": "bold"})


@collections_group.command("delete")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_options
def delete_command(name: str, *, yes: bool, **options: Any) -> None:
    """Deletes the collection NAME and all its documents; there is no undo."""
    with connect(options) as client:
        collection = client.get_collection(name)
        if not yes:
            click.confirm(f"Delete {name} with {collection.document_count:,} documents?", abort=True, err=True)
        client.delete_collection(name)
    output.note(f"deleted {name}")


def to_json(collection: Collection) -> dict[str, Any]:
    """A collection as JSON values; its keys are the names of the client's types."""
    return {**dataclasses.asdict(collection), "create_time": collection.create_time.isoformat()}


def _print(collection: Collection, *, as_json: bool) -> None:
    if as_json:
        output.print_json(to_json(collection))
        return
    flat = _flatten(to_json(collection))
    output.print_table(["setting", "value"], [[name, str(value)] for name, value in flat.items()])


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for place, one in enumerate(value):
                flat.update(_flatten(one, f"{prefix}{name}[{place}]."))
        elif value is not None:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat
