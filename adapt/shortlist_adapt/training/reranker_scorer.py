"""The raw score of a pair with gradients, equal to that of the server's rerankers. Importing this loads torch."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from shortlist_adapt.training.reranker_start import Family


class Scorer(torch.nn.Module):
    """A transformers model with the head of its family.

    Args:
        model: the model, whose layers may have adapters.
        answers: the tokens "yes" and "no" of the family YES_NO.
    """

    def __init__(self, model: Any, family: Family, answers: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model = model
        self._family = family
        self._answers = answers
        self._takes_segments = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor, last: Tensor) -> Tensor:
        """Raw scores, shape (pairs,), float32. Arguments: see ``reranker_inputs.arrays``."""
        if self._family is Family.ENCODER:
            extra = {"token_type_ids": segments} if self._takes_segments else {}
            return _raw(self.model(input_ids=ids, attention_mask=mask, **extra).logits)
        body = self.model.model if self._family is Family.YES_NO else getattr(self.model, self.model.base_model_prefix)
        hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        read = hidden[torch.arange(len(ids), device=ids.device), last]
        if self._family is Family.DECODER:
            return _raw(self.model.score(read))
        assert self._answers is not None
        yes, no = self.model.get_output_embeddings().weight[list(self._answers)]
        return torch.mv(read.float(), yes.float() - no.float())


def _raw(logits: Tensor) -> Tensor:
    """See ``cross_encoder.raw_and_probability``."""
    logits = logits.float()
    return logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
