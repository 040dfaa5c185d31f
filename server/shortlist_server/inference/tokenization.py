"""Turns texts into token ids with a model's own ``tokenizer.json``, without transformers.

The tokenizer's own truncation and padding are switched off, because texts are cut here, where lost tokens are counted.
Immutable after construction; any thread. Encoding releases the GIL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import ModelNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Token ids of a text, as the model reads them.

    Attributes:
        ids: with special tokens and the prompt.
        own: where the text's own tokens lie in ``ids``; the whole of ``ids`` for a text without tokens.
        truncated_tokens: how many tokens were cut off.
    """

    ids: list[int]
    own: slice
    truncated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpans:
    """Where the tokens of a text lie, without special tokens.

    Attributes:
        starts, ends: shape (n,), int64, code points.
        word_starts: shape (n,), bool: whether a token begins a word. A cut before such a token changes no token.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    word_starts: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)


def open_tokenizer(path: Path) -> Any:
    """A ``tokenizers.Tokenizer`` with truncation and padding off. Raises ``ModelNotFound`` naming the file."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelNotFound(
            f"{path} is missing: copy the model's tokenizer.json there; if the model has none, make one with"
            " AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ModelNotFound(f"{path} is not a tokenizer file, or is truncated ({error}): copy it anew") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def open_for_texts(path: Path, *, markup: bool = False) -> Any:
    """A tokenizer that never reads a special token out of a text: the token's name becomes ordinary pieces. Its own
    post-processor still adds special tokens. Errors are those of ``open_tokenizer``.

    Args:
        markup: treat all other added tokens, such as ``</think>``, in the same way. This does not suit every model: in
            some, runs of spaces and line ends are added tokens.
    """
    from tokenizers import AddedToken, Tokenizer

    tokenizer = open_tokenizer(path)
    added = tokenizer.get_added_tokens_decoder().values()
    if markup:
        # The name decides what counts as special, so adding a token again changes nothing else about it.
        tokenizer.add_special_tokens([AddedToken(token.content, special=True, normalized=False) for token in added])
    tokenizer.encode_special_tokens = True
    if type(tokenizer.model).__name__ == "Unigram":
        # Unigram finds the names of special tokens among its own pieces, so these are renamed with spaces around them.
        # No text contains such a piece: spaces are replaced, or split at, before pieces are looked up.
        special = {token.content for token in added if token.special}
        settings = json.loads(tokenizer.to_str())
        settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] not in special]
        settings["model"]["vocab"] = [
            [f" {piece} " if piece in special else piece, score] for piece, score in settings["model"]["vocab"]
        ]
        tokenizer = Tokenizer.from_str(json.dumps(settings))
    return tokenizer


def rendered(encoding: Any, texts: Sequence[str], kept: Sequence[int]) -> str:
    """The text of an encoding's kept tokens: parts of the texts it was made of, and special tokens by name."""
    sequences, offsets, names = encoding.sequence_ids, encoding.offsets, encoding.tokens
    parts: list[str] = []
    for sequence, group in groupby(kept, key=lambda index: sequences[index]):
        indexes = list(group)
        if sequence is None:
            parts += [names[index] for index in indexes]
        else:
            parts.append(texts[sequence][offsets[indexes[0]][0] : offsets[indexes[-1]][1]])
    return "".join(parts)


def _append_token(tokenizer: Any, token: str, path: Path) -> None:
    from tokenizers import processors

    number = tokenizer.token_to_id(token)
    if number is None:
        raise ModelNotFound(f"{path} has no token {token!r}, at which this model is pooled: copy it anew")
    if tokenizer.encode("a").ids[-1:] != [number]:
        end = processors.TemplateProcessing(single=f"$A {token}", special_tokens=[(token, number)])
        own = tokenizer.post_processor
        tokenizer.post_processor = processors.Sequence([own, end]) if own is not None else end


class TextTokenizer:
    """Encodes texts for an embedder: lower-cases them if asked, puts a prompt in front and cuts to ``max_tokens``.

    Args:
        last_token: a token that every text must end in; appended if the tokenizer's own post-processor does not.
        bare: texts get no special tokens.
    """

    def __init__(
        self, path: Path, *, max_tokens: int, lowercase: bool = False, last_token: str = "", bare: bool = False
    ) -> None:
        self._tokenizer = open_tokenizer(path)
        if bare:
            from tokenizers import processors

            self._tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        if last_token:
            _append_token(self._tokenizer, last_token, path)
        self._lowercase = lowercase
        self.max_tokens = max_tokens
        self.vocabulary_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # How many special tokens the post-processor puts before and after the text. Cutting keeps them.
        marked = self._tokenizer.encode("a")
        self._before: int = marked.special_tokens_mask.index(0)
        self._suffix: int = marked.special_tokens_mask[::-1].index(0)

    def encode(self, texts: Sequence[str], prompt: str = "") -> list[TokenIds]:
        """Token ids of ``prompt + text`` for each text, cut at the end to ``max_tokens``; special tokens are kept."""
        encodings = self._tokenizer.encode_batch([self._fold(prompt + text) for text in texts])
        begins = [len(prompt) + len(text) - len(text.lstrip()) for text in texts]
        return [
            self._truncate(encoding.ids, encoding.char_to_token(begin) or self._before)
            for encoding, begin in zip(encodings, begins, strict=True)
        ]

    def render(self, text: str, prompt: str = "") -> str:
        """The text that the ids of ``encode`` stand for: the prompt and the text, cut and lower-cased as there, with
        special tokens by name."""
        whole = self._fold(prompt + text)
        encoding = self._tokenizer.encode_batch([whole])[0]
        return rendered(encoding, [whole], self._kept(len(encoding.ids)))

    def prompt_tokens(self, prompt: str) -> int:
        """How many of a text's first tokens belong to the prompt, special tokens before it included. Counted as in
        sentence-transformers: the tokens of the prompt alone, without a special token after it."""
        return self.count([""], prompt)[0] - min(self._suffix, 1) if prompt else 0

    def count(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """How many tokens each ``prompt + text`` has, uncut, special tokens included."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch([self._fold(prompt + t) for t in texts])]

    def spans(self, text: str) -> TokenSpans:
        """Where the text's tokens lie. Linear in the text."""
        encoding = self._tokenizer.encode_batch([self._fold(text)], add_special_tokens=False)[0]
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
        word_starts = np.ones(len(words), dtype=np.bool_)
        word_starts[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
        return TokenSpans(starts=offsets[:, 0], ends=offsets[:, 1], word_starts=word_starts)

    def _fold(self, text: str) -> str:
        if not self._lowercase:
            return text
        # Lower-casing may change the length ("İ"). Such a character is kept, so offsets stay those of the text.
        lowered = text.lower()
        return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)

    def _truncate(self, ids: list[int], first: int) -> TokenIds:
        excess = max(len(ids) - self.max_tokens, 0)
        if excess:
            ids = [ids[index] for index in self._kept(len(ids))]
        last = len(ids) - self._suffix
        return TokenIds(ids=ids, own=slice(first, last) if first < last else slice(None), truncated_tokens=excess)

    def _kept(self, tokens: int) -> Sequence[int]:
        """Indexes of the tokens that are kept: the first ones, and the special tokens after the text."""
        if tokens <= self.max_tokens:
            return range(tokens)
        return [*range(self.max_tokens - self._suffix), *range(tokens - self._suffix, tokens)]
