"""``shortlist adapt train``: trains the embedder, the reranker, or both, on the pairs of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, run_argument, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import with_options
from shortlist_adapt.settings import nested, setting
from shortlist_adapt.training.bases import embedder_base, reranker_base
from shortlist_adapt.training.settings import EmbedderTraining, RerankerTraining
from shortlist_cli.output import note, print_table

KINDS = ("embedder", "reranker")


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainOptions:
    """The values of the plan that the command may change."""

    embedder_base: str = setting(
        "", "Model that the embedder starts from, a name or a folder. Empty: the collection's own."
    )
    reranker_base: str = setting("", "Model that the reranker starts from. Empty: the embedder's own base.")
    embedder: EmbedderTraining = nested(EmbedderTraining)
    reranker: RerankerTraining = nested(RerankerTraining)


@click.command("train")
@run_argument
@click.option("--only", type=click.Choice(KINDS), help="Train one of the two.")
@settings_options(_TrainOptions)
@estimate_option
def train_command(folder: RunFolder, *, only: str | None, estimate: bool, **options: Any) -> None:
    """Trains models on the pairs of RUN; checkpoints are measured on its development split.

    An interrupted training goes on from its newest checkpoint and ends as if undisturbed.
    """
    plan = with_options(folder, "", chosen(_TrainOptions, options))
    with shown() as progress:
        if only in (None, "embedder") and plan.embedder.enabled:
            from shortlist_adapt.training.embedder import embedder_cost, train_embedder

            base = embedder_base(folder, plan.embedder_base)
            progress.say(f"train the embedder: {embedder_cost(folder, base, plan.embedder).line()}")
            if not estimate:
                train_embedder(folder, base, plan.embedder, seed=plan.seed, progress=progress)
        if only in (None, "reranker") and plan.reranker.enabled:
            from shortlist_adapt.training.reranker import reranker_cost, train_reranker

            base = reranker_base(folder, plan.reranker_base, plan.embedder_base)
            progress.say(f"train the reranker: {reranker_cost(folder, base, plan.reranker).line()}")
            if not estimate:
                train_reranker(folder, base, plan.reranker, seed=plan.seed, progress=progress)
    if not estimate:
        for kind in KINDS:
            print_checkpoints(folder, kind)


def print_checkpoints(folder: RunFolder, kind: str) -> None:
    """Prints the checkpoints of a kind with their figures, if there are any."""
    from shortlist_adapt.training.checkpoints import best, saved

    found = saved(folder.checkpoints / kind)
    if not found:
        return
    leading = best(found)
    rows = [
        [
            one.name,
            f"{one.epoch:.2f}",
            "" if one.development is None else f"{one.development:.4f}",
            "best" if one == leading else "",
        ]
        for one in found
    ]
    print_table([kind, "epochs", "development", ""], rows, right=["epochs", "development"])
    if leading is None:
        note("no development queries: nothing was measured")
