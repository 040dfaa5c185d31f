# Made by scripts/unasync.py from _async/models.py; change that file.
"""A client's calls about models that are published to a running server."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, TypeVar

from shortlist import _model_calls as calls
from shortlist import _model_files as model_files
from shortlist import _operation_calls as operation_calls
from shortlist._calls import Call
from shortlist._errors import InternalError, Overloaded
from shortlist._model_types import ModelKind, PublishedModel, PublishProgress, UploadProgress
from shortlist._operation_types import Operation
from shortlist._sync.channel import off_loop, sleep
from shortlist._sync.generations import GenerationCalls
from shortlist._sync.pages import Pages

T = TypeVar("T")


class ModelCalls(GenerationCalls):
    """Calls that give a running server another model, list its models and delete them.

    A published model is named NAME@VERSION, in ``reindex``, in ``Rerank`` and in the settings of collections. Of a
    version only the card may change: publish other files under another version.
    """

    def publish_model(
        self,
        model: str,
        folder: str | PathLike[str] | None = None,
        *,
        kind: ModelKind | None = None,
        progress: Callable[[UploadProgress | PublishProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> PublishedModel:
        """Uploads a model, lets the server check and load it, and returns it when it can be used.

        An interrupted upload goes on where it was when the call is repeated. To publish what is published already does
        no harm: it loads the model if it is not loaded, and replaces its card (README.md) if that is another one.

        Args:
            model: NAME@VERSION, a new one.
            folder: the model, in the layout of sentence-transformers or transformers, with safetensors weights and
                tokenizer.json. None to load a model that the server has on its disk.
            kind: what it is; told by its files when None.
            progress: called with the bytes sent and then with the server's steps, in the calling thread.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            InvalidArgument: the name is wrong, or the folder has no model.
            ModelRefused: a file is damaged, foreign, of a kind that the server does not read, or too large.
            ModelExists: the server has other files under this name and version.
            ModelNotFound: there is no such model, and ``folder`` is None.
            ModelNotReady: the upload is not complete, or somebody else is just publishing the model.
            ModelsElsewhere: the server's models run on workers.
            OutOfSpace: the disk is full, or the published models would exceed the server's limit.
        """
        waiting = operation_calls.Waiting(progress, timeout_seconds)
        if folder is not None:
            self._upload(model, folder, kind, waiting, progress)
        published = self._start_and_wait(calls.publish(model), progress, waiting.left_seconds())
        return operation_calls.result_of(published, PublishedModel)

    def start_publish_model(self, model: str, *, timeout_seconds: float | None = None) -> Operation:
        """Starts to check and load an uploaded or stored model, and returns the operation at once."""
        return self._unary(calls.publish(model), timeout_seconds)

    def upload_model(
        self,
        model: str,
        folder: str | PathLike[str],
        *,
        kind: ModelKind | None = None,
        progress: Callable[[UploadProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> PublishedModel:
        """Does the first part of ``publish_model``: sends the files that the server does not have yet.

        The model cannot be used before ``publish_model`` or ``start_publish_model``. Parameters and errors are those of
        ``publish_model``.
        """
        waiting = operation_calls.Waiting(None, timeout_seconds)
        return self._upload(model, folder, kind, waiting, progress)

    def list_models(self, *, page_size: int = 100, timeout_seconds: float | None = None) -> Pages[PublishedModel]:
        """Published models and unfinished uploads, by name and version; the timeout is one page's.

        ``server_info`` has the models that are loaded, with those that the server was started with.
        """
        return Pages(lambda token: self._unary(calls.list_models(page_size, token), timeout_seconds))

    def get_model(self, model: str, *, timeout_seconds: float | None = None) -> PublishedModel:
        """Returns a published model or an unfinished upload, with its files and its card.

        Raises:
            ModelNotFound: there is none of that name and version.
        """
        return self._unary(calls.get_model(model), timeout_seconds)

    def update_model_card(self, model: str, card: str, *, timeout_seconds: float | None = None) -> PublishedModel:
        """Replaces the card of a published model, the text of its README.md.

        Raises:
            ModelNotFound: no model of that name and version is published.
            ModelRefused: the card is too large, or names another base model, whose prompts the server would take.
        """
        return self._unary(calls.update_card(model, card), timeout_seconds)

    def delete_model(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Removes a published model from memory and disk, or drops an upload.

        Raises:
            ModelNotFound: there is none of that name and version.
            ModelInUse: a generation was made with it, or the settings of a collection name it.
            ModelNotReady: it is just being published.
        """
        self._unary(calls.delete_model(model), timeout_seconds)

    def _upload(
        self,
        model: str,
        folder: str | PathLike[str],
        kind: ModelKind | None,
        waiting: operation_calls.Waiting,
        progress: Callable[[Any], None] | None,
    ) -> PublishedModel:
        local = off_loop(model_files.read_folder, folder, kind)
        start = calls.start_upload(model, local.kind, local.files)
        known = self._patiently(start, waiting)
        card = off_loop(local.new_card, known)
        if card is not None:
            return self._patiently(calls.update_card(model, card), waiting)
        done = known.received_bytes
        for file in known.files:
            received = file.received_bytes
            while received < file.size_bytes:
                data = off_loop(local.read, file.path, received)
                now = self._patiently(calls.upload_chunk(model, file.path, received, data), waiting)
                if now <= received:
                    raise InternalError(f"the upload of {file.path} does not advance, perhaps because the file changed")
                done += now - received
                received = now
                if progress is not None:
                    progress(UploadProgress(file=file.path, done_bytes=done, total_bytes=local.size_bytes))
        return self._patiently(start, waiting)

    def _patiently(self, call: Call[T], waiting: operation_calls.Waiting) -> T:
        """Makes a call, and repeats it while the server is too busy."""
        while True:
            try:
                return self._unary(call, waiting.left_seconds())
            except Overloaded as error:
                sleep(waiting.pause_seconds(error))
