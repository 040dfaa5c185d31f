"""The process that tries an uploaded model: whatever happens to it, the server gets an error and goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Cancellation
from shortlist_server.errors import ModelNotFound, ModelRefused, OperationCancelled, Unavailable
from shortlist_server.inference.export_process import try_in_child
from shortlist_server.inference.loading import load_embedder


class DoneWhenRead:
    """A load that does something in the process that reads it, before it could be called."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._reduced

    def __call__(self, *, export: bool) -> None:
        raise AssertionError("read in another process only")


def test_files_that_crash_a_library_end_that_process_alone() -> None:
    with pytest.raises(ModelRefused, match=f"ended with code -{signal.SIGABRT.value}"):
        try_in_child(DoneWhenRead(os.abort), lambda _: None)


def test_a_process_that_runs_out_of_memory_says_nothing_about_the_files() -> None:
    with pytest.raises(Unavailable, match="lack of memory"):
        try_in_child(DoneWhenRead(signal.raise_signal, signal.SIGKILL.value), lambda _: None)


def test_the_error_of_the_load_comes_back(tmp_path: Path) -> None:
    load = partial(load_embedder, "m", tmp_path, "m", Config(data_dir=tmp_path))
    with pytest.raises(ModelNotFound, match=r"config\.json is missing"):
        try_in_child(load, lambda _: None)


def test_a_cancellation_ends_the_process_at_once() -> None:
    cancellation = Cancellation()
    timer = threading.Timer(0.5, cancellation.cancel)
    began = time.monotonic()
    timer.start()
    with pytest.raises(OperationCancelled):
        try_in_child(DoneWhenRead(time.sleep, 60), lambda _: None, cancellation)
    assert time.monotonic() - began < 10
    with pytest.raises(OperationCancelled):
        try_in_child(DoneWhenRead(time.sleep, 60), lambda _: None, cancellation)
