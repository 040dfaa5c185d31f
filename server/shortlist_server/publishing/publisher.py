"""Publishes models to the running server: tries what was uploaded, keeps it, loads it, and unloads it again.

Methods block, some for minutes, and belong in threads; one load runs at a time. Publishing changes no collection: a
published model is used once somebody names it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shortlist_server.domain import NEVER, Cancellation, models_of
from shortlist_server.errors import (
    DataCorrupted,
    ModelExists,
    ModelInUse,
    ModelNotFound,
    ModelRefused,
    ShortlistError,
)
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.published import PublishedModels
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer
from shortlist_server.publishing.manifest import CARD, Manifest, ModelFile, ModelKind
from shortlist_server.publishing.names import MAX_CARD_BYTES, split_model
from shortlist_server.publishing.shelf import ModelShelf
from shortlist_server.storage.base import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A published model or an upload at one moment.

    Attributes:
        received: bytes of each file that are there, by path.
        number_format: what it computes in; "" while it is not loaded.
        collections: names of those that use it.
        problem: why it is not loaded although it is in use; else "".
    """

    manifest: Manifest
    received: Mapping[str, int]
    loaded: bool
    number_format: str
    collections: Sequence[str]
    problem: str


class Publisher:
    """The published models of a server.

    Args:
        models: the catalog that published models are added to.
        loader: loads them.
        observer: late interaction, which may come with the first embedder, reports to it.
    """

    def __init__(
        self, shelf: ModelShelf, store: Store, models: LoadedModels, loader: PublishedModels, observer: Observer
    ) -> None:
        self._shelf = shelf
        self._store = store
        self._models = models
        self._loader = loader
        self._observer = observer
        self._loading = threading.Lock()
        self._problems: dict[str, str] = {}
        # Names of the models that the server was started with stay theirs.
        self._own = {*models.embedder_names, *models.reranker_names}

    def load_used(self) -> None:
        """Loads the published models that a collection uses; one that cannot be loaded is logged."""
        known = self._shelf.published()
        used = self._uses() if known else {}
        for manifest in known:
            if manifest.model not in used:
                continue
            try:
                self._load(manifest)
            except (ShortlistError, OSError, MemoryError) as error:
                self._problems[manifest.model] = getattr(error, "message", "") or str(error) or type(error).__name__
                logger.error("published model %s is not loaded: %s", manifest.model, self._problems[manifest.model])

    def statuses(self, models: Sequence[Manifest]) -> list[ModelStatus]:
        """The state of each; reads the settings of all collections."""
        uses = self._uses()
        return [self._status(manifest, uses.get(manifest.model, ())) for manifest in models]

    def status(self, model: str) -> ModelStatus:
        """The state of one. Raises ``ModelNotFound``."""
        return self.statuses([self._shelf.find(model)])[0]

    def manifests(self) -> Sequence[Manifest]:
        """The published models and the uploads, by name and version."""
        return self._shelf.manifests()

    def card(self, manifest: Manifest) -> str:
        """The text of the model's README.md; "" if there is none."""
        return self._shelf.card(manifest)

    def start_upload(self, model: str, kind: ModelKind, files: tuple[ModelFile, ...]) -> ModelStatus:
        """Begins an upload, or finds one of the same files; see ``ModelShelf.start_upload``."""
        split_model(model)
        if model in self._own:
            raise ModelExists(
                f"the server was started with a model named {model!r}: choose another name", metadata={"model": model}
            )
        return self._status(self._shelf.start_upload(model, kind, files), ())

    def append(self, model: str, path: str, offset: int, data: bytes) -> int:
        """Appends to a file of an upload; see ``ModelShelf.append``."""
        return self._shelf.append(model, path, offset, data)

    def find(self, model: str) -> Manifest:
        """The published model or the upload. Raises ``ModelNotFound``."""
        return self._shelf.find(model)

    def publish(
        self, model: str, tell: Callable[[str], None] = lambda _: None, cancellation: Cancellation = NEVER
    ) -> ModelStatus:
        """Checks an upload, keeps it as a published model, and loads it; a published model is loaded if it is not.

        Args:
            tell: called with each step.

        Raises:
            ModelNotFound: there is no such model.
            ModelNotReady: the upload is not complete, or the model is just being published or removed.
            ModelRefused: a file is damaged or foreign; the upload is removed, unless it was damaged on its way.
            OutOfSpace, Unavailable: the machine has no room for it; the upload stays.
            OperationCancelled: it was cancelled; the upload stays.
        """
        with self._shelf.holding(model):
            manifest = self._shelf.find(model)
            if not manifest.publish_seconds:
                manifest = self._publish(manifest, tell, cancellation)
            elif self._models.find(model) is None:
                tell("loading")
                self._load(manifest)
        logger.info("model %s is published and loaded, in revision %s", model, manifest.revision[:12])
        return self.status(model)

    def update_card(self, model: str, card: str) -> ModelStatus:
        """Replaces the card of a published model.

        Raises:
            ModelNotFound: no such model is published.
            ModelRefused: the card is too large, or would change the prompts that the server takes for the model.
            ModelNotReady: the model is just being published or removed.
        """
        data = card.encode()
        if len(data) > MAX_CARD_BYTES:
            raise ModelRefused(f"{CARD} has {len(data)} bytes, at most {MAX_CARD_BYTES} are allowed", field="card")
        with self._shelf.holding(model):
            manifest = self._shelf.find(model)
            if not manifest.publish_seconds:
                raise ModelNotFound(f"model {model!r} is not published yet", metadata={"model": model})
            folder = self._shelf.folder_of(model)
            if manifest.kind is ModelKind.EMBEDDER and not self._loader.keeps_prompts(model, folder, card):
                raise ModelRefused(
                    f"{CARD} names another base model, whose prompts the server would take: state the prompts in"
                    " config_sentence_transformers.json, and publish the model under another version",
                    field="card",
                )
            self._shelf.replace_card(model, data)
        return self.status(model)

    def delete(self, model: str) -> None:
        """Unloads a model and removes it from the disk, or drops an upload.

        Raises:
            ModelNotFound: there is no such model.
            ModelInUse: a collection uses it.
            ModelNotReady: it is just being published.
        """
        with self._shelf.holding(model):
            manifest = self._shelf.find(model)
            if manifest.publish_seconds:
                self._unload(model)
                self._remove_exports(manifest)
            self._shelf.discard(model)
            self._problems.pop(model, None)
        logger.info("model %s is deleted", model)

    def _publish(self, manifest: Manifest, tell: Callable[[str], None], cancellation: Cancellation) -> Manifest:
        model, folder = manifest.model, self._shelf.folder_of(manifest.model)
        tell("comparing the files with their checksums")
        self._shelf.check(model, cancellation)
        reranks = manifest.kind is ModelKind.RERANKER
        try:
            with self._loading:
                tell("trying the model in a process of its own")
                self._loader.attempt(model, folder, reranks=reranks, tell=tell, cancellation=cancellation)
                cancellation.check()
                tell("loading")
                loaded = self._loader.load(model, folder, reranks=reranks)
        except ModelRefused:
            self._remove_exports(manifest)
            self._shelf.discard(model)
            raise
        try:
            published = self._shelf.publish(model, revision=loaded.info.revision, seconds=time.time())
        except BaseException:
            loaded.close()
            raise
        self._models.add(loaded, self._observer)
        return published

    def _load(self, manifest: Manifest) -> None:
        model = manifest.model
        with self._loading:
            loaded = self._loader.load(model, self._shelf.folder_of(model), reranks=manifest.kind is ModelKind.RERANKER)
        if loaded.info.revision != manifest.revision:
            # Another release may compute revisions in another way. Then the files are still those that were published.
            try:
                self._shelf.verify(manifest)
            except DataCorrupted:
                loaded.close()
                raise
        self._models.add(loaded, self._observer)
        self._problems.pop(model, None)

    def _unload(self, model: str) -> None:
        """Takes a model out of the catalog. Raises ``ModelInUse``."""
        # Out of the catalog first: from then on nobody can begin to use it.
        removed = self._models.remove(model)
        try:
            self._check_unused(model)
        except BaseException:
            if removed is not None:
                self._models.add(removed, self._observer)
            raise
        if removed is not None:
            removed.close()
            self._loader.forget(model)

    def _check_unused(self, model: str) -> None:
        users = []
        for name in self._store.names():
            try:
                if model in self._models_of(name):
                    users.append(name)
            except ShortlistError as error:
                if name in self._store.names():
                    raise ModelInUse(
                        f"collection '{name}' may use model {model!r} and cannot be read: {error.message}",
                        metadata={"model": model, "collection": name},
                    ) from error
        if users:
            named = ", ".join(f"'{name}'" for name in users[:3]) + (", ..." if len(users) > 3 else "")
            raise ModelInUse(
                f"model {model!r} is in use by {named}: drop the generations that were made with it, and name another"
                " model in the settings",
                metadata={"model": model, "collection": users[0]},
            )

    def _remove_exports(self, manifest: Manifest) -> None:
        weights = _weights(manifest)
        if any(_weights(one) == weights for one in self._shelf.published() if one.model != manifest.model):
            return
        folder = self._shelf.folder_of(manifest.model)
        self._loader.remove_exports(manifest.model, folder, reranks=manifest.kind is ModelKind.RERANKER)

    def _status(self, manifest: Manifest, collections: Sequence[str]) -> ModelStatus:
        service = self._service(manifest)
        return ModelStatus(
            manifest=manifest,
            received=self._shelf.received(manifest),
            loaded=service is not None,
            number_format="" if service is None else service.info.number_format,
            collections=collections,
            problem=self._problems.get(manifest.model, ""),
        )

    def _service(self, manifest: Manifest) -> ScheduledEmbedder | ScheduledReranker | None:
        return self._models.find(manifest.model) if manifest.publish_seconds else None

    def _uses(self) -> dict[str, list[str]]:
        """Names of the collections that use each model; of those that can be read."""
        found: dict[str, list[str]] = {}
        for name in self._store.names():
            try:
                for model in self._models_of(name):
                    found.setdefault(model, []).append(name)
            except ShortlistError as error:
                logger.debug("the models of collection '%s' are unknown: %s", name, error.message)
        return found

    def _models_of(self, collection: str) -> set[str]:
        """Does not open the collection, but may read its database; raises what that raises."""
        found = self._store.find(collection)
        return models_of(found.config, found.generations())


def _weights(manifest: Manifest) -> set[str]:
    """Checksums of the weight files."""
    return {file.sha256 for file in manifest.files if file.path.endswith(".safetensors")}
