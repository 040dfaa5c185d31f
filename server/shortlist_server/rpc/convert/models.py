"""Published models and uploads."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import model_pb2
from shortlist_server.errors import InvalidArgument
from shortlist_server.keys import ApiKey
from shortlist_server.publishing.manifest import ModelFile, ModelKind
from shortlist_server.publishing.publisher import ModelStatus

_KINDS = {
    model_pb2.MODEL_KIND_EMBEDDER: ModelKind.EMBEDDER,
    model_pb2.MODEL_KIND_RERANKER: ModelKind.RERANKER,
}


def kind_in(request: pb.StartModelUploadRequest) -> ModelKind:
    """What the model is."""
    kind = _KINDS.get(request.kind)
    if kind is None:
        raise InvalidArgument("say whether the model is an embedder or a reranker", field="kind")
    return kind


def files_in(request: pb.StartModelUploadRequest) -> tuple[ModelFile, ...]:
    """The files to upload, as they were sent."""
    return tuple(ModelFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in request.files)


def model_out(status: ModelStatus, key: ApiKey, *, with_files: bool, card: str = "") -> model_pb2.PublishedModel:
    """A model; of the collections that use it those that the key may use."""
    manifest = status.manifest
    message = model_pb2.PublishedModel(
        model=manifest.model,
        kind=model_pb2.ModelKind.Value(f"MODEL_KIND_{manifest.kind.name}"),
        state=_state(status),
        revision=manifest.revision,
        size_bytes=manifest.size_bytes,
        received_bytes=sum(status.received.values()),
        collections=sorted(name for name in status.collections if key.may_use(name)),
        problem=status.problem,
        number_format=status.number_format,
        card=card,
    )
    if manifest.publish_seconds:
        published = timestamp_pb2.Timestamp()
        published.FromMilliseconds(round(manifest.publish_seconds * 1000))
        message.publish_time.CopyFrom(published)
    if with_files:
        for file in manifest.files:
            message.files.add(
                path=file.path,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                received_bytes=status.received[file.path],
            )
    return message


def _state(status: ModelStatus) -> model_pb2.ModelState.ValueType:
    if not status.manifest.publish_seconds:
        return model_pb2.MODEL_STATE_UPLOADING
    return model_pb2.MODEL_STATE_LOADED if status.loaded else model_pb2.MODEL_STATE_STORED
