"""Finds the models that run on workers."""

from __future__ import annotations

import dataclasses

from shortlist_server.config import Config
from shortlist_server.inference.entries import check_models
from shortlist_server.inference.loaded_models import LoadedModels, labels, late_interaction
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.services import (
    PASSAGE_LIMITS,
    QUERY_LIMITS,
    RERANK_LIMITS,
    ScheduledEmbedder,
    ScheduledReranker,
)
from shortlist_server.observe.observer import Observer
from shortlist_server.remote.engines import RemoteEmbedder, RemoteReranker
from shortlist_server.remote.pool import open_pool


def find_models(config: Config, observer: Observer | None = None) -> LoadedModels:
    """Asks the workers of ``config.workers`` for their models and puts a lane in front of each.

    The lanes report to ``observer``. Blocks; called once, by the composition root.

    Raises:
        InvalidArgument: a setting is wrong, or a file that it names cannot be read.
        Unavailable: no worker can be reached.
    """
    observer = observer or Observer()
    check_models(config)
    pool = open_pool(config)
    try:
        described = pool.describe()
    except Exception:
        pool.close()
        raise
    # Two batches for each worker: it gets the next one while it runs the first. Queries should not wait, so more of
    # them are under way.
    query_limits = dataclasses.replace(QUERY_LIMITS, threads=4 * len(pool))
    passage_limits = dataclasses.replace(PASSAGE_LIMITS, threads=2 * len(pool), niceness=0)
    rerank_limits = dataclasses.replace(RERANK_LIMITS, threads=2 * len(pool))
    engines = [RemoteEmbedder(pool, one) for one in described.embedders]
    precedence = Precedence()
    embedders = [
        ScheduledEmbedder(
            engine,
            query_limits=query_limits,
            passage_limits=passage_limits,
            observer=observer,
            label=label,
            precedence=precedence,
        )
        for engine, label in zip(engines, labels([engine.info for engine in engines]), strict=True)
    ]
    rerankers, default = late_interaction(embedders, observer)
    for number, one in enumerate(described.rerankers):
        rerankers[one.name] = ScheduledReranker(RemoteReranker(pool, one), rerank_limits, observer)
        default = one.name if number == 0 else default
    return LoadedModels(embedders, rerankers, default, pool.close)
