"""Models that are published to a running server, as values. Frozen, safe to share between threads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ModelKind = Literal["embedder", "reranker"]

ModelState = Literal["uploading", "stored", "loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model.

    Attributes:
        path: its path in the model's folder, as in "1_Pooling/config.json".
        sha256: of its content, in hex digits.
        received_bytes: how much of it the server has.
    """

    path: str
    size_bytes: int
    sha256: str
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A model that was published to a server, or whose upload is not complete yet.

    Attributes:
        model: NAME@VERSION, by which collections, reindexes and searches name it.
        state: "uploading": ``publish_model`` has not succeeded yet; "stored": on the server's disk, but not loaded;
            "loaded": ready to use.
        revision: the digest that generations and answers state as the model's revision; "" until it was published.
        size_bytes, received_bytes: size of its files, and how much of them the server has.
        publish_time: in UTC; None before.
        collections: those that use it and that the API key may use.
        problem: why it is not loaded although it is in use; else "".
        number_format: what it computes in; "" while it is not loaded.
        files: its files; empty in a list.
        card: the text of its README.md; "" if it has none, and in a list.
    """

    model: str
    kind: ModelKind
    state: ModelState
    revision: str
    size_bytes: int
    received_bytes: int
    publish_time: datetime | None = None
    collections: tuple[str, ...] = ()
    problem: str = ""
    number_format: str = ""
    files: tuple[ModelFile, ...] = ()
    card: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress:
    """How far the upload of a model is: the file under way, and the bytes of all files that the server has."""

    file: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishProgress:
    """The step that the server has reached with a model, as in "quantising to int8 (step 3 of 4)"."""

    model: str
    step: str
