"""Runs transformer checkpoints in torch: on a GPU, for decoders, and as the reference for ONNX exports.

Loads only safetensors from local files, and never runs code from a model's folder. Several threads may call the forward
pass.
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

_NO_BFLOAT16 = "this GPU does not compute in bfloat16"

_MEMORY_SHARE = 0.25
"""The share of a card's free memory for one batch, because queries, passages and candidates may run at once."""

_LEAST_BATCH_TOKENS, _MOST_BATCH_TOKENS = 2048, 32_768
"""A larger batch gains nothing even on a large card, and queries wait longer behind it."""

_UNUSED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "cls.predictions")
"""Weights that a checkpoint may lack, because nothing here reads them."""


def choose_device(device: str) -> str:
    """The torch device for a setting; "auto" takes a GPU if there is one. Raises ``InvalidArgument``."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] != "cuda":
        raise InvalidArgument(f"device is {device!r}: give auto, cpu or cuda", field="device")
    if not torch.cuda.is_available():
        raise InvalidArgument(
            "device is cuda, but torch finds no GPU: give cpu, or install torch with CUDA", field="device"
        )
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """The number format for a setting; "auto" is bfloat16 on a GPU that computes in it, else float32.

    float16 is never used, because it can overflow to NaN.

    Raises:
        InvalidArgument: the setting is unknown, or it is bfloat16 and the GPU only emulates that.
    """
    if dtype in ("auto", "int8"):
        return "bfloat16" if device.startswith("cuda") and has_bfloat16(device) else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise InvalidArgument(f"dtype is {dtype!r}: give auto, int8, float32 or bfloat16", field="dtype")
    if dtype == "bfloat16" and device.startswith("cuda") and not has_bfloat16(device):
        raise InvalidArgument(f"dtype is bfloat16, but {_NO_BFLOAT16}: give float32 or auto", field="dtype")
    return dtype


def dtype_note(dtype: str, device: str) -> str:
    """Why ``choose_dtype`` does not take bfloat16 for "auto" on a GPU; "" if it does, or if that was not asked."""
    return _NO_BFLOAT16 if dtype == "auto" and device.startswith("cuda") and not has_bfloat16(device) else ""


def has_bfloat16(device: str) -> bool:
    """Whether a GPU computes in bfloat16 instead of emulating it."""
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def batch_tokens(model: Any, device: str) -> int:
    """Largest padded batch of the loaded model on its GPU, in tokens; 0 on a CPU, where small batches are best."""
    if not device.startswith("cuda"):
        return 0
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    return tokens_in(free, width=width, inner=inner, item_bytes=model.dtype.itemsize)


def tokens_in(free_bytes: int, *, width: int, inner: int, item_bytes: int) -> int:
    """How many tokens fit into a share of the free memory while a transformer runs, within bounds.

    Without gradients, memory holds the activations of one layer at a time: about eight of the hidden size (residual,
    queries, keys, values, their heads repeated, output) and three of the inner size. At the end it also holds the
    hidden states in float32.

    Args:
        width, inner: sizes of the hidden states and of the feed-forward layer.
        item_bytes: bytes of one number.
    """
    token_bytes = (8 * width + 3 * inner) * item_bytes + 4 * width
    return min(max(int(free_bytes * _MEMORY_SHARE) // token_bytes, _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS)


def load_checkpoint(
    auto_class: str,
    folder: Path,
    *,
    device: str,
    dtype: str,
    unused: tuple[str, ...] = _UNUSED_WEIGHTS,
    attention: str | None = None,
) -> Any:
    """A transformers model in evaluation mode, by the name of its auto class, such as "AutoModel".

    Args:
        unused: parts of weight names that the checkpoint may lack.
        attention: its implementation; None for the default of transformers, "eager" for plain operations.

    Raises:
        ModelNotFound: the files are not a complete model of a known architecture.
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
        raise ModelNotFound(f"the model in {folder} cannot be loaded: {error}") from error
    check_loaded(model, report, folder, unused)
    return model.to(device).eval()


def _model_class(auto_class: str, folder: Path) -> str:
    """The class to load: the auto class, except that encoder-decoder models load their encoder alone."""
    kind = layout.read_json(folder / "config.json").get("model_type")
    return _ENCODERS_ALONE.get(str(kind), auto_class) if auto_class == ENCODER else auto_class


class TorchTransformer:
    """A transformer without a decoding loop: it gives hidden states, or the logits of a classifier."""

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

        with torch.inference_mode():
            return _to_host(self._forward(ids, mask, segments))

    def run_pooled(self, ids: Ids, mask: Ids, pooling: str) -> Floats:
        """See ``PooledForward.run_pooled``."""
        import torch

        with torch.inference_mode():
            hidden = self._forward(ids, mask, None)
            if pooling == "cls":
                return _to_host(hidden[:, 0])
            weights = torch.from_numpy(mask).to(self.device)
            counts = weights.sum(dim=1)
            if pooling == "lasttoken":
                return _to_host(hidden[torch.arange(len(ids), device=self.device), (counts - 1).clamp(min=0)])
            summed = torch.einsum("btw,bt->bw", hidden.float(), weights.float())
            return _to_host(summed / counts.clamp(min=1)[:, None])

    def _forward(self, ids: Ids, mask: Ids, segments: Ids | None) -> Any:
        import torch

        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.takes_segments and segments is not None:
            inputs["token_type_ids"] = segments
        output = self.model(**{name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()})
        return output.logits if "logits" in output else output.last_hidden_state


def _to_host(values: Any) -> Floats:
    return np.asarray(values.float().cpu().numpy())
