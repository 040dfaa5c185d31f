"""``shortlist adapt run``: all steps, from a served collection to a published, better model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, out_option, seed_option, settings_options
from shortlist_adapt.commands.publish import print_published
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.corpus import Corpus, export
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import Plan, begin, write_plan
from shortlist_adapt.run import run
from shortlist_adapt.settings import from_text, setting
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.synthesise import cost, sources_of
from shortlist_cli.connection import connect, long_client_options
from shortlist_cli.output import note


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bases:
    embedder_base: str = setting("", "Model that the embedder starts from, a name or a folder; what serves by default.")
    reranker_base: str = setting("", "Model that the reranker starts from; the embedder's own base by default.")


@click.command("run")
@click.argument("collection")
@out_option
@seed_option
@settings_options(SynthesisSettings)
@settings_options(_Bases)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="STEP.SETTING=VALUE",
    help="Another setting of a step, as plan.json names it, such as mining.negatives=4; repeatable.",
)
@click.option("--no-publish", is_flag=True, help="End after the gate.")
@click.option("--yes", is_flag=True, help="Do not ask before the run begins.")
@estimate_option
@long_client_options
def run_command(
    collection: str,
    *,
    folder: RunFolder,
    seed: int | None,
    changes: tuple[str, ...],
    no_publish: bool,
    yes: bool,
    estimate: bool,
    **options: Any,
) -> None:
    """Adapts models to COLLECTION: makes queries, mines negatives, trains, merges, tests, and publishes what is better.

    Interrupt it whenever you like: the same command goes on where it was. What the models learned from and how they
    did is in the folder RUN, above all in report.html. Exit code 4 if the result is not better than what serves; then
    nothing changes.
    """
    plan = begin(folder, collection, seed).changed(chosen(SynthesisSettings, options), "synthesis")
    plan = plan.changed(chosen(_Bases, options))
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise InvalidInput(f"{change!r} is not STEP.SETTING=VALUE")
        plan = plan.changed({path: from_text(plan, path, text)})
    write_plan(folder, plan)
    with connect(options) as client:
        with shown() as progress:
            export(folder, client, collection, progress)
        if estimate or not folder.queries.exists():
            say_cost(folder, plan)
        if estimate:
            return
        if not yes and not folder.queries.exists() and sys.stdin.isatty():
            click.confirm("Begin?", default=True, abort=True, err=True)
        with shown() as progress:
            published = run(folder, client, plan, progress, publish=not no_publish)
    if published is not None:
        print_published(published)
    note(f"report: {folder.report}")


def say_cost(folder: RunFolder, plan: Plan) -> None:
    """Says what is known before the run begins. Raises ``InvalidInput``."""
    with Corpus(folder.corpus) as corpus:
        sources = sources_of(plan.synthesis, folder, seed=plan.seed)
        note(f"synthesise: {cost(corpus, sources, plan.synthesis, seed=plan.seed).line()}")
    note("every other step says what it costs before it begins, because that depends on the step before")
