"""``shortlist adapt synthesise``: begins a run, exports the collection and collects or makes queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, out_option, seed_option, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.corpus import Corpus, export
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import begin, write_plan
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.synthesise import cost, sources_of, synthesise
from shortlist_cli.connection import client_options, connect
from shortlist_cli.output import note, print_table


@click.command("synthesise")
@click.argument("collection")
@out_option
@seed_option
@settings_options(SynthesisSettings)
@estimate_option
@client_options
def synthesise_command(collection: str, *, folder: RunFolder, seed: int | None, estimate: bool, **options: Any) -> None:
    """Begins a run for COLLECTION: reads its documents, collects judged and clicked queries, and makes more.

    Queries that repeat, that copy the text, or whose document is not found again are dropped. The rest is divided into
    training, development and held-out queries, which only the gate may see. Written to queries.jsonl.
    """
    plan = begin(folder, collection, seed).changed(chosen(SynthesisSettings, options), "synthesis")
    write_plan(folder, plan)
    sources = sources_of(plan.synthesis, folder, seed=plan.seed)
    with connect(options) as client, shown() as progress:
        export(folder, client, collection, progress)
        with Corpus(folder.corpus) as corpus:
            progress.say(f"synthesise: {cost(corpus, sources, plan.synthesis, seed=plan.seed).line()}")
        if estimate:
            return
        figures = synthesise(folder, client, collection, plan.synthesis, progress, sources=sources, seed=plan.seed)
    print_queries(figures)


def print_queries(figures: Mapping[str, Any]) -> None:
    """Prints the counts of queries by source and split."""
    splits = ["train", "development", "held-out"]
    rows = [
        [source, *(counts.get(split, 0) for split in splits), sum(counts.values())]
        for source, counts in figures["by_source"].items()
    ]
    print_table(["source", *splits, "all"], rows, right=[*splits, "all"])
    for source, counts in figures["sources"].items():
        for what, count in counts.items():
            if what.startswith("rejected: "):
                note(f"{source} {what.replace(':', f' {count:,}:', 1)}")
    for reason, count in figures["dropped"].items():
        note(f"dropped {count:,}: {reason}")
    if figures["cut_links"]:
        note(f"{figures['cut_links']:,} pairs of queries share an answer and may be in different splits")
