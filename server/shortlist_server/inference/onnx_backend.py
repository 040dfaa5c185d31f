"""Runs an exported transformer in ONNX Runtime on the CPU; needs neither torch nor transformers.

An export is a folder with ``model.onnx`` and ``export.json``, which states the model's digest. Several threads may run
a session.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import OutOfSpace, Unavailable
from shortlist_server.inference.processors import lower_priority

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

MODEL_FILE = "model.onnx"
REPORT_FILE = "export.json"

FORMAT = 4
"""Raised when earlier exports must be made again. An export of format 3 may be of weights that nobody checked."""

_EXPORT_FACTOR = 3
"""Disk space for making an export, relative to the weights: the traced model, a copy that shows its activations, and
the export."""


def export_folder(data_dir: Path, weights_revision: str, auto_class: str, precision: str) -> Path:
    """The folder for the export of a model. Its name holds the digest of the weights: other weights find no export."""
    return data_dir / "models" / f"{weights_revision}-{auto_class}-{precision}-{FORMAT}"


def exports_of(data_dir: Path, weights_revision: str) -> list[Path]:
    """The folders of all exports of a model's weights."""
    return sorted((data_dir / "models").glob(f"{weights_revision}-*"))


def check_room(target: Path, weight_files: Sequence[Path]) -> None:
    """Refuses an export that the disk has no room for, before anything is loaded.

    Raises:
        OutOfSpace: the disk has too little free space to make the export.
        Unavailable: this user may not write there.
    """
    nearest = next(path for path in target.absolute().parents if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise Unavailable(
            f"a model must be converted, and this user may not write to {nearest}: change its owner or mode, name"
            " another data folder, or serve the model with backend torch"
        )
    needed = _EXPORT_FACTOR * sum(path.stat().st_size for path in weight_files)
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise OutOfSpace(
            f"converting a model takes about {needed // 2**20} MB in {nearest}, where {free // 2**20} MB are free: free"
            " some space, name another data folder, or serve the model with backend torch"
        )


class OnnxTransformer:
    """Runs an export in a session of ONNX Runtime.

    Args:
        threads: of one run.
        niceness: added to the OS priority value of the session's own threads; above 0, ingest yields to queries.
    """

    def __init__(self, folder: Path, *, threads: int, niceness: int = 0) -> None:
        # The session's threads inherit the priority of the thread that makes the session, so a new thread makes it.
        made: list[Any] = []

        def make() -> None:
            lower_priority(niceness)
            try:
                made.append(_open_session(folder / MODEL_FILE, threads))
            except Exception as error:
                made.append(error)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if isinstance(made[0], Exception):
            raise made[0]
        self._session = made[0]
        self._inputs = {item.name for item in self._session.get_inputs()}

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """See ``Forward.run``."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            inputs["token_type_ids"] = segments if segments is not None else np.zeros_like(ids)
        return np.asarray(self._session.run(None, inputs)[0], dtype=np.float32)


def read_report(folder: Path) -> dict[str, Any] | None:
    """The export's report; None if there is no export, or if its model file is not the one reported."""
    try:
        report: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if report.get("refused"):
            return report
        with (folder / MODEL_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return report if digest == report.get("sha256") else None


def _open_session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads would spin and take the processor from the other lane's session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
