"""``shortlist adapt mine``: finds hard negatives for the queries of a run."""

from __future__ import annotations

from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, run_argument, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.mining.mine import cost, mine
from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.plan import with_options
from shortlist_cli.connection import client_options, connect
from shortlist_cli.output import note


@click.command("mine")
@run_argument
@settings_options(MiningSettings)
@estimate_option
@client_options
def mine_command(folder: RunFolder, *, estimate: bool, **options: Any) -> None:
    """Searches the collection with the queries of RUN, and keeps hits that rank high and answer nothing.

    A hit that is nearly as similar as the known answer is left out, because it may be an answer that nobody judged.
    Held-out queries are not searched. Written to pairs.jsonl and shortlists.jsonl.
    """
    plan = with_options(folder, "mining", chosen(MiningSettings, options))
    with connect(options) as client, shown() as progress:
        progress.say(f"mine: {cost(folder, plan.mining).line()}")
        if estimate:
            return
        figures = mine(folder, client, plan.collection, plan.mining, progress, seed=plan.seed)
    note(f"{figures['pairs']:,} pairs from {figures['queries']:,} queries; {figures['shortlists']:,} shortlists")
    for name, text in (
        ("without_negatives", "queries have no safe negative"),
        ("answers_not_found", "answers were not among the hits"),
        ("answers_without_text", "answers have no text left"),
    ):
        if figures.get(name):
            note(f"{figures[name]:,} {text}")
