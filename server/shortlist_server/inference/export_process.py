"""Loads models, and makes missing exports in a child process.

An export needs torch and transformers, which take some 700 MB for as long as their process lives. So a child process,
``python -m`` of this module, makes the export and ends. It reads what to load from its standard input, and writes its
progress and, at the end, its error or None to its standard output, all pickled. A model that was uploaded is tried in
such a process before the server loads it: files that crash a library then end that process alone. One thread for each
model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol, TypeVar

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import ModelNotFound, ModelRefused, OperationCancelled, ShortlistError, Unavailable
from shortlist_server.inference.forward_passes import ExportMissing
from shortlist_server.observe import progress

Model_co = TypeVar("Model_co", covariant=True)

_SILENT_SECONDS = 10.0
"""After this long without a message from the process, the log says that it still works."""


class Load(Protocol[Model_co]):
    """Loads one model. It can be pickled."""

    def __call__(self, *, export: bool) -> Model_co:
        """See ``load_embedder``."""


def load_exporting_in_child(load: Load[Model_co], name: str = "the model") -> Model_co:
    """The model that ``load`` loads; another process exports it first if the export is missing.

    Args:
        name: what the log calls the model.

    Raises:
        ModelNotFound: the files are wrong, or the exporting process failed or was killed.
        InvalidArgument: the settings are wrong.
        OutOfSpace: the disk has no room for the export.
    """
    try:
        return load(export=False)
    except ExportMissing:
        progress.say(f"{name} is converted for this machine's processor, which is done once")
        started = time.monotonic()
        _export(load, name)
        progress.say(f"{name} was converted in {time.monotonic() - started:.0f} s")
        return load(export=False)


def try_in_child(
    load: Load[object], tell: Callable[[str], None], cancellation: Cancellation = NEVER, *, niceness: int = 0
) -> None:
    """Loads a model in another process, which makes the exports that are missing, and ends.

    Args:
        tell: called with each step.
        cancellation: ends the process.
        niceness: added to the priority value of the process.

    Raises:
        ModelRefused: the files crashed the process.
        ModelNotFound, InvalidArgument: the files or the settings are wrong.
        OutOfSpace: the disk has no room for the export.
        Unavailable: the process was killed, probably for lack of memory.
        OperationCancelled: it was cancelled.
    """
    ended = _run(load, tell, cancellation, niceness)
    if cancellation.cancelled:
        raise OperationCancelled("the operation was cancelled before it was done")
    if ended.code == -signal.SIGKILL:
        raise Unavailable(
            "the process that tried the model was killed, probably for lack of memory: give the machine more memory,"
            " or publish a smaller model"
        )
    if ended.code:
        raise ModelRefused(f"the process that tried the model ended with code {ended.code}: its files are damaged")
    if ended.error is not None:
        raise ended.error


def _export(load: Load[object], name: str) -> None:
    ended = _run(load, lambda step: progress.say(f"{name}: {step}"), NEVER, 0)
    if ended.code == -signal.SIGKILL:
        raise ModelNotFound(
            f"the process that converts {name} was killed, probably for lack of memory: give it more memory, or serve"
            " the model with backend torch"
        )
    if ended.code:
        raise ModelNotFound(
            f"the process that converts {name} ended with code {ended.code}; its output above says why:"
            " correct that, or serve the model with backend torch"
        )
    if ended.error is not None:
        raise ended.error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How the process ended: with which code, and with which error of the load."""

    code: int
    error: Exception | None


def _run(load: Load[object], tell: Callable[[str], None], cancellation: Cancellation, niceness: int) -> _Ended:
    # A session of its own, so that Ctrl-C reaches only this process, which reports it.
    exporter = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert exporter.stdin is not None and exporter.stdout is not None
    with exporter:
        try:
            if niceness:
                with contextlib.suppress(ProcessLookupError):
                    lowered = os.getpriority(os.PRIO_PROCESS, 0) + niceness
                    os.setpriority(os.PRIO_PROCESS, exporter.pid, lowered)
            with cancellation.calling(exporter.kill):
                pickle.dump(load, exporter.stdin)
                exporter.stdin.close()
                answers: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
                threading.Thread(target=_read, args=(exporter.stdout, answers), daemon=True).start()
                error = _follow(answers, tell)
        except BrokenPipeError:
            error = None  # It ended before it had read what to load; its code says why.
        except BaseException:
            exporter.kill()
            raise
    return _Ended(code=exporter.returncode, error=error)


def _read(output: IO[bytes], answers: queue.SimpleQueue[str | Exception | None]) -> None:
    """Passes on the messages of the process, up to its error, None or its end."""
    try:
        while isinstance(answer := pickle.load(output), str):  # noqa: S301 - from the process just started
            answers.put(answer)
    except (EOFError, pickle.UnpicklingError, OSError):
        answer = None
    answers.put(answer)


def _follow(answers: queue.SimpleQueue[str | Exception | None], tell: Callable[[str], None]) -> Exception | None:
    """Tells what the process does until it ends; returns its error."""
    started = time.monotonic()
    doing = "starting"
    while True:
        try:
            answer = answers.get(timeout=_SILENT_SECONDS)
        except queue.Empty:
            tell(f"still {doing}, after {time.monotonic() - started:.0f} s")
            continue
        if not isinstance(answer, str):
            return answer
        doing = answer
        tell(doing)


class _Sender(logging.Handler):
    """Sends log lines to the parent process."""

    def __init__(self, output: IO[bytes]) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a line."""
        pickle.dump(record.getMessage(), self._output)
        self._output.flush()


def main() -> None:
    """Loads what standard input names, reports progress, and answers with the error or None."""
    # From here on, what libraries print goes to standard error and cannot mix with the answer.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        logging.getLogger("shortlist_server").propagate = False  # the parent process logs the same lines
        progress_log = logging.getLogger(progress.LOGGER)
        progress_log.setLevel(logging.INFO)
        progress_log.addHandler(_Sender(output))
        load: Load[object] = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server, which started this process
        error = None
        try:
            load(export=True)
        except ShortlistError as caught:
            error = caught
        pickle.dump(error, output)


if __name__ == "__main__":
    main()
