"""Loads models so that what an export needs never comes into this process.

Making an export takes torch and transformers, which stay in memory, some 700 MB, as long as their process lives. So a
model whose export is missing is first loaded, and with that exported, by ``python -m`` of this module, which ends
afterwards. What to load goes to its standard input and an error comes from its standard output, pickled. Called at
start-up, by one thread.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from typing import Protocol, TypeVar

from shortlist_server.errors import ModelNotFound, ShortlistError
from shortlist_server.inference.loading import ExportMissing

Model_co = TypeVar("Model_co", covariant=True)

_LOG = logging.getLogger(__name__)


class Load(Protocol[Model_co]):
    """Loads one model; can be pickled."""

    def __call__(self, *, export: bool) -> Model_co:
        """See ``load_embedder``."""


def load_apart(load: Load[Model_co]) -> Model_co:
    """The model that ``load`` loads, exported by another process if need be.

    Raises:
        ModelNotFound: the files are wrong, or the process that exports was killed.
        InvalidArgument: the settings are wrong.
    """
    try:
        return load(export=False)
    except ExportMissing:
        _LOG.info("a model is exported to ONNX, once")
        _export(load)
        return load(export=False)


def _export(load: Load[object]) -> None:
    # A session of its own: an interrupt from the keyboard ends it through this process, which reports it.
    exporter = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__],
        input=pickle.dumps(load),
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=False,
    )
    if exporter.returncode:
        raise ModelNotFound(
            f"The process that exports a model to ONNX ended with code {exporter.returncode}; a negative one is a"
            " signal, such as -9 when memory runs out. Give it more memory, or serve the model with backend torch."
        )
    if (error := pickle.loads(exporter.stdout)) is not None:  # noqa: S301 - from the process that was just run
        raise error


def main() -> None:
    """Loads what standard input says, and answers with the error, or None."""
    load: Load[object] = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server that runs this process
    # What libraries print goes to standard error, from here on, and not into the answer.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    error = None
    try:
        load(export=True)
    except ShortlistError as caught:
        error = caught
    with os.fdopen(answer, "wb") as file:
        pickle.dump(error, file)


if __name__ == "__main__":
    main()
