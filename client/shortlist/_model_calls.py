"""The calls of ``AdminService`` for models, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shortlist import _model_types as models
from shortlist._calls import Call
from shortlist._convert import choice_to_proto
from shortlist._metadata import checked_integer, checked_text
from shortlist._model_convert import published_model
from shortlist._operation_calls import started
from shortlist._operation_types import Operation
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import model_pb2

ADMIN = "shortlist.v1.AdminService"


def start_upload(model: str, kind: models.ModelKind, files: Iterable[models.ModelFile]) -> Call[models.PublishedModel]:
    """Starts an upload, or asks how far it is."""
    return Call(
        f"{ADMIN}/StartModelUpload",
        pb.StartModelUploadRequest(
            model=checked_text(model, "model"),
            kind=choice_to_proto(model_pb2.ModelKind, "MODEL_KIND", kind, "kind"),
            files=[
                model_pb2.ModelFile(
                    path=checked_text(file.path, "path"), size_bytes=file.size_bytes, sha256=file.sha256
                )
                for file in files
            ],
        ),
        pb.StartModelUploadResponse,
        _model,
    )


def upload_chunk(model: str, path: str, offset: int, data: bytes) -> Call[int]:
    """Sends a piece of a file; says where the next one begins."""
    return Call(
        f"{ADMIN}/UploadModelChunk",
        pb.UploadModelChunkRequest(model=model, path=path, offset=offset, data=data),
        pb.UploadModelChunkResponse,
        lambda response: int(response.received_bytes),
    )


def publish(model: str) -> Call[Operation]:
    """Starts to publish a model, and returns the operation."""
    return Call(
        f"{ADMIN}/PublishModel",
        pb.PublishModelRequest(model=checked_text(model, "model")),
        pb.PublishModelResponse,
        started,
    )


def list_models(page_size: int, page_token: str) -> Call[tuple[list[models.PublishedModel], str]]:
    """One page of models, and the next page's token."""
    return Call(
        f"{ADMIN}/ListModels",
        pb.ListModelsRequest(page_size=checked_integer(page_size, "page_size"), page_token=page_token),
        pb.ListModelsResponse,
        lambda response: (list(map(published_model, response.models)), response.next_page_token),
    )


def get_model(model: str) -> Call[models.PublishedModel]:
    """Returns a model with its files and its card."""
    return Call(
        f"{ADMIN}/GetModel", pb.GetModelRequest(model=checked_text(model, "model")), pb.GetModelResponse, _model
    )


def update_card(model: str, card: str) -> Call[models.PublishedModel]:
    """Replaces the card of a published model."""
    return Call(
        f"{ADMIN}/UpdateModelCard",
        pb.UpdateModelCardRequest(model=checked_text(model, "model"), card=checked_text(card, "card")),
        pb.UpdateModelCardResponse,
        _model,
    )


def delete_model(model: str) -> Call[None]:
    """Removes a model, or drops an upload."""
    return Call(
        f"{ADMIN}/DeleteModel",
        pb.DeleteModelRequest(model=checked_text(model, "model")),
        pb.DeleteModelResponse,
        lambda _: None,
    )


def _model(response: Any) -> models.PublishedModel:
    return published_model(response.model)
