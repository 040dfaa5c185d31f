"""What the gate puts on the server and takes away again: models, generations beside those that serve, a collection.

Nothing here changes what a caller of the server finds. Every step finds what an earlier, interrupted gate left, and
goes on with it. Call from one thread.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from shortlist import (
    Client,
    CollectionConfig,
    Document,
    FailedPrecondition,
    Generation,
    ModelKind,
    ModelNotReady,
    NotFound,
    PublishProgress,
    ReindexProgress,
    UploadProgress,
)
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.reporting.decision import GatedModel
from shortlist_adapt.reporting.model_card import CARD

KINDS: tuple[ModelKind, ...] = ("embedder", "reranker")
RECONNECT_SECONDS = 300.0
"""How long the server may be away while it builds: a restart with large models takes minutes."""

PUBLISH_SECONDS = 900.0
"""How long another publication of the same model may take, which exports it."""

FREE_SECONDS = 300.0
"""How long the server may take to free a dropped generation, which its model has to wait for."""

_NAME_BYTES = 64
"""Longest name of a collection or a model."""


def candidates(folder: RunFolder) -> tuple[ModelKind, ...]:
    """The kinds of models that the run has made. Raises ``InvalidInput`` when there are none."""
    found = tuple(kind for kind in KINDS if (folder.model / kind / "config.json").is_file() or _modules(folder, kind))
    if not found:
        raise InvalidInput("the run has no model yet; run train and merge first")
    return found


def _modules(folder: RunFolder, kind: str) -> bool:
    return (folder.model / kind / "modules.json").is_file()


def digest(model: Path) -> str:
    """SHA-256 over a model's files and their names, without its card, in hexadecimal."""
    total = hashlib.sha256()
    for path in sorted(model.rglob("*")):
        if path.is_file() and path.name != CARD:
            total.update(path.relative_to(model).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def name_of(collection: str, kind: str) -> str:
    """The name under which a collection's adapted model is published."""
    # A model's name starts with a letter or a digit.
    return f"{collection.lstrip('_-')[: _NAME_BYTES - len(kind) - 1] or 'adapted'}-{kind}"


def model_of(folder: RunFolder, collection: str, kind: ModelKind) -> GatedModel:
    """A model of the run under the name that it has on the server; its revision is not known yet.

    The version is made of the model's files: the same model has the same version, another one has another.
    """
    of = digest(folder.model / kind)
    name, version = name_of(collection, kind), of[:12]
    return GatedModel(kind=kind, name=name, version=version, address=f"{name}@{version}", revision="", digest=of)


def upload(client: Client, folder: RunFolder, model: GatedModel, progress: Progress) -> GatedModel:
    """Publishes a model of the run on the server, where nobody uses it yet; does nothing if it is there.

    Raises:
        ShortlistError: the server refused the model; the message names the file.
    """
    path = folder.model / model.kind
    sent = 0

    def show(now: UploadProgress | PublishProgress) -> None:
        nonlocal sent
        if isinstance(now, UploadProgress):
            progress.advance(now.done_bytes - sent)
            sent = now.done_bytes
        else:
            progress.advance(0, now.step)

    total = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    progress.begin(f"sending {model.address}", total, "bytes")
    until = time.monotonic() + PUBLISH_SECONDS
    while True:
        try:
            published = client.publish_model(model.address, path, kind=model.kind, progress=show)
            return replace(model, revision=published.revision)
        except ModelNotReady:
            # A gate that was interrupted began the publication, and the server goes on with it.
            if time.monotonic() > until:
                raise
            time.sleep(1)


class Scratch:
    """The generations that a gate built, by collection."""

    def __init__(self, client: Client, progress: Progress) -> None:
        """Builds nothing yet."""
        self._client = client
        self._progress = progress
        self._built: dict[str, int] = {}

    def generation(self, collection: str, address: str) -> int:
        """The number of a complete generation of the collection, made with the embedder; built if there is none.

        It has the dimension, passages and instruction of the generation that serves, so that the model alone differs.

        Raises:
            InvalidInput: another generation of the collection is being built.
            ShortlistError: the build failed.
        """
        if collection not in self._built:
            self._built[collection] = build(self._client, collection, address, self._progress)
        return self._built[collection]

    def number(self, collection: str) -> int:
        """The number of the generation that was built for a collection; 0 if none was."""
        return self._built.get(collection, 0)

    def release(self, keep: str = "") -> None:
        """Drops the generations, but for that of the collection ``keep``."""
        for collection in [one for one in self._built if one != keep]:
            drop(self._client, collection, self._built.pop(collection))


def build(client: Client, collection: str, address: str, progress: Progress) -> int:
    """As ``Scratch.generation``; a generation that serves already with the embedder counts."""
    found = client.generations(collection)
    serving = next(one for one in found if one.state == "serving")
    if serving.embedder == address:
        return serving.number
    begun = next((one for one in found if one.state == "building"), None)
    if begun is None:
        client.start_reindex(
            collection,
            embedder=address,
            dimension=serving.dimension,
            chunking=serving.chunking,
            query_instruction=serving.query_instruction,
        )
        begun = next(one for one in client.generations(collection) if one.state == "building")
    elif begun.embedder != address:
        raise InvalidInput(
            f"generation {begun.number} of {collection} with {begun.embedder} is being built; switch to it or drop it "
            f"first: shortlist reindex cancel {collection}"
        )
    return _wait(client, collection, begun, progress)


def _wait(client: Client, collection: str, begun: Generation, progress: Progress) -> int:
    progress.begin(f"building generation {begun.number} of {collection}", client.count(collection), "documents")
    done = 0

    def show(now: object) -> None:
        nonlocal done
        if isinstance(now, ReindexProgress):
            progress.advance(max(0, now.done_documents - done), now.paused_reason)
            done = max(done, now.done_documents)

    until = time.monotonic() + RECONNECT_SECONDS
    while not begun.complete:
        if begun.operation:
            ended = client.wait_operation(begun.operation, progress=show, reconnect_seconds=RECONNECT_SECONDS)
            if ended.error is not None:
                raise ended.error
            until = time.monotonic() + RECONNECT_SECONDS
        elif begun.problem or time.monotonic() > until:
            raise InvalidInput(f"generation {begun.number} of {collection} is not complete: {begun.problem}")
        else:
            # The server adds what the new model was too slow for while documents were written.
            time.sleep(0.2)
        begun = next(one for one in client.generations(collection) if one.number == begun.number)
    return begun.number


def drop(client: Client, collection: str, number: int) -> None:
    """Drops a generation, or cancels its build, and waits until its space is free; one that serves stays."""
    for one in client.generations(collection):
        if one.number == number and one.state == "building" and one.operation:
            client.cancel_operation(one.operation)
        elif one.number == number and one.state != "serving":
            client.drop_generation(collection, number)
        elif one.number == number:
            return
    until = time.monotonic() + FREE_SECONDS
    while any(one.number == number for one in client.generations(collection)) and time.monotonic() < until:
        time.sleep(0.05)


def drop_made_with(client: Client, collection: str, addresses: Collection[str]) -> None:
    """Drops the generation of a collection that waits for its switch, if one of these models made it."""
    for one in client.generations(collection):
        if one.state == "building" and one.embedder in addresses:
            drop(client, collection, one.number)


def remove(client: Client, models: Iterable[GatedModel], progress: Progress) -> None:
    """Removes models from the server; one that something uses stays, and a line says so."""
    for model in models:
        try:
            client.delete_model(model.address)
        except NotFound:
            continue
        except FailedPrecondition as error:
            progress.say(f"{model.address} stays on the server: {error}")


def hidden_collection(
    client: Client, collection: str, documents: Sequence[CorpusDocument], mark: str, progress: Progress
) -> str:
    """Makes a collection with the settings and models of another, of these documents, and returns its name.

    One that an interrupted gate left is filled up.

    Args:
        client: a client of the server.
        collection: whose settings it takes.
        documents: what goes into it.
        mark: distinguishes the gates of different runs.
        progress: where the ingest is shown.

    Raises:
        InvalidInput: the server no longer makes collections with the revision of the model that serves.
    """
    name = f"{collection[: _NAME_BYTES - 14]}-gate-{mark[:8]}"
    config: CollectionConfig = client.get_collection(collection).config
    serving = next(one for one in client.generations(collection) if one.state == "serving")
    if name not in {one.name for one in client.list_collections()}:
        client.create_collection(name, replace(config, filterable_fields=()))
    made = next(one for one in client.generations(name) if one.state == "serving")
    if made.embedder_revision != serving.embedder_revision:
        client.delete_collection(name)
        raise InvalidInput(
            f"{collection} serves with an older revision of {serving.embedder}; bring it up first: "
            f"shortlist reindex run {collection}"
        )
    progress.begin("copying the documents, without the words of the queries", len(documents), "documents")
    sent = (Document(id=one.id, title=one.title, text=one.text) for one in documents)
    for ack in client.ingest(name, sent):
        if ack.error is not None:
            progress.say(f"{ack.id}: {ack.error}")
        progress.advance()
    return name
