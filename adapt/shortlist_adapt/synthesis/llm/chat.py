"""What is asked of an LLM, what it answers, and the interface of both kinds: an endpoint, and a model run here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shortlist_adapt.errors import AdaptError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the model.

    Attributes:
        schema: JSON schema of the answer. An endpoint that cannot enforce it is asked without; who asks must check.
        seed: of sampling; the same request gives the same answer where the model keeps its word.
    """

    system: str
    user: str
    schema: Mapping[str, Any]
    max_tokens: int
    temperature: float
    seed: int

    def key(self, model: str) -> str:
        """SHA-256 of the request and of who is asked, in hexadecimal: where the cache keeps the answer."""
        asked = [
            model,
            self.system,
            self.user,
            self.schema,
            self.max_tokens,
            self.temperature,
            self.seed,
        ]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    def bytes(self) -> int:
        """UTF-8 bytes of both parts of the prompt."""
        return len(self.system.encode()) + len(self.user.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model wrote.

    Attributes:
        complete: False where it was cut off at ``max_tokens``.
    """

    text: str
    prompt_tokens: int
    answer_tokens: int
    complete: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and the answer together."""
        return self.prompt_tokens + self.answer_tokens


class Unanswered(Exception):
    """This request got no answer after all retries; another one may. The message gives the last failure."""


class NotTaken(Unanswered):
    """This request will never be answered, for instance because it is too long. The message says why."""


class EndpointRefused(AdaptError):
    """No request will be answered: the address, the key or the model is wrong. The message says which."""


class EndpointFailed(AdaptError):
    """Too many requests in a row got no answer. What was answered is kept: run the step again to go on."""


class ChatModel(Protocol):
    """Answers requests. All calls come from one event loop."""

    @property
    def name(self) -> str:
        """What identifies the model in the cache and in the provenance of queries. Never holds a key."""

    @property
    def parallel(self) -> int:
        """How many requests to send at the same time."""

    async def answer(self, request: Request) -> Answer:
        """The answer to a request.

        Raises:
            Unanswered, NotTaken: not to this one.
            EndpointRefused: to none.
        """

    async def close(self) -> None:
        """Ends connections."""


class Nobody:
    """A model that answers no request: with it, only the cache does. Tells what a run would still cost."""

    def __init__(self, name: str) -> None:
        """``name`` is that of the model whose answers the cache has."""
        self._name = name

    @property
    def name(self) -> str:
        """See ``ChatModel``."""
        return self._name

    @property
    def parallel(self) -> int:
        """See ``ChatModel``."""
        return 1

    async def answer(self, request: Request) -> Answer:
        """Raises ``Unanswered``."""
        raise Unanswered("not in the cache")

    async def close(self) -> None:
        """See ``ChatModel``."""
