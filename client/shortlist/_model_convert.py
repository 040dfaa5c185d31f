"""From the protos of models to values. Pure functions."""

from __future__ import annotations

import datetime
from typing import Any

from shortlist import _model_types as models
from shortlist._convert import choice_from_proto
from shortlist.v1 import model_pb2


def published_model(proto: model_pb2.PublishedModel) -> models.PublishedModel:
    """A model, from the wire."""
    # The types list the kinds and states of this release; those of a newer server pass through as they are.
    kind: Any = choice_from_proto(model_pb2.ModelKind, "MODEL_KIND", proto.kind)
    state: Any = choice_from_proto(model_pb2.ModelState, "MODEL_STATE", proto.state)
    return models.PublishedModel(
        model=proto.model,
        kind=kind,
        state=state,
        revision=proto.revision,
        size_bytes=proto.size_bytes,
        received_bytes=proto.received_bytes,
        publish_time=proto.publish_time.ToDatetime(datetime.UTC) if proto.HasField("publish_time") else None,
        collections=tuple(proto.collections),
        problem=proto.problem,
        number_format=proto.number_format,
        files=tuple(
            models.ModelFile(
                path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, received_bytes=file.received_bytes
            )
            for file in proto.files
        ),
        card=proto.card,
    )


def publish_progress(proto: model_pb2.PublishProgress) -> models.PublishProgress:
    """How far a publication is, from the wire."""
    return models.PublishProgress(model=proto.model, step=proto.step)
