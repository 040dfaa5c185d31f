"""The settings of a search, as a request or a collection's search defaults set them."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

from google.protobuf.message import Message

from shortlist.v1 import collection_pb2 as collection_pb
from shortlist.v1 import search_pb2 as pb
from shortlist.v1 import search_service_pb2 as service_pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.convert import fields

E = TypeVar("E", bound=Enum)

MAX_EF = 10_000

MAX_RERANK_STAGES = 4


def settings_in(
    message: service_pb.SearchRequest | collection_pb.SearchDefaults,
    prefix: str,
    config: Config,
) -> domain.SearchDefaults:
    """The settings that a request or a collection's defaults set."""
    candidates, fusion, rerank = message.candidates, message.fusion, message.rerank

    def bounded(part: Message, path: str, name: str, low: float, high: float) -> float | None:
        if not part.HasField(name):
            return None
        value: float = getattr(part, name)
        return fields.within(value, low, high, f"{prefix}{path}.{name}")

    def count(part: Message, path: str, name: str, high: int) -> int | None:
        value = bounded(part, path, name, 1, high)
        return None if value is None else int(value)

    one = _stage_in(rerank, f"{prefix}rerank", config)
    stages = _stages_in(rerank, f"{prefix}rerank.stages", config)
    if stages and one != domain.RerankStage():
        raise InvalidArgument(
            "give the settings of each stage in stages, and none beside it", field=f"{prefix}rerank.stages"
        )
    target = None
    if isinstance(message, collection_pb.SearchDefaults) and message.HasField("recall_target"):
        target = fields.within(message.recall_target, 0.0, 1.0, f"{prefix}recall_target")
    return domain.SearchDefaults(
        mode=enum_in(domain.RetrievalMode, pb.RetrievalMode, message.mode, f"{prefix}mode"),
        dense_candidates=count(candidates, "candidates", "dense", config.max_candidates),
        lexical_candidates=count(candidates, "candidates", "lexical", config.max_candidates),
        ef=count(candidates, "candidates", "ef", MAX_EF),
        exact=candidates.exact if candidates.HasField("exact") else None,
        fusion=enum_in(domain.FusionMethod, pb.FusionMethod, fusion.method, f"{prefix}fusion.method"),
        dense_weight=bounded(fusion, "fusion", "dense_weight", 0, 1),
        rrf_k=count(fusion, "fusion", "rrf_k", 1000),
        rerank=rerank.enabled if rerank.HasField("enabled") else None,
        reranker=one.model,
        rerank_depth=one.depth,
        rerank_weight=one.weight,
        rerank_instruction=one.instruction,
        rerank_on_failure=enum_in(
            domain.RerankFailurePolicy, pb.RerankFailurePolicy, rerank.on_failure, f"{prefix}rerank.on_failure"
        ),
        rerank_deadline_share=one.deadline_share,
        rerank_stages=stages or None,
        recall_target=target,
    )


def _stages_in(message: pb.Rerank, path: str, config: Config) -> tuple[domain.RerankStage, ...]:
    fields.within(len(message.stages), 0, MAX_RERANK_STAGES, path)
    stages = tuple(_stage_in(stage, f"{path}[{i}]", config) for i, stage in enumerate(message.stages))
    for i, stage in enumerate(stages):
        if stage.model == domain.NO_MODEL:
            raise InvalidArgument("a stage needs a reranker: leave the stage out", field=f"{path}[{i}].model")
    return stages


def _stage_in(message: pb.Rerank | pb.RerankStage, path: str, config: Config) -> domain.RerankStage:
    """The settings of one stage; ``path`` is what errors name."""
    depth = weight = share = None
    if message.HasField("depth"):
        depth = fields.within(message.depth, 1, config.max_rerank_depth, f"{path}.depth")
    if message.HasField("weight"):
        weight = fields.within(message.weight, 0.0, 1.0, f"{path}.weight")
    if message.HasField("deadline_share"):
        share = fields.within(message.deadline_share, 0.0, 1.0, f"{path}.deadline_share")
        if not share:
            raise InvalidArgument("a share above 0 is needed", field=f"{path}.deadline_share")
    return domain.RerankStage(
        model=message.model or None,
        depth=depth,
        weight=weight,
        instruction=fields.text(message.instruction, fields.MAX_INSTRUCTION_BYTES, f"{path}.instruction") or None,
        deadline_share=share,
    )


def settings_out(settings: domain.SearchDefaults) -> collection_pb.SearchDefaults:
    """A collection's search defaults; what is not set stays unset."""
    message = collection_pb.SearchDefaults(
        candidates=pb.Candidates(
            dense=settings.dense_candidates,
            lexical=settings.lexical_candidates,
            ef=settings.ef,
            exact=settings.exact,
        ),
        fusion=pb.Fusion(dense_weight=settings.dense_weight, rrf_k=settings.rrf_k),
        rerank=pb.Rerank(
            enabled=settings.rerank,
            model=settings.reranker or "",
            depth=settings.rerank_depth,
            weight=settings.rerank_weight,
            instruction=settings.rerank_instruction or "",
            deadline_share=settings.rerank_deadline_share,
            stages=[
                pb.RerankStage(
                    model=stage.model or "",
                    depth=stage.depth,
                    weight=stage.weight,
                    instruction=stage.instruction or "",
                    deadline_share=stage.deadline_share,
                )
                for stage in settings.rerank_stages or ()
            ],
        ),
        recall_target=settings.recall_target,
    )
    if settings.mode is not None:
        message.mode = pb.RetrievalMode.Value(f"RETRIEVAL_MODE_{settings.mode.name}")
    if settings.fusion is not None:
        message.fusion.method = pb.FusionMethod.Value(f"FUSION_METHOD_{settings.fusion.name}")
    if settings.rerank_on_failure is not None:
        message.rerank.on_failure = pb.RerankFailurePolicy.Value(
            f"RERANK_FAILURE_POLICY_{settings.rerank_on_failure.name}"
        )
    return message


def enum_in(kind: type[E], names: Any, number: int, field: str) -> E | None:
    """The domain's value of a proto enum whose names end in the domain's names; None when it is not set."""
    if number == 0:
        return None
    if number not in names.values():
        raise InvalidArgument(f"{number} is not a known value", field=field)
    name: str = names.Name(number)
    return next(value for value in kind if name.endswith(f"_{value.name}"))
