"""Qwen3-Reranker: asks a decoder whether the document answers the query, and compares the logits of "yes" and "no".

The prompt and the scoring are those of the model card (https://huggingface.co/Qwen/Qwen3-Reranker-0.6B). All candidates
of a query share the prompt up to ``<Document>:``, which runs once; its keys and values are reused. Truncation cuts the
document only. Special tokens and markup such as ``</think>`` are never read out of users' texts, so no text can close
the turn. Padding is on the right, where causal attention cannot see it. One thread at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.base import (
    MayContinue,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.inference.cross_encoder import sigmoid
from shortlist_server.inference.encoder import pad
from shortlist_server.inference.rerank_batches import Batches, Scored
from shortlist_server.inference.tokenization import open_for_texts, open_tokenizer

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

MAX_TOKENS = 8192
"""The length that the model was trained on. It also bounds the cost of one candidate."""


class Qwen3Prompt:
    """The prompt in tokens: a head that all candidates of a query share, and a tail for each document.

    The head ends after ``<Document>:``, and the tail begins with the space that follows. The tokenizer's word pattern
    never joins a colon to the space after it, so both halves together are the tokens of the whole.
    """

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
        self._plain = open_for_texts(tokenizer_file, markup=True)
        special = open_tokenizer(tokenizer_file)
        self._prefix = special.encode(PREFIX, add_special_tokens=False).ids
        self._suffix = special.encode(SUFFIX, add_special_tokens=False).ids
        self._max_tokens = max_tokens
        self.vocabulary_size: int = special.get_vocab_size(with_added_tokens=True)
        self.yes = self._single(special, "yes", tokenizer_file)
        self.no = self._single(special, "no", tokenizer_file)

    def head(self, query: str, instruction: str) -> list[int]:
        """Token ids up to ``<Document>:``. Instruction and query together take at most half of the room."""
        room = (self._max_tokens - len(self._prefix) - len(self._suffix)) // 2
        opening = self._ids(f"<Instruct>: {instruction or DEFAULT_INSTRUCTION}\n<Query>: {query}\n<Document>:")
        if len(opening) > room:
            closing = self._ids("\n<Document>:")
            opening = opening[: room - len(closing)] + closing
        return [*self._prefix, *opening]

    def tails(self, documents: Sequence[str], head_tokens: int) -> list[tuple[list[int], int]]:
        """For each document: the token ids after a head of that length, and how many of its tokens were cut."""
        room = self._max_tokens - head_tokens - len(self._suffix)
        encodings = self._plain.encode_batch([f" {document}" for document in documents], add_special_tokens=False)
        return [([*e.ids[:room], *self._suffix], max(len(e.ids) - room, 0)) for e in encodings]

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids. The vocabulary consists of bytes, so a cut may only lose half a character."""
        return str(self._plain.decode(ids, skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    @staticmethod
    def _single(tokenizer: Any, word: str, path: Path) -> int:
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        if len(ids) != 1:
            raise ModelNotFound(
                f"{path} has no token {word!r}, so it is not a Qwen3 reranker's tokenizer: copy it anew"
            )
        return int(ids[0])


class Qwen3Reranker:
    """A reranker over a Qwen3 decoder.

    Args:
        model: a transformers causal language model.
        batch_tokens: see ``Batches``.
    """

    def __init__(self, info: RerankerInfo, model: Any, prompt: Qwen3Prompt, *, batch_tokens: int = 0) -> None:
        self.info = info
        self._decoder = model.model
        self._prompt = prompt
        self._reuse_head = True
        # Two rows of the head suffice: hidden . (W_yes - W_no) is the difference of the two logits.
        head = model.get_output_embeddings().weight
        self._direction = (head[prompt.yes].float() - head[prompt.no].float()).detach()
        self._batches = Batches(seconds_per_token=1e-4, batch_tokens=batch_tokens)

    def without_reuse(self) -> Qwen3Reranker:
        """The same reranker, running the whole prompt for every candidate, to measure what reuse saves."""
        other = copy.copy(self)
        other._reuse_head = False
        return other

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        """See ``Reranker.score``."""
        head, tails = self._prompts(query, candidates)
        shared = 0 if self._reuse_head else len(head)
        cache: list[Any] = []

        def run(rows: Sequence[int]) -> Scored:
            if self._reuse_head and not cache:
                cache.append(self._run_head(head))
            texts = [tails[row][0] if self._reuse_head else head + tails[row][0] for row in rows]
            return self._run_tails(texts, cache[0] if cache else None, len(head))

        return self._batches.score(
            [shared + len(ids) for ids, _ in tails],
            [cut for _, cut in tails],
            run,
            may_continue,
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """See ``Reranker.render``."""
        head, tails = self._prompts(query, candidates)
        return [RenderedCandidate(text=self._prompt.text([*head, *ids])) for ids, _ in tails]

    def _prompts(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate]
    ) -> tuple[list[int], list[tuple[list[int], int]]]:
        head = self._prompt.head(query.text, query.instruction)
        return head, self._prompt.tails([candidate.text for candidate in candidates], len(head)) if candidates else []

    def _run_head(self, head: list[int]) -> Any:
        import torch

        with torch.inference_mode():
            ids = torch.tensor([head], device=self._direction.device)
            return self._decoder(input_ids=ids, use_cache=True).past_key_values

    def _run_tails(self, texts: Sequence[list[int]], cache: Any | None, head_tokens: int) -> Scored:
        import torch

        device = self._direction.device
        ids, mask = (torch.from_numpy(array).to(device) for array in pad(texts))
        last = mask.sum(dim=1) - 1
        with torch.inference_mode():
            if cache is None:
                hidden = self._decoder(input_ids=ids, attention_mask=mask).last_hidden_state
            else:
                seen = torch.cat([torch.ones(len(texts), head_tokens, dtype=mask.dtype, device=device), mask], dim=1)
                positions = torch.arange(head_tokens, head_tokens + ids.shape[1], device=device).expand(len(texts), -1)
                hidden = self._decoder(
                    input_ids=ids,
                    attention_mask=seen,
                    position_ids=positions,
                    past_key_values=shared_head(cache),
                    use_cache=True,
                ).last_hidden_state
            final = hidden[torch.arange(len(texts), device=device), last].float()
            raw = (final @ self._direction).cpu().numpy()
        return Scored(raw=np.asarray(raw, dtype=np.float32), probability=sigmoid(raw))


def shared_head(cache: Any) -> Any:
    """A view of one text's cache that serves a batch of continuations and leaves the cache unchanged.

    The view stores nothing. While a layer runs, it joins the keys and values of the head to the batch's own. So memory
    holds a copy for each candidate in one layer at a time; a copied cache would hold them in all layers.
    """
    import torch

    def update(keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        head = cache.layers[layer]
        return join(head.keys, keys), join(head.values, values)

    def join(past: Any, new: Any) -> Any:
        return torch.cat([past.expand(len(new), -1, -1, -1), new], dim=2)

    view = copy.copy(cache)
    view.update = update
    return view
