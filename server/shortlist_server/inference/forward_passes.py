"""Opens a model's forward passes: in ONNX Runtime or in torch, on which device, in which number format.

Called once for each model at start-up, by one thread. On a CPU, encoders and classifiers run in ONNX Runtime from a
cached export, and then neither torch nor transformers is imported. Decoders, and everything on a GPU, run in torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference import layout, torch_backend
from shortlist_server.inference.agreement import Agreement
from shortlist_server.inference.encoder import Forward
from shortlist_server.inference.processors import INGEST_NICENESS, passage_runs, threads

if TYPE_CHECKING:
    from shortlist_server.inference.onnx_backend import OnnxTransformer
    from shortlist_server.inference.onnx_quantize import Sample

logger = logging.getLogger(__name__)


class ExportMissing(Exception):
    """The model is to run in ONNX Runtime and has no export yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChecks:
    """What making and checking an export takes.

    Attributes:
        samples: texts on which int8 measures the ranges of activations.
        agreement: compares the export with torch.
    """

    samples: Callable[[], list[Sample]]
    agreement: Callable[[Forward, Forward], Agreement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """The forward passes of the two lanes.

    Attributes:
        number_format: what they compute in: int8, float32 or bfloat16.
        batches_queries, batch_tokens: as in ``Embedder``.
        note: why the number format is not the preferred one; else "".
    """

    query: Forward
    passage: Forward
    number_format: str
    batches_queries: bool
    note: str = ""
    batch_tokens: int = 0


def open_passes(
    folder: Path, weights: str, auto_class: str, config: Config, checks: ExportChecks, *, onnx: bool, export: bool
) -> Passes:
    """Forward passes in ONNX Runtime where the settings and the model allow, else in torch.

    Args:
        weights: a digest of the model, which names its export.
        onnx: whether this kind of model can run in ONNX Runtime.
        export: make the export where it is missing.

    Raises:
        ModelNotFound: the files are wrong, or no number format agrees with the original.
        InvalidArgument: the settings contradict each other.
        ExportMissing: the export is missing, and ``export`` is False.
    """
    # Choosing a device imports torch, and a start from a cached export must not. So the driver's device nodes are
    # checked first.
    may_be_gpu = config.device != "cpu" and (config.device != "auto" or _has_gpu())
    on_cpu = onnx and config.backend == "onnx"
    if on_cpu and may_be_gpu:
        logger.warning(
            "the model in %s runs on the CPU because backend is onnx, although this machine may have a GPU", folder
        )
    device = torch_backend.choose_device(config.device) if may_be_gpu and not on_cpu else "cpu"
    if onnx and device == "cpu" and config.backend in ("auto", "onnx") and config.dtype != "bfloat16":
        return _open_onnx(folder, weights, auto_class, config, checks, export=export)
    if onnx and config.dtype == "int8":
        raise InvalidArgument("dtype int8 works only with encoders in ONNX Runtime on a CPU", field="dtype")
    dtype = torch_backend.choose_dtype(config.dtype, device)
    forward = torch_backend.TorchTransformer(auto_class, folder, device=device, dtype=dtype, threads=threads(config))
    return Passes(
        query=forward,
        passage=forward,
        number_format=dtype,
        batches_queries=True,
        note=torch_backend.dtype_note(config.dtype, device),
        batch_tokens=torch_backend.batch_tokens(forward.model, device),
    )


def _open_onnx(
    folder: Path, weights: str, auto_class: str, config: Config, checks: ExportChecks, *, export: bool
) -> Passes:
    from shortlist_server.inference.onnx_backend import check_room, export_folder, read_report

    # The runtime collects telemetry for its maker (seen in 1.32) unless this is set before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    refusals = []
    for precision in ("int8", "float32") if config.dtype == "auto" else (config.dtype,):
        target = export_folder(config.data_dir, weights, auto_class, precision)
        report = read_report(target)
        if report is None:
            if not export:
                check_room(target, layout.weight_files(folder))
                raise ExportMissing
            # Imported here because it needs torch and transformers.
            from shortlist_server.inference.onnx_export import make_export

            report = make_export(
                target,
                folder,
                auto_class=auto_class,
                precision=precision,
                threads=threads(config),
                samples=checks.samples(),
                agreement=checks.agreement,
            )
        if report["refused"]:
            refusals.append(f"as {precision} it does not agree with the original: {report['agreement']}")
            continue
        note = "; ".join(refusals)
        if note:
            logger.warning("the model in %s is served as %s: %s", folder, precision, note)
        # A short query gains nothing from a second thread (measured: 1.2 ms with one, 1.4 ms with two). So each query
        # runs alone on one thread, and several run side by side.
        if auto_class == torch_backend.ENCODER:
            query = _session(target, 1, 0)
            passage = _session(target, threads(config) * passage_runs(config), INGEST_NICENESS)
        else:
            query = passage = _session(target, threads(config), 0)
        return Passes(query=query, passage=passage, number_format=precision, batches_queries=False, note=note)
    remedy = "dtype float32" if config.dtype == "int8" else "backend torch"
    raise ModelNotFound(
        f"the model in {folder} cannot be served from ONNX: {'; '.join(refusals)}; serve it with {remedy}"
    )


def _session(target: Path, thread_count: int, niceness: int) -> OnnxTransformer:
    from shortlist_server.inference.onnx_backend import OnnxTransformer

    return OnnxTransformer(target, threads=thread_count, niceness=niceness)


def _has_gpu() -> bool:
    """Whether this machine may have a CUDA device: whether its driver's device node exists."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
