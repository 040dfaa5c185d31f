"""Refuses weights that do not match the model that its config describes.

Transformers accepts more: it fills a missing layer with random numbers, ignores a surplus layer and converts numbers of
any kind. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound

_FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTIZED = ("I8", "F8", "F4", "U4", "I4")
_NEVER_WEIGHTS = ("position_ids", "inv_freq", "masked_bias")
"""Values that older releases of transformers saved with the weights, although they follow from the config."""


def check_formats(path: Path, header: Mapping[str, Any]) -> None:
    """Refuses weights that are not floating-point numbers. Raises ``ModelNotFound``, which names the file.

    Args:
        header: the header of a safetensors file (https://huggingface.co/docs/safetensors, "Format").
    """
    for name, entry in header.items():
        if name == "__metadata__" or (kind := str(entry.get("dtype"))) in _FLOATS:
            continue
        # Masks and position ids are integers, and some masks are named "bias".
        is_weight = name.endswith((".weight", ".bias")) and len(entry.get("shape", ())) <= 2
        if is_weight or kind.startswith(_QUANTIZED):
            raise ModelNotFound(
                f"{path} has {name!r} as {kind}: quantised weights are not read; copy the model's weights in float32,"
                " bfloat16 or float16 there"
            )


def check_loaded(model: Any, report: Mapping[str, Any], folder: Path, unused: Sequence[str]) -> None:
    """Refuses a transformers model if weights were missing, left unused or not finite.

    Args:
        report: the one that ``from_pretrained`` returns with ``output_loading_info``.
        unused: parts of weight names that the checkpoint may lack.

    Raises:
        ModelNotFound: the message names the file and the first weight that is wrong.
    """
    missing = [name for name in report["missing_keys"] if not any(part in name for part in unused)]
    if wrong := [*missing, *map(str, report.get("mismatched_keys", ()))]:
        raise ModelNotFound(
            f"the weights in {folder} are not those of its config.json, because {len(wrong)} of them, first"
            f" {wrong[0]!r}, are missing or have another shape: copy the model anew"
        )
    if extra := sorted(name for name in report["unexpected_keys"] if _is_of_the_body(name, model)):
        raise ModelNotFound(
            f"the weights in {_file(folder)} are not those of its config.json, because {len(extra)} of them, first"
            f" {extra[0]!r}, have no place in that model: copy the model anew"
        )
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelNotFound(f"{_file(folder)} has values in {name!r} that are not finite: copy the model anew")


def _is_of_the_body(name: str, model: Any) -> bool:
    """Whether a surplus weight belongs to a part that the model has.

    Heads for other tasks, such as ``cls.predictions``, are no such part.
    """
    prefix = model.base_model_prefix
    body = getattr(model, prefix, model)
    parts = name.split(".")
    if parts[0] == prefix:
        parts = parts[1:]
    known = {child for module in (model, body) for child, _ in module.named_children()}
    return parts[0] in known and parts[-1] not in _NEVER_WEIGHTS


def _file(folder: Path) -> Path:
    single = folder / "model.safetensors"
    return single if single.is_file() else folder / "model.safetensors.index.json"
