"""From the proto of an operation to a value. Pure functions."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from shortlist import _admin_convert as admin
from shortlist import _generation_convert as generations
from shortlist import _model_convert as models
from shortlist import _operation_types as operations
from shortlist._convert import choice_from_proto
from shortlist._convert import collection as convert_collection
from shortlist._status import from_status
from shortlist.v1 import operation_pb2 as pb

_PROGRESS: dict[str, Callable[[Any], operations.OperationProgress]] = {
    "verify_progress": admin.verify_progress,
    "copy_progress": admin.copy_progress,
    "evaluate_progress": admin.evaluate_progress,
    "reindex_progress": generations.reindex_progress,
    "publish_progress": models.publish_progress,
}
_RESULT: dict[str, Callable[[Any], operations.OperationResult]] = {
    "verify_result": lambda proto: tuple(map(admin.verify_report, proto.reports)),
    "backup": admin.backup,
    "restored_collection": convert_collection,
    "evaluate_result": lambda proto: tuple(map(admin.evaluate_report, proto.reports)),
    "generation": generations.generation,
    "generation_comparison": generations.generation_comparison,
    "published_model": models.published_model,
}


def operation(proto: pb.Operation) -> operations.Operation:
    """An operation, from the wire. Progress and results that this release does not know are left out."""
    progress, result = proto.WhichOneof("progress"), proto.WhichOneof("result")
    # The types list the kinds and states of this release; those of a newer server pass through as they are.
    kind: Any = choice_from_proto(pb.OperationKind, "OPERATION_KIND", proto.kind)
    state: Any = choice_from_proto(pb.OperationState, "OPERATION_STATE", proto.state)
    return operations.Operation(
        name=proto.name,
        kind=kind,
        collection=proto.collection,
        state=state,
        create_time=proto.create_time.ToDatetime(datetime.UTC),
        update_time=proto.update_time.ToDatetime(datetime.UTC),
        end_time=proto.end_time.ToDatetime(datetime.UTC) if proto.HasField("end_time") else None,
        progress=_PROGRESS[progress](getattr(proto, progress)) if progress in _PROGRESS else None,
        result=_RESULT[result](getattr(proto, result)) if result in _RESULT else None,
        error=from_status(proto.error) if result == "error" else None,
    )
