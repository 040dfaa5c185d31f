"""Refuses weights that are not those of a model as its config describes it.

Transformers loads more than that: it fills a missing layer with random numbers, leaves out one too many and converts
numbers of any kind. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound

_FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTIZED = ("I8", "F8", "F4", "U4", "I4")
_NEVER_WEIGHTS = ("position_ids", "inv_freq", "masked_bias")
"""What older releases of transformers saved with the weights: numbers that follow from the config."""


def check_formats(path: Path, header: Mapping[str, Any]) -> None:
    """Refuses weights in a number format other than floating point. Raises ``ModelNotFound`` naming the file.

    Args:
        header: that of a safetensors file: https://huggingface.co/docs/safetensors ("Format").
    """
    for name, entry in header.items():
        if name == "__metadata__" or (kind := str(entry.get("dtype"))) in _FLOATS:
            continue
        # Masks and position ids are whole numbers, and some masks are called a bias.
        is_weight = name.endswith((".weight", ".bias")) and len(entry.get("shape", ())) <= 2
        if is_weight or kind.startswith(_QUANTIZED):
            raise ModelNotFound(
                f"{path} has {name!r} as {kind}: quantised weights are not read. Copy the model's weights in float32,"
                " bfloat16 or float16 there."
            )


def check_loaded(model: Any, report: Mapping[str, Any], folder: Path, unused: Sequence[str]) -> None:
    """Refuses a transformers model whose weights were not all read, or not all used, or are not finite.

    Args:
        report: of ``from_pretrained`` with ``output_loading_info``.
        unused: parts of weight names that the checkpoint may lack.

    Raises:
        ModelNotFound: naming the file and the first weight that is wrong.
    """
    missing = [name for name in report["missing_keys"] if not any(part in name for part in unused)]
    if wrong := [*missing, *map(str, report.get("mismatched_keys", ()))]:
        raise ModelNotFound(
            f"The weights in {folder} are not those of its config.json: of {len(wrong)} weights, {wrong[0]!r} the"
            " first, the shape differs or they are missing. Copy the model anew."
        )
    if extra := sorted(name for name in report["unexpected_keys"] if _is_of_the_body(name, model)):
        raise ModelNotFound(
            f"The weights in {_file(folder)} are not those of its config.json: {len(extra)} of them, {extra[0]!r} the"
            " first, have no place in that model, which has fewer layers or other ones. Copy the model anew."
        )
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelNotFound(f"{_file(folder)} has values in {name!r} that are not finite. Copy the model anew.")


def _is_of_the_body(name: str, model: Any) -> bool:
    """Whether a weight that the model has no place for belongs to a part that the model has.

    Heads for other tasks, such as ``cls.predictions``, do not.
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
