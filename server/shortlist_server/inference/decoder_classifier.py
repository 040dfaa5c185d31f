"""Classifiers over decoders, such as Qwen3ForSequenceClassification, in torch.

Their head reads the hidden state of a text's last token, the only one that has seen the whole text. Transformers finds
that token by ``config.pad_token_id``: the rightmost one that is not padding (``GenericForSequenceClassification``).
Here the mask counts as well, so any token may fill up the batch, and a checkpoint needs no pad token. Several threads
may call the forward pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.encoder import Floats, Ids
from shortlist_server.inference.torch_backend import CLASSIFIER, TorchTransformer

_DECODERS = (
    *("arcee", "biogpt", "bloom", "cohere", "deepseek", "diffllama", "doge", "exaone", "falcon", "gemma", "glm"),
    *("gpt", "granite", "helium", "hunyuan", "jamba", "jetmoe", "llama", "minicpm", "minimax", "ministral", "mistral"),
    *("mixtral", "modernbert-decoder", "mpt", "nemotron", "olmo", "opt", "persimmon", "phi", "qwen", "seed_oss"),
    *("smollm", "stablelm", "starcoder", "zamba"),
)
"""Prefixes of the model types of decoders with a classifying head."""


def is_decoder(model_type: str) -> bool:
    """Whether models of that type (``config.model_type``) are decoders, whose tokens see only what precedes them."""
    return model_type.startswith(_DECODERS)


class DecoderClassifier:
    """A ``Forward`` over a decoder with a classifying head; gives logits, shape (texts, labels).

    Raises:
        ModelNotFound: the files are not such a model.
    """

    def __init__(self, folder: Path, *, device: str, dtype: str, threads: int) -> None:
        self._transformer = TorchTransformer(CLASSIFIER, folder, device=device, dtype=dtype, threads=threads)
        model = self._transformer.model
        self._body: Any = getattr(model, model.base_model_prefix, None)
        self._head: Any = getattr(model, "score", None)
        if self._body is None or self._head is None:
            raise ModelNotFound(
                f"{folder / 'config.json'} describes {type(model).__name__}, whose head is unknown here"
            )
        self._pad_id: int | None = model.config.get_text_config().pad_token_id

    @property
    def model(self) -> Any:
        """The loaded model, head included."""
        return self._transformer.model

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """See ``Forward.run``. A decoder ignores ``segments``."""
        import torch

        device = self._transformer.device
        with torch.inference_mode():
            inputs = {"input_ids": ids, "attention_mask": mask}
            tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
            hidden = self._body(**tensors, use_cache=False).last_hidden_state
            last = torch.from_numpy(last_tokens(ids, mask, self._pad_id)).to(device)
            logits = self._head(hidden[torch.arange(len(ids), device=device), last])
            return np.asarray(logits.float().cpu().numpy())


def last_tokens(ids: Ids, mask: Ids, pad_id: int | None) -> Ids:
    """Index of the token that the head reads: the last of each text that is not ``pad_id``. Shape (texts,)."""
    read = mask.astype(bool) if pad_id is None else mask.astype(bool) & (ids != pad_id)
    last = ids.shape[1] - 1 - read[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(read.any(axis=1), last, 0), dtype=np.int64)
