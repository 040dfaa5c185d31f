"""Runs transformer checkpoints in torch: on a GPU, for decoders, and as the reference of the ONNX export.

Loads safetensors only, from local files, without code from the model's folder. The forward pass may be called from
several threads.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference import layout
from shortlist_server.inference.weights import check_loaded

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

ENCODER = "AutoModel"
CLASSIFIER = "AutoModelForSequenceClassification"
DECODER = "AutoModelForCausalLM"

_ENCODERS_ALONE = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}

_UNUSED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "cls.predictions")
"""Parts a checkpoint may lack, because nothing here reads them."""


def choose_device(device: str) -> str:
    """The torch device for the setting: "auto" takes a GPU where there is one. Raises ``InvalidArgument``."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] != "cuda":
        raise InvalidArgument(f"device is {device!r}; it may be auto, cpu or cuda.", field="device")
    if not torch.cuda.is_available():
        raise InvalidArgument("device is cuda, but torch finds no GPU: use cpu, or a torch with CUDA.", field="device")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """The number format for the setting: "auto" is bfloat16 on a GPU, else float32. float16 can overflow to NaN."""
    if dtype in ("auto", "int8"):
        return "bfloat16" if device.startswith("cuda") else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise InvalidArgument(f"dtype is {dtype!r}; it may be auto, int8, float32 or bfloat16.", field="dtype")
    return dtype


def load_checkpoint(
    auto_class: str,
    folder: Path,
    *,
    device: str,
    dtype: str,
    unused: tuple[str, ...] = _UNUSED_WEIGHTS,
    attention: str | None = None,
) -> Any:
    """A transformers model in evaluation mode, by the name of its auto class ("AutoModel").

    Args:
        unused: parts of weight names that the checkpoint may lack.
        attention: which implementation; None for the one that transformers takes, "eager" for plain operations.

    Raises:
        ModelNotFound: the files do not make a whole model of a known architecture.
    """
    import torch
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = getattr(transformers, _model_class(auto_class, folder)).from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            torch_dtype=getattr(torch, dtype),
            attn_implementation=attention,
        )
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise ModelNotFound(f"The model in {folder} cannot be loaded: {error}") from error
    check_loaded(model, report, folder, unused)
    return model.to(device).eval()


def _model_class(auto_class: str, folder: Path) -> str:
    """The class to load: the auto class, but of a model with encoder and decoder only the encoder."""
    kind = layout.read_json(folder / "config.json").get("model_type")
    return _ENCODERS_ALONE.get(str(kind), auto_class) if auto_class == ENCODER else auto_class


class TorchTransformer:
    """A transformer without a decoding loop: gives hidden states, or the logits of a classifier."""

    def __init__(
        self, auto_class: str, folder: Path, *, device: str, dtype: str, threads: int, attention: str | None = None
    ) -> None:
        """``attention``: see ``load_checkpoint``."""
        import torch

        torch.set_num_threads(threads)
        self.device = device
        self.model = load_checkpoint(
            auto_class,
            folder,
            device=device,
            dtype=dtype,
            unused=("position_ids",) if auto_class == CLASSIFIER else _UNUSED_WEIGHTS,
            attention=attention,
        )
        self.takes_segments = "token_type_ids" in inspect.signature(self.model.forward).parameters

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """See ``Forward.run``."""
        import torch

        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.takes_segments and segments is not None:
            inputs["token_type_ids"] = segments
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()})
            values = output.logits if "logits" in output else output.last_hidden_state
            return np.asarray(values.float().cpu().numpy())
