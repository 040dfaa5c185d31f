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

_NO_BFLOAT16 = "this GPU does not compute in bfloat16"

_MEMORY_SHARE = 0.25
"""Of a card's free memory, for one batch: queries, passages and candidates of several models may run at once."""

_LEAST_BATCH_TOKENS, _MOST_BATCH_TOKENS = 2048, 32_768
"""A larger batch makes a large card no faster, and a query waits longer for it."""

_UNUSED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "cls.predictions")
"""Include a checkpoint may lack, because nothing here reads them."""


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
    """The number format for the setting: "auto" is bfloat16 on a GPU that computes in it, else float32.

    Never float16, which can overflow to NaN.

    Raises:
        InvalidArgument: it is none of these, or bfloat16 and the GPU only emulates that.
    """
    if dtype in ("auto", "int8"):
        return "bfloat16" if device.startswith("cuda") and has_bfloat16(device) else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise InvalidArgument(f"dtype is {dtype!r}; it may be auto, int8, float32 or bfloat16.", field="dtype")
    if dtype == "bfloat16" and device.startswith("cuda") and not has_bfloat16(device):
        raise InvalidArgument(f"dtype is bfloat16, but {_NO_BFLOAT16}: use float32 or auto.", field="dtype")
    return dtype


def dtype_note(dtype: str, device: str) -> str:
    """Why ``choose_dtype`` takes another number format than "auto" stands for on a GPU; "" where it does not."""
    return _NO_BFLOAT16 if dtype == "auto" and device.startswith("cuda") and not has_bfloat16(device) else ""


def has_bfloat16(device: str) -> bool:
    """Whether a GPU computes in bfloat16, rather than emulating it."""
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def batch_tokens(model: Any, device: str) -> int:
    """How many tokens a padded batch of the loaded model may have on its GPU; 0 on a CPU, where small ones are best."""
    if not device.startswith("cuda"):
        return 0
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    return tokens_in(free, width=width, inner=inner, item_bytes=model.dtype.itemsize)


def tokens_in(free_bytes: int, *, width: int, inner: int, item_bytes: int) -> int:
    """How many tokens of a transformer fit into a share of the memory that is free, within bounds.

    While it runs without gradients, one layer's activations are there at a time: about eight of the hidden size
    (residual, queries, keys, values, their heads repeated, output) and three of the inner one. At the end the hidden
    states are there in float32.

    Args:
        width, inner: sizes of hidden states and of the feed-forward layer.
        item_bytes: of the number format.
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
