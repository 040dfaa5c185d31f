"""Exports a torch checkpoint to ONNX, once, and checks that it gives the same numbers.

Exports lie in the data folder, one folder for each model revision, kind and precision. An export is written under a
temporary name, synced and renamed: a folder with the final name is complete. An export that disagrees with torch is
never served; its report says why. Needs torch, transformers and onnx. One thread at start-up.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import ModelNotFound, OutOfSpace, Unavailable
from shortlist_server.inference.agreement import Agreement
from shortlist_server.inference.onnx_backend import MODEL_FILE, REPORT_FILE, OnnxTransformer, read_report
from shortlist_server.inference.onnx_quantize import Sample, quantize
from shortlist_server.inference.torch_backend import CLASSIFIER, TorchTransformer
from shortlist_server.observe import progress

Floats = NDArray[np.float32]

_OPSET = 17
_UNFINISHED = ".export-"
_LEFTOVER_SECONDS = 24 * 3600
_STEPS = {
    "int8": ("loading torch and the weights", "tracing", "quantising to int8", "comparing with the original"),
    "float32": ("loading torch and the weights", "tracing in float32", "comparing with the original"),
}


def make_export(
    target: Path,
    source: Path,
    *,
    auto_class: str,
    precision: str,
    threads: int,
    samples: Sequence[Sample],
    agreement: Callable[[TorchTransformer, OnnxTransformer], Agreement],
) -> dict[str, Any]:
    """Makes the export and returns its report: ``refused``, True if it must not be served, and ``agreement`` in words.

    Args:
        precision: "int8" or "float32".
        samples: texts on which int8 measures the ranges of activations.
        agreement: compares the export with torch; the export is refused if it does not agree.

    Raises:
        ModelNotFound: the model cannot be loaded or exported.
        OutOfSpace, Unavailable: the export cannot be written.
    """
    steps = _STEPS[precision]

    def begin(step: int) -> None:
        progress.say(f"{steps[step - 1]} (step {step} of {len(steps)})")

    begin(1)
    # Eager attention: traced from torch's fused kernel, the graph has three more passes over every attention matrix
    # (measured on 16 texts of 128 tokens: 153 ms against 105 ms).
    reference = TorchTransformer(auto_class, source, device="cpu", dtype="float32", threads=threads, attention="eager")
    work = target.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        work.mkdir(parents=True)
        _remove_leftovers(target.parent)
        try:
            # A model of more than 2 GB is traced into several files, which refer to each other by name.
            traced = work / "traced"
            traced.mkdir()
            begin(2)
            _trace(reference, auto_class, traced / MODEL_FILE)
            if precision == "int8":
                begin(3)
                quantize(traced / MODEL_FILE, work / MODEL_FILE, samples)
            else:
                for file in traced.iterdir():
                    file.rename(work / file.name)
            shutil.rmtree(traced)
            begin(len(steps))
            found = agreement(reference, OnnxTransformer(work, threads=threads))
        except OSError:
            raise
        except Exception as error:  # the exporter, the quantiser and the runtime each raise their own
            raise ModelNotFound(
                f"the model in {source} cannot be exported to ONNX ({error}): serve it with backend torch"
            ) from error
        progress.say(f"compared with the original: {found.detail}")
        report = {"agreement": found.detail, "precision": precision, "refused": not found.holds}
        _publish(work, target, report)
        return report
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"the disk of {target.parent} filled up while a model was converted: free some space"
            ) from error
        raise Unavailable(
            f"a model cannot be converted in {target.parent} ({error.strerror or error}): see to that folder, or serve"
            " the model with backend torch"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Removes unfinished exports of killed processes. Recent ones stay: another process may be writing them."""
    for folder in parent.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _trace(reference: TorchTransformer, auto_class: str, path: Path) -> None:
    """Writes the model as ONNX, with free batch size and length. Padding in the input keeps the mask in the graph."""
    import torch

    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if reference.takes_segments else [])
    ids = torch.randint(0, min(reference.vocabulary_size, 1000), (2, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    inputs = (ids, mask, torch.zeros_like(ids))[: len(names)]

    class Positional(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            output = self.model(**dict(zip(names, values, strict=True)))
            return output.logits if "logits" in output else output.last_hidden_state

    axes = {name: {0: "texts", 1: "tokens"} for name in names}
    axes["output"] = {0: "texts"} if auto_class == CLASSIFIER else {0: "texts", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but the newer one needs another package
        torch.onnx.export(
            Positional(reference.model).eval(),
            inputs,
            str(path),
            input_names=names,
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _publish(work: Path, target: Path, report: dict[str, Any]) -> None:
    """Syncs the files, writes the report last and renames the folder. Replaces a damaged export of that name."""
    model = work / MODEL_FILE
    if report["refused"]:
        model.unlink()
    else:
        with model.open("rb") as file:
            report["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    with (work / REPORT_FILE).open("w", encoding="utf-8") as out:
        json.dump(report, out)
        out.flush()
        os.fsync(out.fileno())
    if target.exists():
        shutil.rmtree(target)
    try:
        work.rename(target)
    except OSError:
        # Another process may have exported the same model in the meantime; its export is as good.
        if read_report(target) is None:
            raise
