"""Runs transformer checkpoints in torch: on a GPU, for decoders, and as the reference of the ONNX export.

Loads safetensors only, from local files, without code from the model's folder. The forward pass may be called from
several threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import InvalidArgument, ModelNotFound

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

_IGNORED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "cls.")
"""Parts of checkpoints that are unused here or made anew: their absence says nothing."""


def choose_device(device: str) -> str:
    """The torch device for the setting: "auto" takes a GPU where there is one. Raises ``InvalidArgument``."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise InvalidArgument(f"device is {device!r}; it may be auto, cpu or cuda.", field="device")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidArgument(
            "device is cuda, but torch finds no GPU. Use cpu, or install torch with CUDA.", field="device"
        )
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """The number format for the setting: "auto" is bfloat16 on a GPU, else float32. float16 can overflow to NaN."""
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise InvalidArgument(f"dtype is {dtype!r}; it may be auto, float32 or bfloat16.", field="dtype")
    return dtype


def load_checkpoint(
    auto_class: str, folder: Path, *, device: str, dtype: str, ignored: tuple[str, ...] = _IGNORED_WEIGHTS
) -> Any:
    """A transformers model in evaluation mode, by the name of its auto class ("AutoModel").

    Raises:
        ModelNotFound: the files do not make a whole model of a known architecture.
    """
    import torch
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            torch_dtype=getattr(torch, dtype),
        )
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise ModelNotFound(f"The model in {folder} cannot be loaded: {error}") from error
    missing = [name for name in report["missing_keys"] if not any(part in name for part in ignored)]
    if missing or report.get("mismatched_keys"):
        raise ModelNotFound(
            f"The weights in {folder} are not those of its config.json: {missing or report['mismatched_keys']} are"
            " missing or of another shape. Copy the model anew."
        )
    return model.to(device).eval()


class TorchEncoder:
    """The last hidden states of a transformer."""

    def __init__(self, folder: Path, *, device: str, dtype: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._device = choose_device(device)
        self.dtype = choose_dtype(dtype, self._device)
        self._model = load_checkpoint("AutoModel", folder, device=self._device, dtype=self.dtype)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the model knows."""
        return int(self._model.get_input_embeddings().weight.shape[0])

    def hidden_states(self, ids: Ids, mask: Ids) -> Floats:
        """Hidden states of shape (texts, tokens, width), float32, for ids and mask of shape (texts, tokens)."""
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(self._device), attention_mask=torch.from_numpy(mask).to(self._device)
            )
            return np.asarray(output.last_hidden_state.float().cpu().numpy())
