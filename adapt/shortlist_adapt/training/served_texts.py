"""Texts as the server's embedder reads them: the same prompts, tokens and passages.

Training tokenises with the server's own code instead of the libraries'. So what a model learns on is what it will be
asked. Immutable after construction; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.training.serving import NOTHING_STATED, Serving
from shortlist_server.domain import OverflowPolicy
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference import passages
from shortlist_server.inference.embedder_layout import EmbedderLayout, read_embedder
from shortlist_server.inference.layout import weight_files
from shortlist_server.inference.loading import default_chunking
from shortlist_server.inference.tokenization import TextTokenizer, TokenSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A text as token ids.

    Attributes:
        ids: with special tokens and the prompt.
        prompt_tokens: how many of the first ids pooling leaves out; 0 for most models.
    """

    ids: list[int]
    prompt_tokens: int = 0


def read_base(folder: Path) -> EmbedderLayout:
    """What the files of the embedder to train say.

    Raises:
        InvalidInput: the server would refuse them, or the model has no transformer to train.
    """
    try:
        found = read_embedder(folder, str(folder))
        weight_files(found.transformer)
    except ModelNotFound as error:
        raise InvalidInput(f"the embedder to train: {error}") from error
    if found.static:
        raise InvalidInput(f"{found.folder} is a table of token vectors, which has no transformer to train")
    return found


class ServedTexts:
    """Tokenises and cuts texts for one embedder.

    Args:
        serving: how the collection uses the embedder. Models that take no instruction ignore it.
    """

    def __init__(self, found: EmbedderLayout, serving: Serving = NOTHING_STATED) -> None:
        self.query_prompt = found.prompts.for_query(serving.instruction)
        self.passage_prompt = found.prompts.passage
        self.chunking = serving.chunking or default_chunking(found)
        self._tokenizer = TextTokenizer(
            found.transformer / "tokenizer.json",
            max_tokens=found.max_tokens,
            lowercase=found.lowercase,
            last_token=found.last_token,
        )
        self._include_prompt = found.pooling.include_prompt

    @property
    def max_tokens(self) -> int:
        """See ``PassageTokenizer``."""
        return self._tokenizer.max_tokens

    def spans(self, text: str) -> TokenSpans:
        """See ``PassageTokenizer``."""
        return self._tokenizer.spans(text)

    def count(self, texts: Sequence[str]) -> list[int]:
        """See ``PassageTokenizer``."""
        return self._tokenizer.count(texts, self.passage_prompt)

    def queries(self, texts: Sequence[str]) -> list[Tokens]:
        """Queries as tokens, with the prompt of queries."""
        return self._tokens(texts, self.query_prompt)

    def passages(self, contents: Sequence[str]) -> list[Tokens]:
        """Passages as tokens, with the prompt of passages."""
        return self._tokens(contents, self.passage_prompt)

    def cut(self, title: str, text: str) -> list[str]:
        """The contents of the passages that the server makes of a document.

        Raises:
            InvalidInput: the passages are too small to hold any text.
        """
        try:
            made = passages.cut(title, text, self.chunking, OverflowPolicy.CHUNK, self)
        except InvalidArgument as error:
            raise InvalidInput(str(error)) from error
        return [piece.content for piece in made.passages]

    def _tokens(self, texts: Sequence[str], prompt: str) -> list[Tokens]:
        left_out = 0 if self._include_prompt else self._tokenizer.prompt_tokens(prompt)
        return [Tokens(ids=one.ids, prompt_tokens=left_out) for one in self._tokenizer.encode(texts, prompt)]
