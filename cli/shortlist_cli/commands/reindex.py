"""``shortlist reindex``: changes the model, dimension or chunking of a collection while it serves.

``run`` guides through all steps. The other commands are the single steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from shortlist import Client, Generation, GenerationSwitch, NotFound, ReindexProgress
from shortlist_cli import output
from shortlist_cli.commands import generations as views
from shortlist_cli.commands.reindex_options import (
    judged_options,
    read_queries,
    reindex_settings,
    settings_options,
)
from shortlist_cli.commands.reindex_run import building, compare, run_command, wait_for_build
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options

collection_argument = click.argument("collection")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("reindex")
def reindex_group() -> None:
    """Changes the model, dimension or chunking of a collection while it serves.

    The server builds a new generation of passages and vectors beside the one that serves. A switch takes a moment and
    can be rolled back until the former generation is dropped. "run" does all steps and asks before it changes anything.
    """


reindex_group.add_command(run_command)


@reindex_group.command("start")
@collection_argument
@settings_options
@click.option("--estimate", "estimate_only", is_flag=True, help="Print what the reindex would need, and start nothing.")
@click.option("--wait", is_flag=True, help="Wait until the new generation is complete.")
@json_option
@long_client_options
def start_command(collection: str, *, estimate_only: bool, wait: bool, as_json: bool, **options: Any) -> None:
    """Starts to build a new generation of COLLECTION.

    The build goes on by itself, also after a restart of the server.
    """
    settings = reindex_settings(options)
    force = options.pop("force")
    client, timeout = connect_for_long(options)
    with client:
        if estimate_only:
            estimate = client.estimate_reindex(collection, **settings, force=force, timeout_seconds=timeout)
            if as_json:
                output.print_json(dataclasses.asdict(estimate))
            else:
                views.print_estimate(estimate)
            return
        client.start_reindex(collection, **settings, force=force, timeout_seconds=timeout)
        made = building(client, collection)
        if wait:
            made = wait_for_build(client, collection, made, timeout)
    _print_one(made, as_json=as_json)
    if not wait:
        output.note(f"building generation {made.number}; see: shortlist reindex status {collection}")


@reindex_group.command("status")
@collection_argument
@json_option
@client_options
def status_command(collection: str, *, as_json: bool, **options: Any) -> None:
    """Shows the generations of COLLECTION, and how far its reindex is."""
    with connect(options) as client:
        found = client.generations(collection)
        progress = _progress(client, found)
    if as_json:
        shown = None if progress is None else dataclasses.asdict(progress)
        output.print_json({"generations": [views.to_json(one) for one in found], "progress": shown})
        return
    views.print_generations(found)
    if progress is not None:
        click.echo()
        views.print_progress(progress)


@reindex_group.command("list")
@collection_argument
@json_option
@client_options
def list_command(collection: str, *, as_json: bool, **options: Any) -> None:
    """Lists the generations of COLLECTION."""
    with connect(options) as client:
        found = client.generations(collection)
    if as_json:
        output.print_json([views.to_json(one) for one in found])
    else:
        views.print_generations(found)


@reindex_group.command("pause")
@collection_argument
@client_options
def pause_command(collection: str, **options: Any) -> None:
    """Pauses the reindex of COLLECTION; it stays paused until it is resumed, also after a restart of the server."""
    with connect(options) as client:
        client.pause_operation(_operation(client, collection))
    output.note(f"paused; go on with: shortlist reindex resume {collection}")


@reindex_group.command("resume")
@collection_argument
@client_options
def resume_command(collection: str, **options: Any) -> None:
    """Resumes the reindex of COLLECTION where it was, after "pause" or after a failure that paused it."""
    with connect(options) as client:
        client.resume_operation(_operation(client, collection))
    output.note(f"resumed; see: shortlist reindex status {collection}")


@reindex_group.command("cancel")
@collection_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_options
def cancel_command(collection: str, *, yes: bool, **options: Any) -> None:
    """Cancels the reindex of COLLECTION and drops what it has built. Searches notice nothing."""
    with connect(options) as client:
        made = building(client, collection)
        if not yes:
            click.confirm(f"Drop the unfinished generation {made.number} of {collection}?", abort=True, err=True)
        if made.operation:
            client.cancel_operation(made.operation)
        else:
            client.drop_generation(collection, made.number)
    output.note(f"cancelled; generation {made.number} is dropped")


@reindex_group.command("compare")
@collection_argument
@click.option("--generation", type=click.IntRange(0), default=0, help="Generation to compare with the one that serves.")
@judged_options
@json_option
@long_client_options
def compare_command(collection: str, *, generation: int, as_json: bool, **options: Any) -> None:
    """Compares a generation of COLLECTION with the one that serves: the one being built, else the former.

    Judged queries show which of the two ranks better. Recent queries show how much would change for callers; the
    server keeps some in memory if its setting sampled_queries says so.
    """
    judged, recent = read_queries(options)
    client, timeout = connect_for_long(options)
    with client:
        comparison = compare(client, collection, generation, judged, recent, timeout)
    if as_json:
        output.print_json(dataclasses.asdict(comparison))
    else:
        views.print_comparison(comparison)


@reindex_group.command("switch")
@collection_argument
@click.option("--generation", type=click.IntRange(0), default=0, help="Generation to serve; by default the new one.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@client_options
def switch_command(collection: str, *, generation: int, yes: bool, as_json: bool, **options: Any) -> None:
    """Lets the new generation of COLLECTION serve, at once for all searches. No search fails.

    The generation that served becomes the former one. The server drops the former generation of an earlier switch.
    """
    with connect(options) as client:
        if not yes:
            click.confirm(f"Switch all searches of {collection}?", abort=True, err=True)
        switched = client.switch_generation(collection, generation)
    _print_switch(collection, switched, as_json=as_json)


@reindex_group.command("rollback")
@collection_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@client_options
def rollback_command(collection: str, *, yes: bool, as_json: bool, **options: Any) -> None:
    """Lets the former generation of COLLECTION serve again; it has every write that came meanwhile."""
    with connect(options) as client:
        if not yes:
            click.confirm(f"Roll back all searches of {collection}?", abort=True, err=True)
        switched = client.roll_back_generation(collection)
    _print_switch(collection, switched, as_json=as_json)


@reindex_group.command("drop")
@collection_argument
@click.argument("generation", type=click.IntRange(1))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_options
def drop_command(collection: str, generation: int, *, yes: bool, **options: Any) -> None:
    """Drops GENERATION of COLLECTION, which must not serve. The server frees its space in the background."""
    with connect(options) as client:
        if not yes:
            click.confirm(f"Drop generation {generation} of {collection}? There is no undo.", abort=True, err=True)
        client.drop_generation(collection, generation)
    output.note(f"dropped generation {generation}")


def _operation(client: Client, collection: str) -> str:
    made = building(client, collection)
    if not made.operation:
        raise click.ClickException(f"generation {made.number} is complete; no reindex of {collection} runs")
    return made.operation


def _progress(client: Client, found: list[Generation]) -> ReindexProgress | None:
    for one in found:
        if one.operation:
            try:
                progress = client.get_operation(one.operation).progress
            except NotFound:
                # It has ended since the generations were listed.
                return None
            return progress if isinstance(progress, ReindexProgress) else None
    return None


def _print_one(made: Generation, *, as_json: bool) -> None:
    if as_json:
        output.print_json(views.to_json(made))
    else:
        views.print_generations([made])


def _print_switch(collection: str, switched: GenerationSwitch, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"serving": views.to_json(switched.serving), "former": views.to_json(switched.former)})
        return
    click.echo(f"{collection}: generation {switched.serving.number} serves ({views.model_of(switched.serving)})")
    views.print_next_steps(collection, switched.former)
