"""The embedder's loss over batches of tokens: parts of like length, cached gradients, Matryoshka.

Importing this module loads torch and sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from torch import Tensor, nn

from shortlist_adapt.training.batches import Batch, assemble
from shortlist_adapt.training.losses import improved_info_nce
from shortlist_adapt.training.rows import TrainingRows
from shortlist_adapt.training.served_texts import Tokens


def features(texts: Sequence[Tokens]) -> dict[str, Any]:
    """Texts as the input of a sentence-transformers model, padded on the right as the server pads them."""
    length = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
    made: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if texts[0].prompt_tokens:
        made["prompt_length"] = texts[0].prompt_tokens
    return made


def embed(model: Any, texts: Sequence[Tokens], *, part_tokens: int) -> NDArray[np.float32]:
    """The vectors of texts, shape (texts, dimension), of length 1. Without gradients or dropout."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number].ids))
    vectors: list[Tensor] = []
    model.eval()
    with torch.no_grad():
        for part in _parts([texts[number] for number in order], part_tokens):
            inputs = {
                key: value.to(model.device) if isinstance(value, Tensor) else value
                for key, value in features(part).items()
            }
            made = model(inputs)["sentence_embedding"].float()
            vectors.append(nn.functional.normalize(made, dim=-1).cpu())
    found = np.empty((len(texts), vectors[0].shape[1]), dtype=np.float32)
    found[order] = torch.cat(vectors).numpy()
    return found


def _parts(texts: Sequence[Tokens], most_tokens: int) -> Iterator[Sequence[Tokens]]:
    """Splits texts, longest first, so that no part has more tokens, padding included, unless it is one text."""
    begin = 0
    while begin < len(texts):
        end = begin + max(most_tokens // max(len(texts[begin].ids), 1), 1)
        yield texts[begin:end]
        begin = end


class Collator:
    """Makes the model's input of a batch; called by the trainer's loader.

    Args:
        batches: all batches of the training, in order.
    """

    valid_label_columns: tuple[str, ...] = ()

    def __init__(self, table: TrainingRows, batches: Sequence[Batch]) -> None:
        self._table = table
        self._batches = batches

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The texts of a batch as the columns ``query_*`` and ``document_*``; the batch's number as ``label``."""
        (number,) = numbers
        batch = assemble(self._table, self._batches[number])
        columns = {
            "query": features([self._table.queries[one] for one in batch.queries]),
            "document": features([self._table.passages[one] for one in batch.passages]),
        }
        made = {f"{column}_{key}": value for column, texts in columns.items() for key, value in texts.items()}
        return {**made, "label": torch.tensor([number])}


class ContrastiveLoss(CachedLossMixin, nn.Module):
    """The improved InfoNCE over batches as ``Collator`` makes them.

    A batch is embedded in parts. If all its activations may stay in memory, they do. Otherwise it is embedded twice,
    with cached gradients (Gao et al., arXiv 2101.06983), so that memory holds those of one part.

    Args:
        dimensions: sizes that vectors are cut to, averaged over (Matryoshka); empty for the full size alone.
        part_tokens: most tokens of a part.
        kept_tokens: most tokens of a batch whose activations all stay in memory.
    """

    def __init__(
        self,
        model: Any,
        table: TrainingRows,
        batches: Sequence[Batch],
        *,
        temperature: float,
        margin: float,
        dimensions: Sequence[int],
        part_tokens: int,
        kept_tokens: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.mini_batch_size = 1  # CachedLossMixin wants it, and goes by tokens where they are set
        self.mini_batch_num_tokens = part_tokens
        self._table = table
        self._batches = batches
        self._temperature = temperature
        self._margin = margin
        self._dimensions = tuple(dimensions)
        self._kept_tokens = kept_tokens

    def forward(self, columns: Sequence[dict[str, Any]], labels: Tensor) -> Tensor:
        """The loss of a batch; a scalar. What ``loss`` means to a sentence-transformers trainer."""
        columns, mixin = list(columns), cast(Any, self)  # the mixin has no types
        if sum(int(column["attention_mask"].sum()) for column in columns) > self._kept_tokens:
            return cast(Tensor, mixin.forward_cached(columns, labels))
        vectors = [
            [part for part, _ in mixin.embed_minibatch_iter(column, with_grad=True, copy_random_state=False)]
            for column in columns
        ]
        return self.calculate_loss(vectors, labels)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """See ``CachedLossMixin.calculate_loss``: the loss of vectors, and where asked their gradients."""
        assert labels is not None
        batch = assemble(self._table, self._batches[int(labels)])
        queries, distinct = (torch.cat(parts) for parts in reps)
        places = torch.from_numpy(batch.places).to(queries.device)
        related = torch.from_numpy(batch.related).to(queries.device)
        # An absent document takes the vector of the first one, and counts nowhere because it is related to all.
        documents = distinct[places.clamp(min=0)]
        sizes = self._dimensions or (queries.shape[-1],)
        # The trainer's autocast is for the model: cosines in bfloat16, divided by the temperature, would be too coarse.
        with torch.autocast(queries.device.type, enabled=False):
            losses = [
                improved_info_nce(
                    queries[..., :size],
                    documents[..., :size],
                    related=related,
                    temperature=self._temperature,
                    margin=self._margin,
                )
                for size in sizes
            ]
            loss = torch.stack(losses).mean()
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        return loss
