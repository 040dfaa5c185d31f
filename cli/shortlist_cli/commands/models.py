"""``shortlist models``: publishes models to a running server, lists, shows, loads and deletes them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click

from shortlist import ModelKind, PublishedModel, PublishProgress, Unavailable, UploadProgress
from shortlist_cli import output
from shortlist_cli.commands.waiting import plain
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options

model_argument = click.argument("model", metavar="NAME@VERSION")


@click.group("models")
def models_group() -> None:
    """Publishes models to a running server, and lists, shows, loads and deletes them.

    A published model is called NAME@VERSION, and is used once somebody names it: in 'shortlist reindex start
    --embedder', in 'shortlist search --reranker', or in the settings of a collection. 'shortlist info' shows the models
    that are loaded.
    """


@models_group.command("publish")
@model_argument
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--kind", type=click.Choice(["embedder", "reranker"]), help="What it is; told by its files by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def publish_command(model: str, folder: str, *, kind: ModelKind | None, as_json: bool, **options: Any) -> None:
    """Uploads the model in FOLDER, lets the server check and load it, and prints its revision.

    The folder has the layout of sentence-transformers or transformers, with safetensors weights and tokenizer.json.
    When the command ends, the model is on the server's disk and can be used. Run it again after an interruption: the
    upload goes on where it was.
    """
    client, timeout = connect_for_long(options)
    with client, _showing() as progress:
        try:
            made = client.publish_model(model, folder, kind=kind, progress=progress, timeout_seconds=timeout)
        except (Unavailable, KeyboardInterrupt):
            output.note("what was uploaded stays on the server: run the command again to go on")
            raise
    _print_ready(made, as_json=as_json)


@models_group.command("load")
@model_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def load_command(model: str, *, as_json: bool, **options: Any) -> None:
    """Loads a published model that the server has on its disk.

    A start of the server loads only the models that a collection uses.
    """
    client, timeout = connect_for_long(options)
    with client, _showing() as progress:
        made = client.publish_model(model, progress=progress, timeout_seconds=timeout)
    _print_ready(made, as_json=as_json)


@models_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def list_command(*, as_json: bool, **options: Any) -> None:
    """Lists the published models and the unfinished uploads."""
    with connect(options) as client:
        found = list(client.list_models())
    if as_json:
        output.print_json([to_json(model) for model in found])
        return
    rows = [
        [
            one.model,
            one.kind,
            _state(one),
            one.revision[:12],
            f"{one.size_bytes / 1e6:.1f}",
            one.publish_time.isoformat(timespec="seconds") if one.publish_time else None,
            ", ".join(one.collections),
        ]
        for one in found
    ]
    columns = ["model", "kind", "state", "revision", "MB", "published", "used by"]
    output.print_table(columns, rows, right=("MB",), styles={"model": "bold", "state": "cyan"})
    for one in found:
        if one.problem:
            output.note(f"{one.model} is not loaded: {one.problem}")


@models_group.command("show")
@model_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def show_command(model: str, *, as_json: bool, **options: Any) -> None:
    """Shows a published model, its files and its card."""
    with connect(options) as client:
        found = client.get_model(model)
    if as_json:
        output.print_json(to_json(found))
        return
    rows: list[list[object]] = [
        ["kind", found.kind],
        ["state", _state(found)],
        ["revision", found.revision],
        ["number format", found.number_format],
        ["published", found.publish_time.isoformat(timespec="seconds") if found.publish_time else None],
        ["used by", ", ".join(found.collections)],
    ]
    rows += [[f"file {file.path}", f"{file.size_bytes:,} bytes, SHA-256 {file.sha256}"] for file in found.files]
    if found.problem:
        rows.append(["problem", found.problem])
    output.print_table(["property", "value"], rows, title=found.model, styles={"property": "bold"})
    if found.card:
        output.print_line("")
        for line in found.card.splitlines():
            output.print_line(line)


@models_group.command("delete")
@model_argument
@client_options
def delete_command(model: str, **options: Any) -> None:
    """Removes a published model from the memory and the disk of the server, or drops an unfinished upload.

    Refused while a generation was made with it, or the settings of a collection name it.
    """
    with connect(options) as client:
        client.delete_model(model)
    click.echo(f"deleted {model}")


def to_json(model: PublishedModel) -> dict[str, Any]:
    """A model as JSON values; its keys are the names of the client's type."""
    values: dict[str, Any] = plain({field.name: getattr(model, field.name) for field in dataclasses.fields(model)})
    return values


def _state(model: PublishedModel) -> str:
    if model.state != "uploading":
        return model.state
    return f"uploading, {model.received_bytes / max(model.size_bytes, 1):.0%}"


def _print_ready(model: PublishedModel, *, as_json: bool) -> None:
    if as_json:
        output.print_json(to_json(model))
    else:
        output.print_line(f"{model.model}: {model.kind}, computes in {model.number_format}; revision {model.revision}")


@contextlib.contextmanager
def _showing() -> Iterator[Callable[[UploadProgress | PublishProgress], None]]:
    """Shows a bar while files are sent, and then the server's steps; yields the function that updates it."""
    with contextlib.ExitStack() as shown:
        bar: Any = None
        steps: Any = None

        def show(progress: UploadProgress | PublishProgress) -> None:
            nonlocal bar, steps
            if isinstance(progress, UploadProgress):
                if bar is None:
                    bar = shown.enter_context(output.copy_bar())
                    bar.add_task("uploading", total=progress.total_bytes)
                bar.update(bar.task_ids[0], completed=progress.done_bytes)
                return
            if steps is None:
                # A terminal shows one display at a time.
                shown.close()
                steps = shown.enter_context(output.step_display())
                steps.add_task(progress.step, total=None)
            steps.update(steps.task_ids[0], description=progress.step)

        yield show
