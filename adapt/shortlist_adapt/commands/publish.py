"""``shortlist adapt publish``: publishes what the gate let pass, and switches the collection to it."""

from __future__ import annotations

from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, run_argument, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import with_options
from shortlist_adapt.publishing import Published, PublishSettings
from shortlist_cli.connection import connect, long_client_options
from shortlist_cli.output import note


@click.command("publish")
@run_argument
@settings_options(PublishSettings)
@estimate_option
@long_client_options
def publish_command(folder: RunFolder, *, estimate: bool, **options: Any) -> None:
    """Publishes the models of RUN that passed the gate, and lets the collection use them.

    The new generation serves at once, with the search settings that the gate tested. The former generation is kept and
    receives every write. Exit code 4 if the gate refused the models.
    """
    from shortlist_adapt import publishing

    plan = with_options(folder, "publish", chosen(PublishSettings, options))
    with connect(options) as client:
        note(f"publication will take {publishing.cost(folder, client, plan.collection).line()}")
        if estimate:
            return
        with shown() as progress:
            published = publishing.publish(folder, client, plan.collection, plan.publish, progress, seed=plan.seed)
    print_published(published)


def print_published(published: Published) -> None:
    """Says what serves now, and how to go back."""
    verb = "uses" if published.switched else "can use"
    click.echo(f"{published.collection} {verb} {', '.join(published.models)}")
    if published.ndcg_at_10 is not None:
        note(f"final nDCG@10 of the held-out queries is now {published.ndcg_at_10:.4f}")
    if published.former:
        note(f"to go back: shortlist reindex rollback {published.collection}")
        note(f"to free the former generation: shortlist reindex drop {published.collection} {published.former}")
