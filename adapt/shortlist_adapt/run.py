"""All steps in order: from a served collection to a published model that is better, or to the reason why not.

A step that is done is not done again, so a run that was killed goes
on where it was, and its result is that of an undisturbed one.
"""

from __future__ import annotations

from shortlist import Client
from shortlist_adapt.corpus import export
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.mining import mine as mining
from shortlist_adapt.plan import Plan
from shortlist_adapt.progress import Progress
from shortlist_adapt.publishing import Published
from shortlist_adapt.synthesis import synthesise as synthesis


def run(folder: RunFolder, client: Client, plan: Plan, progress: Progress, *, publish: bool = True) -> Published | None:
    """Runs every step of the plan. Says what each step but the first costs; see ``synthesise.cost`` for that one.

    Args:
        folder: the run, begun with this plan.
        client: a client of the server.
        plan: all settings.
        progress: is told how far each step is.
        publish: whether to publish what passes the gate.

    Returns:
        What was published; None where that was not wanted.

    Raises:
        GateRefused: the candidate is not better. Nothing of it is left on the server.
        AdaptError: a step cannot go on.
        ShortlistError: the server failed. Run again to go on.
    """
    from shortlist_adapt import publishing
    from shortlist_adapt.gating import gate as gating
    from shortlist_adapt.training.bases import embedder_base, reranker_base

    if not (plan.embedder.enabled or plan.reranker.enabled):
        raise InvalidInput("neither the embedder nor the reranker is to be trained: enable one of them")
    export(folder, client, plan.collection, progress)
    # A base that is missing is said before hours are spent.
    if plan.embedder.enabled:
        embedder_base(folder, plan.embedder_base)
    if plan.reranker.enabled:
        reranker_base(folder, plan.reranker_base, plan.embedder_base)
    sources = synthesis.sources_of(plan.synthesis, folder, seed=plan.seed)
    synthesis.synthesise(folder, client, plan.collection, plan.synthesis, progress, sources=sources, seed=plan.seed)
    _say(progress, "mine", mining.cost(folder, plan.mining).line())
    mining.mine(folder, client, plan.collection, plan.mining, progress, seed=plan.seed)
    if plan.embedder.enabled:
        _train_embedder(folder, plan, progress)
    if plan.reranker.enabled:
        _train_reranker(folder, plan, progress)
    _say(progress, "gate", gating.cost(folder, client, plan.collection, plan.gate).line())
    gating.gate(folder, client, plan.collection, plan.gate, progress, seed=plan.seed)
    if not publish:
        return None
    _say(progress, "publish", publishing.cost(folder, client, plan.collection).line())
    return publishing.publish(folder, client, plan.collection, plan.publish, progress, seed=plan.seed)


def _train_embedder(folder: RunFolder, plan: Plan, progress: Progress) -> None:
    from shortlist_adapt.merging.merge import merge_embedder
    from shortlist_adapt.training.bases import embedder_base
    from shortlist_adapt.training.embedder import embedder_cost, train_embedder

    base = embedder_base(folder, plan.embedder_base)
    _say(progress, "train the embedder", embedder_cost(folder, base, plan.embedder).line())
    train_embedder(folder, base, plan.embedder, seed=plan.seed, progress=progress)
    merge_embedder(folder, plan.merge, plan.embedder, seed=plan.seed, progress=progress)


def _train_reranker(folder: RunFolder, plan: Plan, progress: Progress) -> None:
    from shortlist_adapt.merging.merge import merge_reranker
    from shortlist_adapt.training.bases import reranker_base
    from shortlist_adapt.training.reranker import reranker_cost, train_reranker

    base = reranker_base(folder, plan.reranker_base, plan.embedder_base)
    _say(progress, "train the reranker", reranker_cost(folder, base, plan.reranker).line())
    train_reranker(folder, base, plan.reranker, seed=plan.seed, progress=progress)
    merge_reranker(folder, plan.merge, plan.reranker, progress=progress)


def _say(progress: Progress, step: str, cost: str) -> None:
    progress.say(f"{step}: {cost}")
