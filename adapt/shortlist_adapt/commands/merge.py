"""``shortlist adapt merge``: merges checkpoints, and chooses the best model on the development split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from shortlist_adapt.commands.options import chosen, run_argument, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.commands.train import KINDS
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.merging.merge import merge_embedder, merge_reranker
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.plan import with_options
from shortlist_adapt.training.checkpoints import saved
from shortlist_cli.output import print_table


@click.command("merge")
@run_argument
@click.option("--only", type=click.Choice(KINDS), help="Merge one of the two.")
@settings_options(MergeSettings)
def merge_command(folder: RunFolder, *, only: str | None, **options: Any) -> None:
    """Tries the checkpoints of RUN, their average and their spherical merges, also with the model they started from.

    The best on the development split becomes the model to publish, in model/. All figures are kept in sweep.json.
    """
    plan = with_options(folder, "merge", chosen(MergeSettings, options))
    kinds = [only] if only else [kind for kind in KINDS if saved(folder.checkpoints / kind)] or [KINDS[0]]
    parts = {}
    with shown() as progress:
        for kind in kinds:
            if kind == "embedder":
                part = merge_embedder(folder, plan.merge, plan.embedder, seed=plan.seed, progress=progress)
            else:
                part = merge_reranker(folder, plan.merge, plan.reranker, progress=progress)
            parts[kind] = part
    for kind, part in parts.items():
        print_sweep(kind, part)


def print_sweep(kind: str, part: Mapping[str, Any]) -> None:
    """Prints the candidates of a kind with their figures, in the order in which they were tried."""
    rows = [
        [row["name"], row["figure"], "chosen" if row["name"] == part["chosen"] else "", row["detail"]]
        for row in part["rows"]
    ]
    print_table([kind, part["measure"], "", "detail"], rows, right=[part["measure"]])
