"""``shortlist reindex run``: estimates, builds, compares, switches, and says how to go back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from shortlist import (
    Client,
    EvaluateProgress,
    FailedPrecondition,
    Generation,
    GenerationComparison,
    ReindexProgress,
)
from shortlist_cli import output
from shortlist_cli.commands import generations as views
from shortlist_cli.commands.reindex_options import (
    judged_options,
    read_queries,
    reindex_settings,
    settings_options,
)
from shortlist_cli.commands.waiting import follow
from shortlist_cli.connection import connect_for_long, long_client_options
from shortlist_cli.evaluation.beir import Judged

RECONNECT_SECONDS = 300.0
"""How long the server may be away while it builds: a restart with large models takes minutes."""

EXIT_WORSE = 4
"""Exit code when judged queries show the new generation to be worse, and --yes therefore did not switch."""


@click.command("run")
@click.argument("collection")
@settings_options
@judged_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask. Do not switch if judged queries show a loss.")
@long_client_options
def run_command(collection: str, *, yes: bool, **options: Any) -> None:
    """Changes the model or chunking of COLLECTION, step by step.

    The command estimates what the new generation needs, builds it while the collection serves, compares it with the
    one that serves, and switches. It asks before it builds and before it switches. If you end it, the build
    goes on without it; call it again to go on.

    With judged queries (--judged, or --qrels and --queries) the comparison shows which generation ranks better. Without
    them it uses recent queries, if the server keeps some. With --yes, the command does not switch where judged queries
    show the new generation to be worse; its exit code is then 4.
    """
    judged, recent = read_queries(options)
    settings, force = reindex_settings(options), options.pop("force")
    client, timeout = connect_for_long(options)
    with client:
        made = _found(client, collection, settings)
        if made is None:
            views.print_estimate(client.estimate_reindex(collection, **settings, force=force))
            if not yes:
                click.confirm(f"Build the new generation of {collection}?", abort=True, err=True)
            client.start_reindex(collection, **settings, force=force)
            made = building(client, collection)
        else:
            output.note(f"going on with generation {made.number} ({views.model_of(made)})")
        made = wait_for_build(client, collection, made, timeout)
        output.note(f"generation {made.number} is complete ({views.model_of(made)})")
        comparison = _compared(client, collection, made, judged, recent, timeout)
        if comparison is not None:
            views.print_comparison(comparison)
        _switch(client, collection, made, comparison, yes=yes)


def building(client: Client, collection: str) -> Generation:
    """The generation of the collection that is being built, or waits for the switch.

    Raises:
        click.ClickException: there is none.
    """
    for one in client.generations(collection):
        if one.state == "building":
            return one
    raise click.ClickException(f"no generation of {collection} is being built")


def wait_for_build(client: Client, collection: str, made: Generation, timeout: float | None) -> Generation:
    """Waits until the generation is complete, with a progress bar, and returns it.

    Raises:
        ShortlistError: the build failed, or was cancelled.
        click.Abort: the user interrupted the wait. The build goes on.
    """
    if made.complete or not made.operation:
        return made
    try:
        with _building(collection) as show:
            ended = client.wait_operation(
                made.operation, progress=show, timeout_seconds=timeout, reconnect_seconds=RECONNECT_SECONDS
            )
    except KeyboardInterrupt as interruption:
        output.note(f"the server goes on building; see: shortlist reindex status {collection}")
        output.note(f"to drop what it has built: shortlist reindex cancel {collection}")
        raise click.Abort from interruption
    if ended.error is not None:
        raise ended.error
    return building(client, collection)


def compare(
    client: Client, collection: str, generation: int, judged: Judged | None, recent: int, timeout: float | None
) -> GenerationComparison:
    """Compares a generation with the one that serves, with a progress bar."""
    with output.progress_bar() as bar:
        task = bar.add_task("compare", total=None)

        def show(progress: EvaluateProgress) -> None:
            bar.update(task, completed=progress.done_searches, total=max(progress.total_searches, 1))

        ended = follow(
            client,
            lambda: client.start_compare_generations(
                collection,
                generation=generation,
                queries=None if judged is None else judged.queries,
                qrels=None if judged is None else _grades(judged),
                recent_queries=recent,
                timeout_seconds=timeout,
            ),
            detach=False,
            as_json=False,
            progress=show,
            timeout_seconds=timeout,
        )
    assert ended is not None
    assert isinstance(ended.result, GenerationComparison)
    return ended.result


def _found(client: Client, collection: str, settings: dict[str, Any]) -> Generation | None:
    """The generation that an earlier call began; None where there is none."""
    for one in client.generations(collection):
        if one.state == "building":
            for name in ("embedder", "dimension"):
                if settings[name] not in ("", 0, getattr(one, name)):
                    raise click.ClickException(
                        f"generation {one.number} with {name} {getattr(one, name)} is being built already; "
                        f"to drop it: shortlist reindex cancel {collection}"
                    )
            return one
    return None


def _compared(
    client: Client, collection: str, made: Generation, judged: Judged | None, recent: int, timeout: float | None
) -> GenerationComparison | None:
    try:
        return compare(client, collection, made.number, judged, recent, timeout)
    except FailedPrecondition as error:
        if judged is not None:
            raise
        output.note(f"not compared: {error}")
        return None


def _switch(
    client: Client, collection: str, made: Generation, comparison: GenerationComparison | None, *, yes: bool
) -> None:
    worse = comparison is not None and views.is_worse(comparison)
    if worse:
        output.note("the judged queries show that the new generation ranks worse")
    if worse and yes:
        views.print_choices(collection, made)
        raise click.exceptions.Exit(EXIT_WORSE)
    if not yes and not click.confirm(f"Switch all searches of {collection} to generation {made.number}?", err=True):
        views.print_choices(collection, made)
        return
    switched = client.switch_generation(collection, made.number)
    click.echo(f"{collection}: generation {switched.serving.number} serves ({views.model_of(switched.serving)})")
    views.print_next_steps(collection, switched.former)


def _grades(judged: Judged) -> dict[str, dict[str, int]]:
    # The server takes no negative grades; they mean "not relevant", as 0 does.
    return {query: {id: max(0, grade) for id, grade in grades.items()} for query, grades in judged.qrels.items()}


@contextlib.contextmanager
def _building(collection: str) -> Iterator[Callable[[Any], None]]:
    """Shows a progress bar of a build, and a note when it is paused; yields the function that updates it."""
    told = ""
    with output.reindex_bar() as bar:
        task = bar.add_task("build", total=None, rate="", left="", failed=0)

        def show(progress: ReindexProgress) -> None:
            nonlocal told
            if progress.paused_reason and progress.paused_reason != told:
                output.note(f"paused: {progress.paused_reason}", above=bar)
                output.note(f"to go on: shortlist reindex resume {collection}", above=bar)
            told = progress.paused_reason
            left = progress.remaining_seconds
            bar.update(
                task,
                description="paused" if told else "build",
                completed=progress.done_documents,
                total=max(progress.total_documents, 1),
                rate=f"{progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else "",
                left="" if left is None else f"{views.duration(left)} left",
                failed=progress.failed_documents,
            )

        yield show
